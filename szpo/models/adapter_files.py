"""LoRA factors as files: a PEFT adapter folder, or a model with the adapter merged in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from szpo.errors import StorageError, UsageError
from szpo.models import peft_format
from szpo.models.loading import Adapter, Loaded
from szpo.models.lora_sites import Site
from szpo.models.weight_files import list_first
from szpo.types import Theta


def save_adapter(
    path: Path, factors: Theta, sites: tuple[Site, ...], *, base: str, conv1d: bool = False,
    half: bool = False,
) -> None:  # fmt: skip
    """Write a folder that ``PeftModel.from_pretrained`` loads.

    Args:
        path: The folder; created if it is missing.
        factors: A and B by ``site.a`` and ``site.b``, fp32.
        sites: What they adapt.
        base: Name of the base model, for the record.
        conv1d: The adapted layers are GPT-2's transposed ``Conv1D``.
        half: Write fp16, for factors that it holds exactly.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in peft_format.peft_files(
            factors, sites, base=base, conv1d=conv1d, half=half
        ).items():
            (path / name).write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def factors(adapter: Adapter, sites: Sequence[Site]) -> Theta:
    """A and B of an adapter that was read from its folder, by ``site.a`` and ``site.b``."""
    found, keys = {}, set()
    for site in sites:
        for name, letter in ((site.a, "A"), (site.b, "B")):
            key = f"base_model.model.{site.name}.lora_{letter}.weight"
            if key not in adapter.tensors:
                raise UsageError(f"the adapter has no tensor {key}; it does not fit this model")
            found[name] = adapter.tensors[key]
            keys.add(key)
    if others := [key for key in adapter.tensors if key not in keys]:
        raise UsageError(
            f"adapter {adapter.path}: {len(others)} of its tensors are of layers that this model "
            f"lacks or its adapter_config.json does not name: {list_first(others)}; give the "
            "adapter's own base, and the file that belongs to it"
        )
    return found


def merged_state(loaded: Loaded, factors: Theta, sites: tuple[Site, ...]) -> dict[str, Any]:
    """The model's tensors with W + scale · B A in place of W, computed in fp32, rounded once."""
    if loaded.quantization is not None:
        raise UsageError(
            "nothing can be merged into a 4-bit model; load the adapter beside it (no --merged)"
        )
    state = dict(loaded.model.state_dict())
    for site in sites:
        key = f"{site.name}.weight"
        weight = state[key]
        update = torch.from_numpy(delta_weight(factors, site)).to(weight.device)
        if weight.shape != update.shape or is_conv1d(loaded.model, site):
            update = update.T  # Conv1D keeps (in, out)
        state[key] = (weight.to(torch.float32) + update).to(weight.dtype)
    return state


def delta_weight(factors: Theta, site: Site) -> NDArray[np.float32]:
    """What the adapter adds to a weight, (out, in): scale · B A."""
    product = factors[site.b].astype(np.float64) @ factors[site.a].astype(np.float64)
    return np.asarray(site.scale * product, dtype=np.float32)


def is_conv1d(model: Any, site: Site) -> bool:
    """The site is one of GPT-2's layers that keep their weight transposed."""
    return type(model.get_submodule(site.name)).__name__ == "Conv1D"


def save_merged(path: Path, loaded: Loaded, factors: Theta, sites: tuple[Site, ...]) -> None:
    """Write the merged model and its tokenizer as a plain folder of safetensors."""
    state = merged_state(loaded, factors, sites)
    try:
        path.mkdir(parents=True, exist_ok=True)
        loaded.model.save_pretrained(str(path), state_dict=state)
        loaded.tokenizer.save_pretrained(str(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
