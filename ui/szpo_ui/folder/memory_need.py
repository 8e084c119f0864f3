"""Whether one more model fits into this machine's memory, from what lies on disk; loads none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from szpo import cache, memory
from szpo.config import model_table
from szpo.config.schema import Config
from szpo.errors import ResourceError

GIB: Final = 2**30
PROCESS: Final = 700 * 2**20
"""Python with torch and transformers, without a model, bytes."""
WORKING: Final = 1.0
"""Memory beside the weights while answers are written, as a multiple of them in fp32."""
STORED: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
KNOWN: Final = {"smollm2": 134_515_008, "tiny": 1_000_000}
"""Parameters of the models that szpo names itself."""


def estimate(config: Config) -> int | None:
    """Bytes that the process of a run will take; None where its model is not on this machine yet.

    A model on a GPU, on workers or on servers takes no memory here.
    """
    if not config.engine.is_local or not config.model.device.startswith(("cpu", "auto")):
        return PROCESS
    free_gib = memory.available_bytes() / GIB
    # The process that loads the model says what auto is; until then, the most that it can be.
    number = model_table.NUMBER_BYTES.get(
        config.model.dtype, max(model_table.NUMBER_BYTES.values())
    )
    name = model_table.name_auto(
        config.model.name, free_gib, accelerator=False, number_bytes=number
    )
    parameters = _parameters(name)
    if parameters is None:
        return None
    each = 0.6 if config.model.quantization else number
    return round(PROCESS + parameters * (each + 4 * WORKING))


def _parameters(name: str) -> int | None:
    """Numbers in the weights of a model, from the sizes of its files."""
    if name in KNOWN:
        return KNOWN[name]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        found = cache.hub_copy(name)
        if found is None:
            return None
        folder = found
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = {}
    stored = str(described.get("dtype") or described.get("torch_dtype") or "float32")
    return size // STORED.get(stored, 4) or None


def refuse_unless_it_fits(name: str, need: int | None, set_aside: int) -> None:
    """Refuse to start one more model where its process would not fit beside the others.

    Args:
        name: the run's.
        need: bytes, by `estimate`; None is not refused.
        set_aside: bytes that processes already started will still take.

    Raises:
        ResourceError: it does not fit; the line has both figures.
    """
    free = memory.available_bytes() - set_aside
    if need is None or need <= free:
        return
    aside = f", {_gib(set_aside)} set aside for runs that are starting" if set_aside else ""
    raise ResourceError(
        f"{name} needs about {_gib(need)} of memory, and {_gib(max(0, free))} are free{aside}; "
        "stop another run's model first"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
