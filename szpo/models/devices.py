"""Device and dtype of a model: what is here, what was asked for, and which is the quickest."""

from __future__ import annotations

import platform
import timeit
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias

import torch

from szpo import memory
from szpo.errors import UsageError

Dtype: TypeAlias = Literal["fp32", "bf16", "fp16"]

PREFERRED = ("cuda", "mps")
"""Kinds that `choose` takes before the CPU; xpu must be asked for by name."""
GIB = 2**30

CLEARLY: Final = 0.8
"""Share of the seconds in fp32 that bf16 may take at most to be chosen on a CPU."""


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
