"""Where a run's language model is loaded: in this process, or on the workers of its engine."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from szpo import plugins
from szpo.config import settings_file
from szpo.config.engine import RAY_ROWS, VLLM_ROWS
from szpo.config.schema import Config
from szpo.errors import SzpoError, UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.runs import cost_plan, known_addresses
from szpo.runs.machine_check import Check
from szpo.voting import lease, pauses

if TYPE_CHECKING:
    from szpo.models.loading import ModelFacts
    from szpo.policies.backend import Backend
    from szpo.policies.protocol import Policy

ENGINE_CHANGED: Final = "engine"
"""Event kind: the run's workers changed."""
PolicyFactory: TypeAlias = "Callable[..., Policy]"
"""A function of ``root_seed`` that another package registers at `szpo.policies`."""
RETRY_S: Final = 5.0
"""Seconds between two tries to reach an engine that is away."""
CHANGEABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "local": (),
    "ray": ("address", "workers", "insecure_hosts"),
    "vllm": ("replicas", "adapters", "insecure_hosts"),
}
"""By kind of engine: settings that may change at resuming, since answers do not depend on them."""
AWAY: Final = (
    "the machines that write the answers cannot be reached; the run continues when they are back"
)


def find_factory(config: Config) -> PolicyFactory | None:
    """Find another package's policy by the model's name; None: it is a language model."""
    name = config.model.name
    if name not in plugins.names("szpo.policies"):
        return None
    if config.optimizer.mu is None:
        raise UsageError(
            f"policy {name} has no log-probabilities to choose a radius by; set optimizer.mu"
        )
    return cast("PolicyFactory", plugins.load("szpo.policies", name, "policy"))


def load_host(config: Config, *, adapter: bool, driven: bool) -> Backend:
    """Load a run's model; if the run is ``driven``, on the workers of its engine.

    Args:
        config: The run's settings.
        adapter: Also read the starting adapter, as for a new run.
        driven: The run is to continue; else the model is loaded in this process.
    """
    from szpo.policies import language_model

    if driven and config.engine.kind == "ray":
        from szpo.cluster import remote

        return remote.start(config.engine, language_model.describe(config, adapter=adapter))
    host = language_model.load_host(config, adapter=adapter)
    if driven and config.engine.kind == "vllm":
        from szpo.cluster.vllm_engine import VllmBackend

        # People take minutes for a step, so a second to rescore each row does not matter.
        return VllmBackend(host.facts, config.engine, each_row=config.panel.kind == "people")
    return host


@contextlib.contextmanager
def closed_on_error(host: Backend) -> Iterator[None]:
    """Release the model if the block raises."""
    try:
        yield
    except BaseException:
        host.close()
        raise


def read_settings(ledger: Ledger, wanted: Mapping[str, Any] | None = None) -> Config:
    """The settings of a recorded run that is to be driven; see `restore`."""
    config = settings_file.check(run_spec.recorded_tables(ledger.spec), where=ledger.path.name)
    config = restore(config, ledger, wanted)
    known_addresses.require_trusted(known_addresses.calls_of_run(config), ledger.path.name)
    return config


def restore(config: Config, ledger: Ledger, wanted: Mapping[str, Any] | None) -> Config:
    """The settings with the run's last engine settings, changed by the ``wanted`` ones."""
    wanted = dict(wanted or {})
    if wanted and config.engine.is_local:
        raise UsageError(
            f"engine.{next(iter(wanted))} goes with workers; this run has engine.kind "
            f'"{config.engine.kind}": leave it out'
        )
    names = CHANGEABLE.get(config.engine.kind) or CHANGEABLE["ray"]
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"engine.{name} stays as the run began with it, since answers depend on it; "
                f"{', '.join(f'engine.{each}' for each in names)} can change"
            )
    moved = [event["body"] for event in ledger.events(ENGINE_CHANGED)]
    changes = {**(moved[-1] if moved else {}), **wanted}
    known_addresses.trust(_addresses(wanted))
    tree = config.model_dump(mode="json")
    tree["engine"] |= changes
    return settings_file.check(tree, where=ledger.path.name) if changes else config


def _addresses(wanted: Mapping[str, Any]) -> list[str]:
    """Addresses that the user names now; values of a wrong type are refused later."""
    replicas = wanted.get("replicas")
    every = [wanted.get("address"), *(replicas if isinstance(replicas, list) else ())]
    return [each for each in every if isinstance(each, str)]


def record_move(ledger: Ledger, config: Config) -> None:
    """Record a resumed run's engine settings that may change, if they did."""
    names = CHANGEABLE.get(config.engine.kind) or CHANGEABLE["ray"]
    now = {name: getattr(config.engine, name) for name in names}
    before = ledger.spec["config"].get("engine", {})
    known = {name: before.get(name, now[name]) for name in names}
    for event in ledger.events(ENGINE_CHANGED):
        known = event["body"]
    if now != known:
        ledger.record_event(ENGINE_CHANGED, "operator", now)


