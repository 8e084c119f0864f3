"""Asking the starting policy before a run: its answers, and how far members are from it.

Nothing here sees a vote or a reward. Every answer's random numbers are named by the run's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from szpo import seeds
from szpo.generation.engine import Engine
from szpo.generation.sampling import Sampling
from szpo.models import logprobs
from szpo.models.batched_lora import Deltas
from szpo.models.loading import Loaded
from szpo.models.logprobs import Sample
from szpo.models.lora_sites import Site
from szpo.types import Theta

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probe:
    """A model, its adapted sites and prompts: all that a set-up pass asks it with."""

    loaded: Loaded
    sites: tuple[Site, ...]
    prompts: tuple[tuple[int, ...], ...]
    sampling: Sampling
    root_seed: int
    engine: Engine
    progress: Progress = lambda what, done, of: None

    def deltas(self, start: Theta, members: Sequence[Theta]) -> Deltas:
        """Members as `stack` makes them, on the model's device."""
        return stack(self.sites, start, members, self.loaded.device)

    def samples(
        self, deltas: Deltas | None, owner: Sequence[int], groups: Sequence[int], name: str
    ) -> list[Sample]:
        """Answers of members ``owner`` to prompts ``groups``, row by row."""
        width = self.sampling.max_new_tokens
        key = seeds.derive(self.root_seed, "setup", name=name)
        draws = seeds.uniform(key, len(owner) * width).reshape(len(owner), width)
        made = self.engine.generate(
            [self.prompts[g] for g in groups], list(owner), deltas, self.sampling, draws
        )
        return [
            Sample(self.prompts[g], answer, g)
            for g, answer in zip(groups, made.tokens, strict=True)
        ]

    def base_samples(self, start: Theta, count: int, name: str = "base") -> list[Sample]:
        """``count`` answers of the starting policy, prompts in turn."""
        key = seeds.derive(self.root_seed, "setup", name="prompts")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(count)]
        found: list[Sample] = []
        for first in range(0, count, 256):
            part = groups[first : first + 256]
            deltas = None if is_zero(start, self.sites) else self.deltas(start, [{}])
            found += self.samples(deltas, [0] * len(part), part, f"{name} {first}")
            self.progress("base answers", len(found), count)
        return found

    def kl(
        self, start: Theta, members: Sequence[Theta], rows: int, name: str
    ) -> NDArray[np.float64]:
        """KL of each member to the start, (members, rows) nats per completion, prompts in turn."""
        deltas = self.deltas(start, members)
        owner = [m for m in range(len(members)) for _ in range(rows)]
        key = seeds.derive(self.root_seed, "setup", name=f"prompts {name}")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(len(owner))]
        answers = self.samples(deltas, owner, groups, name)
        reference = None if is_zero(start, self.sites) else self.deltas(start, [{}])
        found = logprobs.kl_of_members(
            self.loaded.adapt(self.sites), deltas, answers, owner,
            reference=reference, temperature=self.sampling.temperature,
        )  # fmt: skip
        return found.reshape(len(members), rows)


def is_zero(start: Theta, sites: tuple[Site, ...]) -> bool:
    """The start is the base model itself: every B is 0."""
    return all(not start[s.b].any() for s in sites)


def stack(
    sites: tuple[Site, ...],
    start: Theta,
    members: Sequence[Theta],
    device: torch.device | str = "cpu",
) -> Deltas:
    """Deltas of members that each replace some tensors of ``start``."""

    def whole(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.get(name, start[name]) for m in members])).to(device)

    moved = {name for m in members for name in m}
    A = {
        s.name: whole(s.a) if s.a in moved else torch.from_numpy(start[s.a]).to(device)
        for s in sites
    }
    return Deltas(A, {s.name: whole(s.b) for s in sites})
