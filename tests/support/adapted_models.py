"""Tiny models with adapters, and prompts for them."""

from typing import Any

import numpy as np
import torch
from peft import LoraConfig

from szpo.models.batched_lora import Deltas, find_sites
from szpo.models.lora import Site
from tests.support.tiny_models import TARGETS, WORDS, build

HEAD = list(range(40, 70))


def adapted(
    name: str, layers: list[int] | None = None, members: int = 3
) -> tuple[Any, tuple[Site, ...], Deltas]:
    model = build(name)
    targets = list(TARGETS.get(name, ("q_proj", "down_proj")))
    sites = find_sites(model, LoraConfig(r=2, target_modules=targets, layers_to_transform=layers))
    g = torch.Generator().manual_seed(1)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=g) / s.inputs**0.5 for s in sites}
    B = {s.name: torch.randn(members, s.outputs, s.rank, generator=g) * 0.3 for s in sites}
    return model, sites, Deltas(A, B)


def questions(count: int, repeats: int, members: int) -> tuple[list[list[int]], list[int]]:
    """Prompts with a common prefix and different lengths, each asked of every member."""
    rng = np.random.default_rng(2)
    prompts = [[*HEAD, *rng.integers(6, WORDS, rng.integers(1, 9)).tolist()] for _ in range(count)]
    rows = [(p, m) for m in range(members) for p in prompts for _ in range(repeats)]
    return [p for p, _ in rows], [m for _, m in rows]
