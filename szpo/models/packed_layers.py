"""Gradients through 4-bit layers of bitsandbytes, which pack their weights on some CPUs.

No gradient passes a packed weight, and unpacking rounds its scales. So the exact scales are stored
when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def store_scales(model: Any) -> None:
    """Store the exact scales of a model just loaded, so that `allow_gradients` restores it."""
    for layer in _packing(model):
        if not _packed(layer):
            layer.exact_absmax = layer.weight.quant_state.absmax


@contextmanager
def allow_gradients(model: Any) -> Iterator[None]:
    """Let gradients through the model's 4-bit layers inside the block.

    The weights are as they were loaded. Afterwards they may be packed again.
    """
    layers = _packing(model)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        if _packed(layer):
            _unpack(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.support_avx512bf16_for_cpu = True


def _packing(model: Any) -> list[Any]:
    """The layers that pack their weights on this CPU."""
    return [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]


def _packed(layer: Any) -> bool:
    return bool(getattr(layer.weight.quant_state, "packing_format_for_cpu", False))


def _unpack(layer: Any) -> None:
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse as unpacked

    layer.weight.data, state = unpacked(layer.weight.data, layer.weight.quant_state)
    exact = getattr(layer, "exact_absmax", None)
    state.absmax = state.absmax.T.reshape(-1).float() if exact is None else exact
    layer.weight.quant_state = state
