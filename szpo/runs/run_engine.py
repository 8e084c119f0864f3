"""Who holds a run's language model: this process, or the workers of its engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from szpo import plugins
from szpo.config import settings_file
from szpo.config.engine import RAY_ROWS, VLLM_ROWS
from szpo.config.schema import Config
from szpo.errors import SzpoError, UsageError
from szpo.ledger.database import Ledger
from szpo.runs import known_addresses
from szpo.runs.machine_check import Check
from szpo.voting import lease, pauses

if TYPE_CHECKING:
    from szpo.policies.hosts import Host
    from szpo.policies.protocol import Policy

MOVED: Final = "engine"
"""Kind of the event by which a run's workers are elsewhere, or more or fewer."""
PolicyFactory: TypeAlias = "Callable[..., Policy]"
"""What a package registers at `szpo.policies`: a function of ``root_seed``."""
RETRY_S: Final = 5.0
"""How often it is tried whether an engine that is away is back."""
CHANGEABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "local": (),
    "ray": ("address", "workers"),
    "vllm": ("replicas", "adapters", "server_adapters", "key_env", "insecure"),
}
"""What may change by kind of engine when a run is resumed: answers do not depend on it."""
AWAY: Final = (
    "the machines that write the answers cannot be reached; the run continues when they are back"
)


def find_factory(config: Config) -> PolicyFactory | None:
    """Find another package's policy where the model's name is one's; None: a language model.

    Raises:
        UsageError: The settings give it no radius.
    """
    name = config.model.name
    if name not in plugins.names("szpo.policies"):
        return None
    if config.optimizer.mu is None:
        raise UsageError(
            f"policy {name} has no log-probabilities to choose a radius by; set optimizer.mu"
        )
    return cast("PolicyFactory", plugins.load("szpo.policies", name, "policy"))


def hold(config: Config, *, adapter: bool, driven: bool) -> Host:
    """Load a run's model, or have the workers of its engine load it where the run is ``driven``.

    Args:
        config: The run's settings.
        adapter: Read the starting adapter as well, as a new run does.
        driven: The run goes on; for a look at it the model is loaded here.

    Raises:
        UsageError, ResourceError: The model or the engine cannot be had.
        IntegrityError: Two workers hold different models.
    """
    from szpo.policies import language_model

    if driven and config.engine.kind == "ray":
        from szpo.cluster import remote

        return remote.start(config.engine, language_model.describe(config, adapter=adapter))
    host = language_model.load_host(config, adapter=adapter)
    if driven and config.engine.kind == "vllm":
        from szpo.cluster.vllm_engine import ServedHost

        # People take minutes for a step, and what they read is worth a second of rescoring.
        return ServedHost(host.facts, config.engine, each_row=config.panel.kind == "people")
    return host


@contextmanager
def closed_on_error(host: Host) -> Iterator[None]:
    """Let go of the model where the block ends by an error."""
    try:
        yield
    except BaseException:
        host.close()
        raise


def read_settings(ledger: Ledger, wanted: Mapping[str, Any] | None = None) -> Config:
    """The settings of a recorded run that is to be driven; see `restore`.

    Raises:
        UsageError: Its record would have an address called that nobody named here.
    """
    config = settings_file.check_recorded(ledger.spec["config"], where=ledger.path.name)
    config = restore(config, ledger, wanted)
    known_addresses.demand(known_addresses.of_run(config), ledger.path.name)
    return config


def restore(config: Config, ledger: Ledger, wanted: Mapping[str, Any] | None) -> Config:
    """The settings with the engine as the run had it last, changed by what is ``wanted`` now.

    Raises:
        UsageError: A setting is not one of `CHANGEABLE`, or does not fit the run's engine.
    """
    wanted = dict(wanted or {})
    names = CHANGEABLE.get(config.engine.kind) or CHANGEABLE["ray"]
    for name in wanted:
        if name not in names:
            raise UsageError(
                f"engine.{name} stays as the run began with it, since answers depend on it; only "
                f"{' and '.join(f'engine.{each}' for each in names)} can change"
            )
    moved = [event["body"] for event in ledger.events(MOVED)]
    changes = {**(moved[-1] if moved else {}), **wanted}
    known_addresses.name(_addresses(wanted))
    if changes and config.engine.is_local:
        raise UsageError(
            f"engine.{next(iter(changes))} goes with workers; this run has engine.kind "
            f'"{config.engine.kind}"'
        )
    tree = config.model_dump(mode="json")
    tree["engine"] |= changes
    return settings_file.check(tree, where=ledger.path.name) if changes else config


def _addresses(wanted: Mapping[str, Any]) -> list[str]:
    """Those that the user names now; what is none is refused later."""
    replicas = wanted.get("replicas")
    every = [wanted.get("address"), *(replicas if isinstance(replicas, list) else ())]
    return [each for each in every if isinstance(each, str)]


def record_move(ledger: Ledger, config: Config) -> None:
    """Write down where the workers of a resumed run are, where that is new."""
    names = CHANGEABLE.get(config.engine.kind) or CHANGEABLE["ray"]
    now = {name: getattr(config.engine, name) for name in names}
    before = ledger.spec["config"].get("engine", {})
    known = {name: before.get(name, now[name]) for name in names}
    for event in ledger.events(MOVED):
        known = event["body"]
    if now != known:
        ledger.record_event(MOVED, "operator", now)


