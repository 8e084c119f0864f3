"""Where a run's language model is loaded: its device, this process, or workers.

A run's model and device: chosen when the run is created, the same when it is resumed. Another kind
of device computes other last bits, and so other words and votes. Weights do not differ: they
follow from the recorded updates on any machine (`szpo.replay`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from szpo import plugins
from szpo.config import auto_model, settings_file
from szpo.config.schema import Config
from szpo.config.tables import Engine
from szpo.errors import SzpoError, UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.models import adapters, named_models, weight_files
from szpo.runs import budget, known_addresses
from szpo.runs.doctor import Check
from szpo.types import Prompt, Say
from szpo.voting import lease, pauses

if TYPE_CHECKING:
    from szpo.models.loading import ModelFacts
    from szpo.policies.backend import Backend
    from szpo.policies.protocol import Policy


DEVICE_CHANGED = "device"
"""Kind of the event that records another device."""

ENGINE_CHANGED: Final = "engine"
"""Event kind: the run's workers changed."""
PolicyFactory: TypeAlias = "Callable[..., Policy]"
"""A function of ``root_seed`` that another package registers at `szpo.policies`."""
RETRY_S: Final = 5.0
"""Seconds between two tries to reach an engine that is away."""
AWAY: Final = (
    "the machines that write the answers cannot be reached; the run continues when they are back"
)


def check_files(config: Config) -> None:
    """Refuse a missing model or adapter before a tensor library is loaded.

    Models that ship are made when their prompts are read. Workers look for weights on their own
    machines.
    """
    name = config.model.name
    if config.model.adapter is not None:
        adapters.read_adapter(Path(config.model.adapter))
    places = adapters.find(config.subspace.adapters) if config.coordinates == "adapters" else ()
    if name == auto_model.AUTO or (name in named_models.NAMED and not places):
        return
    base = named_models.locate(name, weights=False)
    for place in places:
        adapters.read(place, name, base)
    if not (config.engine.traits.holds_model or named_models.is_hub_id(name)):
        weight_files.safetensors_in(base)


def choose_device(config: Config) -> Config:
    """Replace ``auto`` in the settings by a model, a device and a dtype.

    They are this machine's, or the workers'. Workers compute on a GPU in bf16 if `model.device`
    says so, else on a CPU, assumed to be like this one; their ``auto`` model is smollm2.
    """
    from szpo.models import devices

    if not config.engine.is_local:
        _module(config.engine).demand(config.engine)
    if config.engine.traits.holds_model:
        m = config.model
        usual = "cpu" if m.device == "auto" else m.device
        dtype = "bf16" if usual.startswith("cuda") else devices.usual_dtype(usual)
        return _set(
            config,
            name=auto_model.SHIPPED.name if m.name == auto_model.AUTO else m.name,
            device=usual,
            dtype=dtype if m.dtype == "auto" else m.dtype,
        )
    chosen = devices.choose(config.model.device, config.model.dtype)
    name = config.model.name
    if name == auto_model.AUTO:
        free = devices.free_bytes(chosen.device) / 2**30
        if config.engine.kind != "local" or config.model.adapter is not None:
            free = 0.0  # the servers' model, or the adapter's, is not known here
        name = auto_model.name_auto(
            name,
            free,
            accelerator=chosen.device != "cpu",
            number_bytes=auto_model.NUMBER_BYTES[chosen.dtype],
        )
    return _set(config, name=name, device=chosen.device, dtype=chosen.dtype)


def restore_device(
    config: Config, ledger: Ledger, *, wanted: str | None, driven: bool, say: Say
) -> Config:
    """The settings with the device on which a recorded run's model computes now.

    ``wanted``: what the user chose for the rest of the run. A run that is not ``driven`` is only
    read, so any device will do.
    """
    from szpo.models import devices

    device, hardware = read_device(ledger)
    name = ledger.path.name
    if driven and config.engine.traits.holds_model:  # `require_same_device` checks theirs
        if wanted not in (None, "auto", device):
            raise UsageError(f"--device {wanted}: the workers of {name} compute on {device}")
        return _set(config, device=device)
    if wanted is not None:
        return _set(config, device=devices.choose(wanted).device)
    if not devices.is_here(device):
        if driven:
            raise UsageError(
                f"{name} runs on {device}, which is not on this machine (torch finds: "
                f"{devices.list_found()}), and answers differ elsewhere; resume it there, or "
                "name one of these with --device"
            )
        found = devices.choose().device
        say(f"{name} runs on {device}, which is not here; its model is loaded on {found}")
        return _set(config, device=found)
    here = devices.hardware(device)
    if driven and hardware is not None and here != hardware:
        raise UsageError(
            f"{name} runs on {hardware}; {device} is {here} here, and answers differ there; "
            f"resume it on {hardware}, or accept that with --device {device}"
        )
    return _set(config, device=device)


