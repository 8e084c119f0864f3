"""Which device "auto" is, and the numbers that go with it."""

from __future__ import annotations

import platform

import pytest
import torch

from szpo.errors import UsageError
from szpo.models import devices


def pretend(monkeypatch: pytest.MonkeyPatch, **found: int) -> None:
    for kind in ("cuda", "mps", "xpu"):
        count = found.get(kind, 0)
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda count=count: count)


@pytest.mark.parametrize(
    ("found", "capability", "fast", "device", "dtype"),
    [
        ({}, None, True, "cpu", "bf16"),
        ({}, None, False, "cpu", "fp32"),
        ({"mps": 1}, None, False, "mps", "fp16"),
        ({"cuda": 1}, (9, 0), False, "cuda", "bf16"),
        ({"cuda": 2, "mps": 1}, (7, 5), True, "cuda", "fp16"),
        ({"xpu": 1}, None, True, "cpu", "bf16"),
    ],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(
    monkeypatch, found, capability, fast, device, dtype
):
    pretend(monkeypatch, **found)
    monkeypatch.setattr(devices, "cpu_computes_in_bf16", lambda: fast)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    chosen = devices.choose()
    assert (chosen.device, chosen.dtype) == (device, dtype)


def test_bf16_is_taken_on_x86_with_avx_512_only():
    """Elsewhere torch multiplies bf16 in a plain loop, several times as slowly as fp32."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("AVX512", "AVX2", "DEFAULT") and platform.machine() in ("x86_64", "AMD64"):
        assert devices.cpu_computes_in_bf16() == (capability == "AVX512")


def test_what_is_named_is_taken_as_it_stands(monkeypatch):
    pretend(monkeypatch, cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert devices.choose("cpu", "fp32").device == "cpu"
    assert devices.choose("cuda:0", "fp32").dtype == "fp32"
    with pytest.raises(UsageError, match=r"cuda:1 is not on this machine \(torch finds: cpu, cu"):
        devices.choose("cuda:1")