def is_away(config: Config) -> bool:
    """Whether nobody answers where the settings' workers are looked for."""
    if config.engine.kind == "vllm":
        from szpo.cluster import vllm_engine

        return vllm_engine.unreachable(config.engine) is not None
    if config.engine.kind != "ray":
        return False
    from szpo.cluster import ray_engine

    return ray_engine.unreachable(config.engine) is not None


def leave(config: Config) -> None:
    """Forget a cluster that is gone, so that this process can join one again."""
    if config.engine.kind == "ray":
        from szpo.cluster import ray_engine

        ray_engine.leave()


def note_away(ledger: Ledger) -> None:
    """Pause a run whose engine is gone, so that its operator reads why nothing happens."""
    if lease.controller(ledger)["paused_by"] is None:
        pauses.pause(ledger, MOVED, AWAY)


def note_back(ledger: Ledger) -> None:
    """Let a run that `note_away` paused go on."""
    if lease.controller(ledger)["paused_by"] == MOVED:
        pauses.unpause(ledger, MOVED)


def examine(config: Config, prompt: str = "Write a sentence.") -> Iterator[Check]:
    """Look at the settings' engine: is it there, and what will a step cost there?

    Starts the workers and has each answer a chunk twice; the second time is what counts.
    """
    engine = config.engine
    if engine.kind == "vllm":
        yield from _look_at_servers(config, prompt)
        return
    if engine.kind != "ray":
        yield Check("engine", "ok", f"{engine.kind}: the run's own process holds the model")
        return
    from szpo.runs import run_device

    try:
        host = hold(run_device.choose(config), adapter=False, driven=True)
    except SzpoError as error:
        yield Check("engine", "fail", str(error))
        return
    try:
        where = engine.address or "a cluster of its own on 127.0.0.1"
        yield Check(
            "engine", "ok",
            f"{engine.workers} workers at {where}: {host.facts.name}, {host.facts.dtype} on "
            f"{host.facts.hardware or host.facts.device}, equal models and versions",
        )  # fmt: skip
        yield _price_step(config, host, prompt)
    except SzpoError as error:
        yield Check("engine", "fail", str(error))
    finally:
        host.close()


def _look_at_servers(config: Config, prompt: str) -> Iterator[Check]:
    from szpo.cluster import vllm_engine
    from szpo.cluster.vllm_messages import Decoding
    from szpo.models import context, loading
    from szpo.models.logprobs import vocabulary_size
    from szpo.policies import subspace_cache
    from szpo.runs import run_device

    engine = config.engine
    try:
        vllm_engine.demand(engine)
        chosen = run_device.choose(config).model
        dtype = "fp32" if chosen.dtype == "auto" else chosen.dtype
        facts = context.describe(chosen.name, dtype=dtype)
        decoding = Decoding(
            subspace_cache.sampling_of(config), loading.stop_tokens(facts), vocabulary_size(facts)
        )
        tokens = _encode(config, facts, prompt)
        size = engine.rows or VLLM_ROWS
        seconds, version = vllm_engine.measure_chunk(engine, tokens, decoding, size)
    except SzpoError as error:
        yield Check("engine", "fail", str(error))
        return
    urls = engine.replicas or []
    yield Check(
        "engine", "ok",
        f"vLLM {version} at {', '.join(urls)}; model, adapters and seeds are looked at when a run "
        "begins",
    )  # fmt: skip
    yield Check("a step there", "ok", _describe_step(config, size, len(urls), seconds))


def _encode(config: Config, facts: Any, prompt: str) -> tuple[int, ...]:
    from szpo.models import loading
    from szpo.types import Prompt

    return tuple(loading.encode(facts.tokenizer, Prompt.user(prompt, config.prompts.system)))


def _rows_and_chunks(config: Config, size: int) -> tuple[int, int]:
    """Rows that a step asks for, and the chunks of this size that they make."""
    o = config.optimizer
    rows = 2 * o.directions * o.comparisons * o.rows
    return rows, math.ceil(rows / size)


def _describe_step(config: Config, size: int, places: int, seconds: float) -> str:
    """Rows, chunks and seconds of a step, from rows and seconds of a chunk."""
    rows, chunks = _rows_and_chunks(config, size)
    return (
        f"{rows} rows in {chunks} chunks of {size}, about "
        f"{math.ceil(chunks / places) * seconds:.1f} s ({seconds:.2f} s a chunk, measured with "
        "the base model)"
    )


def _price_step(config: Config, host: Host, prompt: str) -> Check:
    import numpy as np

    from szpo.generation.sampling import Sampling
    from szpo.policies import requests
    from szpo.policies.requests import AnswerRequest

    g, size = config.generation, config.engine.rows or RAY_ROWS
    tokens = _encode(config, host.facts, prompt)
    _, answerer = host.beside(host.facts.name)
    count = size * config.engine.workers

    def ask() -> tuple[float, AnswerRequest, requests.Tokens]:
        table = np.array([(0, 0, 0, i) for i in range(count)], np.int64)
        sampling = Sampling(g.temperature, g.top_p, g.top_k, g.max_new_tokens)
        request = AnswerRequest({}, (), (tokens,), (bytes(16),), table, sampling)
        began = time.monotonic()
        answers = answerer.answer(request)
        return time.monotonic() - began, request, answers

    ask()
    seconds, request, answers = ask()
    (_, first), *_ = request.split(size)
    sent = requests.message_bytes(first.to_message())
    back = requests.tokens_to_array(answers[:size]).nbytes
    kib = _rows_and_chunks(config, size)[1] * (sent + back) / 1024
    step = _describe_step(config, size, config.engine.workers, seconds)
    return Check("a step there", "ok", f"{step} and {kib:.0f} KiB beside the prompts")
