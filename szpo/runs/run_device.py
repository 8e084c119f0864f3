"""A run's model and device: chosen when the run is created, the same when it is resumed.

Another kind of device computes other last bits, and so other words and votes. Weights do not
differ: they follow from the recorded updates on any machine (`szpo.replay`).
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
"""Kind of the event that records another device."""


def choose(config: Config) -> Config:
    """Replace ``auto`` in the settings by a model, a device and a dtype.

    They are this machine's, or the workers'. Workers compute on a GPU in bf16 if `engine.gpus`
    gives them one, else on a CPU, assumed to be like this one; their ``auto`` model is smollm2.
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
        wanted: The device that the user chose for the rest of the run, if any.
        driven: The run is to continue; if it is only read, any device will do.
        say: Called with a line if another device is used.
    """
    from szpo.models import devices

    device, hardware = read_device(ledger)
    name = ledger.path.name
    if driven and config.engine.kind == "ray":  # `require_same` checks the workers' device
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


def record_move(ledger: Ledger, facts: ModelFacts) -> None:
    """Record the device that holds the run's model now, if it is another than before."""
    now = (str(facts.device), facts.hardware)
    if now != read_device(ledger):
        body = {"device": now[0], "hardware": now[1]}
        ledger.record_event(DEVICE_CHANGED, "operator", body)


def _set(config: Config, **changes: str) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
