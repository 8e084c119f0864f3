"""Device and dtype of a model, gradients through 4-bit layers, smaller batches for full memory.

Gradients through 4-bit layers of bitsandbytes, which pack their weights on some CPUs. No gradient
passes a packed weight, and unpacking rounds its scales. So the exact scales are stored when the
model is loaded.

A bf16 model on a CPU gets its weights a second time, laid out as the processor multiplies by them.

When memory runs out: log one line, and repeat the work in batches of half the size. The
distribution of samples does not depend on the batch size; their last bits may.
"""

from __future__ import annotations

import gc
import logging
import platform
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szpo import memory
from szpo.errors import ResourceError, UsageError

Dtype: TypeAlias = Literal["fp32", "bf16", "fp16"]

PREFERRED = ("cuda", "mps")
"""Kinds that `choose` takes before the CPU; xpu must be asked for by name."""
GIB = 2**30

T = TypeVar("T")
S = TypeVar("S", bound=np.generic)
_WORDS = ("out of memory", "can't allocate memory")
"""How errors without a class of their own (CPU, MPS) say it."""
CLEARLY: Final = 0.8
"""Share of the seconds in fp32 that bf16 may take at most to be chosen on a CPU."""
LAID_OUT: Final = GIB // 2
"""Bytes of the largest model whose weights are laid out: they are then in memory twice."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A device as torch names it, the dtype of the base weights on it, and why these."""

    device: str
    dtype: Dtype
    reason: str


def counts() -> dict[str, int]:
    """Number of accelerators of each kind that torch finds."""
    kinds = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}
    return {kind: module.device_count() for kind, module in kinds.items()}


def choose(device: str = "auto", dtype: Dtype | Literal["auto"] = "auto") -> Choice:
    """Resolve "auto" on this machine; a device or dtype given by name is kept."""
    counted = counts()
    if device == "auto":
        device, reason = first_of(counted)
    else:
        demand(device)
        reason = "model.device names it"
    if dtype != "auto":
        return Choice(device, dtype, reason)
    usual = usual_dtype(device)
    if device == "cpu" and usual == "fp32":
        reason += ", and this CPU is slow in bf16"
    return Choice(device, usual, reason)


def first_of(counted: Mapping[str, int]) -> tuple[str, str]:
    """Choose the device for these numbers of accelerators, with the reason.

    >>> first_of({"cuda": 2, "mps": 0})
    ('cuda', 'the first of 2 that torch finds')
    >>> first_of({"cuda": 0, "mps": 0})
    ('cpu', 'torch finds no CUDA and no MPS device')
    """
    for kind in PREFERRED:
        if counted.get(kind, 0):
            n = counted[kind]
            return kind, "torch finds one" if n == 1 else f"the first of {n} that torch finds"
    return "cpu", "torch finds no CUDA and no MPS device"


def usual_dtype(device: str) -> Dtype:
    """bf16 where the device is quick in it; else fp16 on MPS and GPUs, fp32 on a CPU."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return "bf16" if cpu_computes_in_bf16() and cpu_is_quicker_in_bf16() else "fp32"
    if kind == "mps":
        return "fp16"
    if kind == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "fp16"
    return "bf16"


def cpu_computes_in_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16: AVX-512-BF16 or AMX, on some ARM.

    Elsewhere torch goes through fp32 or a plain loop: bf16 takes several times as long as fp32.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    else:
        known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and bool(known())


@cache
def cpu_is_quicker_in_bf16() -> bool:
    """Whether a product of 256 rows takes clearly less time here in bf16 than in fp32.

    AVX-512-BF16 without AMX has the instructions, and takes longer. The margin is for a busy
    machine: two commands should choose alike.
    """
    return _product_seconds(torch.bfloat16) < CLEARLY * _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    rows, weights = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    with torch.inference_mode():
        return min(timeit.repeat(lambda: rows @ weights.T, number=1, repeat=5))


def demand(device: str) -> None:
    """Refuse a device that torch does not find on this machine."""
    if not is_here(device):
        raise UsageError(
            f"model.device {device} is not on this machine (torch finds: {list_found()}); choose "
            "one of these (for a run that is resumed: --device)"
        )


def is_here(device: str) -> bool:
    """Whether torch finds this device on this machine."""
    kind, _, number = device.partition(":")
    count = counts().get(kind, 0)
    return kind in ("auto", "cpu") or (count > 0 and number in ("", *map(str, range(count))))


def free_bytes(device: str) -> int:
    """Free memory of a CUDA device, bytes; for any other device that of the machine."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.available_bytes()