def is_away(config: Config) -> bool:
    """Whether the settings' workers or servers cannot be reached."""
    if config.engine.kind == "vllm":
        from szpo.cluster import vllm_engine

        return vllm_engine.unreachable(config.engine) is not None
    if config.engine.kind != "ray":
        return False
    from szpo.cluster import ray_engine

    return ray_engine.unreachable(config.engine) is not None


def leave(config: Config) -> None:
    """Leave a cluster that is gone, so that this process can join one again."""
    if config.engine.kind == "ray":
        from szpo.cluster import ray_engine

        ray_engine.leave()


def note_away(ledger: Ledger) -> None:
    """Pause a run whose engine is away; the operator sees the reason."""
    if lease.controller(ledger)["paused_by"] is None:
        pauses.pause(ledger, ENGINE_CHANGED, AWAY)


def note_back(ledger: Ledger) -> None:
    """Unpause a run that `note_away` paused."""
    if lease.controller(ledger)["paused_by"] == ENGINE_CHANGED:
        pauses.unpause(ledger, ENGINE_CHANGED)


def examine(config: Config, prompt: str = "Write a sentence.") -> Iterator[Check]:
    """Check that the settings' engine can be reached, and measure what a step costs there.

    Workers or servers answer a chunk each, twice; the second time is the measured one.
    """
    engine = config.engine
    if engine.is_local:
        yield Check("engine", "ok", f"{engine.kind}: the run's own process holds the model")
        return
    ask = _ask_servers if engine.kind == "vllm" else _ask_workers
    try:
        what, size, places, chunk_s = ask(config, prompt)
    except SzpoError as error:
        yield Check("engine", "fail", str(error))
        return
    rows = cost_plan.step_answers(config)
    chunks = math.ceil(rows / size)
    seconds = math.ceil(chunks / places) * chunk_s
    step = (
        f"{rows} rows in {chunks} chunks of {size}, about {seconds:.1f} s "
        f"({chunk_s:.2f} s a chunk, measured with the base model)"
    )
    yield Check("engine", "ok", what)
    yield Check("a step there", "ok", step)


_Measured: TypeAlias = tuple[str, int, int, float]
"""What an engine is, the rows of a chunk, its workers or servers, and the seconds in which all of
them answer a chunk each."""


def _ask_servers(config: Config, prompt: str) -> _Measured:
    from szpo.cluster import vllm_engine
    from szpo.cluster.vllm_messages import Decoding
    from szpo.models import context, loading
    from szpo.models.logprobs import vocabulary_size
    from szpo.policies import subspace_cache
    from szpo.runs import run_device

    engine = config.engine
    vllm_engine.demand(engine)
    chosen = run_device.choose(config).model
    dtype = "fp32" if chosen.dtype == "auto" else chosen.dtype
    facts = context.describe(chosen.name, dtype=dtype)
    decoding = Decoding(
        subspace_cache.sampling_of(config), loading.stop_tokens(facts), vocabulary_size(facts)
    )
    size, urls = engine.rows or VLLM_ROWS, engine.replicas or []
    seconds, version = vllm_engine.measure_chunk(
        engine, _encode(config, facts, prompt), decoding, size
    )
    return (
        f"vLLM {version} at {', '.join(urls)}; model, adapters and seeds are looked at when a run "
        "begins",
        size, len(urls), seconds,
    )  # fmt: skip


def _ask_workers(config: Config, prompt: str) -> _Measured:
    import numpy as np

    from szpo.policies import requests, subspace_cache
    from szpo.runs import run_device

    engine, size = config.engine, config.engine.rows or RAY_ROWS
    host = load_host(run_device.choose(config), adapter=False, driven=True)
    with contextlib.closing(host):
        asked = host.beside(host.facts.name)
        facts = asked.facts
        table = np.array([(0, 0, 0, i) for i in range(size * engine.workers)], np.int64)
        request = requests.AnswerRequest(
            {}, (), (_encode(config, facts, prompt),), (bytes(16),), table,
            replace(subspace_cache.sampling_of(config), stop=()),
        )  # fmt: skip
        asked.answer(request)
        began = time.monotonic()
        asked.answer(request)
        seconds = time.monotonic() - began
    where = engine.address or "a cluster of its own on 127.0.0.1"
    return (
        f"{engine.workers} workers at {where}: {facts.name}, {facts.dtype} on "
        f"{facts.hardware or facts.device}, equal models and versions",
        size, engine.workers, seconds,
    )  # fmt: skip


def _encode(config: Config, facts: ModelFacts, prompt: str) -> tuple[int, ...]:
    from szpo.models import loading
    from szpo.types import Prompt

    return loading.encode(facts.tokenizer, Prompt.user(prompt, config.prompts.system))
