"""Which model a run has and where it computes: chosen when it is created, the same when resumed.

Answers of another kind of device differ in their last bits, and so in words and votes. Weights
do not: they follow from the recorded updates on any machine (`szpo.replay`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from szpo.config import model_table
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Say

if TYPE_CHECKING:
    from szpo.models.loading import ModelFacts

DEVICE_CHANGED = "device"
"""Kind of the event by which a run goes on elsewhere."""


def choose(config: Config) -> Config:
    """Replace ``auto`` in the settings by a model, a device and a dtype.

    They are this machine's, or the workers'. Workers compute on a GPU in bf16 where `engine.gpus`
    gives them one, else on a CPU, taken to be like this one; the model that ``auto`` stands for
    there is smollm2.

    Raises:
        UsageError: the device or the engine that they name is not to be had.
    """
    from szpo.models import devices

    if config.engine.kind == "ray":
        from szpo.cluster import ray_engine

        ray_engine.demand(config.engine)
        m, usual = config.model, "cuda" if config.engine.gpus else "cpu"
        dtype = "bf16" if config.engine.gpus else devices.usual_dtype(usual)
        return _set(
            config,
            name=model_table.SHIPPED.name if m.name == model_table.AUTO else m.name,
            device=usual if m.device == "auto" else m.device,
            dtype=dtype if m.dtype == "auto" else m.dtype,
        )
    if config.engine.kind == "vllm":
        from szpo.cluster import vllm_engine

        vllm_engine.demand(config.engine)
    chosen = devices.choose(config.model.device, config.model.dtype)
    name = config.model.name
    if name == model_table.AUTO:
        free = devices.free_bytes(chosen.device) / 2**30
        if config.engine.kind != "local" or config.model.adapter is not None:
            free = 0.0  # the servers' model, or the adapter's, is not known here
        name = model_table.name_auto(
            name,
            free,
            accelerator=chosen.device != "cpu",
            number_bytes=model_table.NUMBER_BYTES[chosen.dtype],
        )
    return _set(config, name=name, device=chosen.device, dtype=chosen.dtype)


def restore(
    config: Config, ledger: Ledger, *, wanted: str | None, driven: bool, say: Say
) -> Config:
    """The settings with the device on which a recorded run's model computes now.

    Args:
        config: The run's recorded settings.
        ledger: The run.
        wanted: A device that somebody chose for the rest of the run.
        driven: The run goes on. Where it does not, any device will do.
        say: Called with a line where the device is another one.

    Raises:
        UsageError: the run's device is not on this machine, or is of another model there.
    """
    from szpo.models import devices

    device, hardware = read_device(ledger)
    name = ledger.path.name
    if driven and config.engine.kind == "ray":  # the workers show what they compute on
        usual = "cuda" if config.engine.gpus else "cpu"
        if wanted not in (None, "auto", usual):
            raise UsageError(f"--device {wanted}: the workers of {name} compute on {usual}")
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


def require_same(ledger: Ledger, facts: ModelFacts, *, wanted: str | None) -> None:
    """Refuse workers with another model of GPU than the run had; see `restore`.

    Raises:
        UsageError: it is another one, and nobody ``wanted`` to go on there.
    """
    device, hardware = read_device(ledger)
    if wanted is None and hardware is not None and facts.hardware != hardware:
        raise UsageError(
            f"{ledger.path.name} runs on {hardware}; its workers have {facts.hardware}, and "
            f"answers differ there; resume it on {hardware}, or accept that with --device {device}"
        )


def read_device(ledger: Ledger) -> tuple[str, str | None]:
    """The device on which a run computed last, and its model where that was noted."""
    for event in reversed(list(ledger.events(DEVICE_CHANGED))):
        return event["body"]["device"], event["body"]["hardware"]
    base: dict[str, Any] = ledger.spec.get("base") or {}
    # Runs without the setting are older than it, and ran on the CPU.
    return ledger.spec["config"]["model"].get("device", "cpu"), base.get("hardware")


def record_move(ledger: Ledger, facts: ModelFacts) -> None:
    """Write down that a run goes on, on the device that holds its model, where that is new."""
    now = (str(facts.device), facts.hardware)
    if now != read_device(ledger):
        body = {"device": now[0], "hardware": now[1]}
        ledger.record_event(DEVICE_CHANGED, "operator", body)


def _set(config: Config, **changes: str) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