def require_same_device(ledger: Ledger, facts: ModelFacts, *, wanted: str | None) -> None:
    """Refuse workers with another model of GPU than the run had; see `restore`."""
    device, hardware = read_device(ledger)
    if wanted is None and hardware is not None and facts.hardware != hardware:
        raise UsageError(
            f"{ledger.path.name} runs on {hardware}; its workers have {facts.hardware}, and "
            f"answers differ there; resume it on {hardware}, or accept that with --device {device}"
        )


def read_device(ledger: Ledger) -> tuple[str, str | None]:
    """The device on which a run computed last, and its GPU model if that was recorded."""
    for event in reversed(list(ledger.events(DEVICE_CHANGED))):
        return event["body"]["device"], event["body"]["hardware"]
    base: dict[str, Any] = ledger.spec.get("base") or {}
    return ledger.spec["config"]["model"]["device"], base.get("hardware")


def record_device_move(ledger: Ledger, facts: ModelFacts) -> None:
    """Record the device that holds the run's model now, if it is another than before."""
    now = (str(facts.device), facts.hardware)
    if now != read_device(ledger):
        body = {"device": now[0], "hardware": now[1]}
        ledger.record_event(DEVICE_CHANGED, "operator", body)


def _set(config: Config, **changes: str) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def _module(engine: Engine) -> ModuleType:
    """The module of an engine that is not local; see `EngineKind.module`."""
    return import_module(engine.traits.module)


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

    ``adapter``: also read the starting adapter, as for a new run. ``driven``: the run is to
    continue; else the model is loaded in this process.
    """
    from szpo.policies import language_model

    if driven and not config.engine.is_local:
        return cast("Backend", _module(config.engine).load(config, adapter=adapter))
    return language_model.load_host(config, adapter=adapter)


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
    config = restore_engine(run_spec.recorded_config(ledger) or Config(), ledger, wanted)
    known_addresses.require_trusted(known_addresses.calls_of_run(config), ledger.path.name)
    return config


def restore_engine(config: Config, ledger: Ledger, wanted: Mapping[str, Any] | None) -> Config:
    """The settings with the run's last engine settings, changed by the ``wanted`` ones."""
    wanted = dict(wanted or {})
    if wanted and config.engine.is_local:
        raise UsageError(
            f"engine.{next(iter(wanted))} goes with workers; this run has engine.kind "
            f'"{config.engine.kind}": leave it out'
        )
    names = config.engine.traits.own
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
    named = wanted.get("address")
    return [
        each for each in (named if isinstance(named, list) else [named]) if isinstance(each, str)
    ]


def record_engine_move(ledger: Ledger, config: Config) -> None:
    """Record a resumed run's engine settings that may change, if they did."""
    names = config.engine.traits.own
    now = {name: getattr(config.engine, name) for name in names}
    before = ledger.spec["config"].get("engine", {})
    known = {name: before.get(name, now[name]) for name in names}
    for event in ledger.events(ENGINE_CHANGED):
        known = event["body"]
    if now != known:
        ledger.record_event(ENGINE_CHANGED, "operator", now)


def is_away(config: Config) -> bool:
    """Whether the settings' workers or servers cannot be reached."""
    engine = config.engine
    return not engine.is_local and _module(engine).unreachable(engine) is not None


def leave(config: Config) -> None:
    """Leave a cluster that is gone, so that this process can join one again."""
    if not config.engine.is_local:
        _module(config.engine).leave()


def note_away(ledger: Ledger) -> None:
    """Pause a run whose engine is away; the operator sees the reason."""
    if not lease.is_paused(ledger):
        pauses.pause(ledger, ENGINE_CHANGED, AWAY)


def note_back(ledger: Ledger) -> None:
    """Unpause a run that `note_away` paused."""
    if lease.controller(ledger)["paused_by"] == ENGINE_CHANGED:
        pauses.unpause(ledger, ENGINE_CHANGED)


def examine_engine(config: Config, prompt: str = "Write a sentence.") -> Iterator[Check]:
    """Check that the settings' engine can be reached, and measure what a step costs there.

    Workers or servers answer a chunk each, twice; the second time is the measured one.
    """
    engine = config.engine
    if engine.is_local:
        yield Check("engine", "ok", f"{engine.kind}: the run's own process holds the model")
        return
    try:
        config = choose_device(config)  # looks whether the engine is there
        asked = Prompt.user(prompt, config.prompts.system)
        what, places, chunk_s = _module(config.engine).measure(config, asked)
    except SzpoError as error:
        yield Check("engine", "fail", str(error))
        return
    rows, size = budget.step_answers(config), engine.rows or 1
    chunks = math.ceil(rows / size)
    seconds = math.ceil(chunks / places) * chunk_s
    step = (
        f"{rows} rows in {chunks} chunks of {size}, about {seconds:.1f} s "
        f"({chunk_s:.2f} s a chunk, measured with the base model)"
    )
    yield Check("engine", "ok", what)
    yield Check("a step there", "ok", step)