def list_found() -> str:
    """All devices that torch finds, as text."""
    return ", ".join(
        ["cpu", *(f"{kind}:{i}" for kind, count in counts().items() for i in range(count))]
    )


def hardware(device: str) -> str | None:
    """Name the model of an accelerator, since each model rounds in its own way; None on a CPU."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    return None if kind == "cpu" else kind


def describe(choice: Choice) -> str:
    """Describe a choice in a line.

    >>> describe(Choice("cpu", "bf16", "torch finds no CUDA and no MPS device"))
    'auto is cpu in bf16: torch finds no CUDA and no MPS device'
    """
    name = choice.device
    if name.startswith("cuda"):
        memory = torch.cuda.get_device_properties(name).total_memory / GIB
        name = f"{name} ({torch.cuda.get_device_name(name)}, {memory:.0f} GiB)"
    return f"auto is {name} in {choice.dtype}: {choice.reason}"


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def retry_halved(work: Callable[[int], T], rows: int) -> T:
    """Return ``work(rows)``; while it runs out of memory, ask again with half as many rows."""
    while True:
        try:
            return work(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            rows = _smaller(rows)
        free_memory()


def lay_out(model: Any) -> None:
    """Keep a bf16 model's weights as oneDNN multiplies by them, for passes without gradients.

    torch lays a matrix out anew in each product, which costs as much as the product with seven
    rows. Products are the same to the last bit, or nothing is laid out.
    """
    layers = [
        m for m in model.modules() if type(m) is nn.Linear and m.weight.dtype == torch.bfloat16
    ]
    size = sum(m.weight.nbytes for m in layers)
    if not 0 < size <= LAID_OUT or not cpu_computes_in_bf16():
        return
    try:
        with torch.no_grad():
            layouts = [torch.ops.mkldnn._reorder_linear_weight(m.weight, None) for m in layers]
            tried = layers[0].weight[:3]
            same = torch.equal(layers[0](tried), _multiply(layers[0], layouts[0], tried))
    except (AttributeError, RuntimeError):  # this torch or this processor has no such product
        return
    for module, layout in zip(layers, layouts, strict=True) if same else ():
        module.forward = partial(_multiply, module, layout)  # type: ignore[method-assign]


def _multiply(module: nn.Linear, layout: Tensor, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not x.numel():
        return nn.functional.linear(x, module.weight, module.bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, layout, module.bias, "none", [], "")
    return product


def split_halved(
    work: Callable[[NDArray[np.int64]], NDArray[S]], rows: NDArray[np.int64]
) -> NDArray[S]:
    """Return ``work(rows)``, one result per row; where memory runs out, the halves one by one."""
    try:
        return work(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        half = _smaller(len(rows))
    free_memory()
    parts = [split_halved(work, rows[:half]), split_halved(work, rows[half:])]
    return np.concatenate(parts)


def free_memory() -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _smaller(rows: int) -> int:
    if rows <= 1:
        raise ResourceError(
            "out of memory with one row in the batch; lower generation.max_new_tokens, shorten "
            "the prompts, or set model.quantization"
        ) from None
    logging.getLogger("szpo").warning(
        f"out of memory with {rows} rows in a batch; going on with {rows // 2}"
    )
    return rows // 2
