"""Measure a run's starting policy during set-up: its answers, and the KL of members to it.

Nothing here sees a vote or a reward. All random numbers are derived from the set-up's seed.
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

ROWS = 96
"""Answers generated at a time; more need memory for their keys and values, and gain little."""
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probe:
    """A model at its starting policy, with the prompts and the sampling of a set-up's passes."""

    loaded: Loaded
    sites: tuple[Site, ...]
    start: Theta
    """A and B of the starting policy, by ``site.a`` and ``site.b``."""
    prompts: tuple[tuple[int, ...], ...]
    """As tokens."""
    sampling: Sampling
    root_seed: int
    engine: Engine
    progress: Progress = lambda what, done, of: None

    def deltas(self, members: Sequence[Theta]) -> Deltas:
        """Members that each replace some tensors of the start, on the model's device."""
        return stack(self.sites, self.start, members, self.loaded.device)

    @property
    def start_deltas(self) -> Deltas | None:
        """The starting policy as a member; None where it is the base model itself."""
        return None if is_zero(self.start, self.sites) else self.deltas([{}])

    def samples(
        self, deltas: Deltas | None, owner: Sequence[int], groups: Sequence[int], name: str
    ) -> list[Sample]:
        """Draw answers of the members ``owner`` to the prompts ``groups``, row by row.

        ``name`` seeds the random numbers.
        """
        width = self.sampling.max_new_tokens
        key = seeds.derive(self.root_seed, "setup", name=name)
        draws = seeds.uniform(key, len(owner) * width).reshape(len(owner), width)
        found: list[Sample] = []
        for first in range(0, len(owner), ROWS):
            few = slice(first, first + ROWS)
            made = self.engine.generate(
                [self.prompts[g] for g in groups[few]], list(owner[few]), deltas, self.sampling,
                draws[few],
            )  # fmt: skip
            found += [
                Sample(self.prompts[g], answer, g)
                for g, answer in zip(groups[few], made.tokens, strict=True)
            ]
        return found

    def start_samples(self, count: int) -> list[Sample]:
        """Draw ``count`` answers of the starting policy, prompts in turn."""
        key = seeds.derive(self.root_seed, "setup", name="prompts")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(count)]
        found: list[Sample] = []
        for first in range(0, count, 256):
            part = groups[first : first + 256]
            found += self.samples(self.start_deltas, [0] * len(part), part, f"base {first}")
            self.progress("base answers", len(found), count)
        return found

    def kl(self, members: Sequence[Theta], rows: int, name: str) -> NDArray[np.float64]:
        """Measure the KL of each member to the start, prompts in turn.

        Returns:
            (members, rows), nats per completion; each from an answer that ``name`` seeds.
        """
        deltas = self.deltas(members)
        owner = [m for m in range(len(members)) for _ in range(rows)]
        key = seeds.derive(self.root_seed, "setup", name=f"prompts {name}")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(len(owner))]
        answers = self.samples(deltas, owner, groups, name)
        found = logprobs.kl_of_members(
            self.loaded.adapt(self.sites), deltas, answers, owner,
            reference=self.start_deltas, temperature=self.sampling.temperature,
        )  # fmt: skip
        return found.reshape(len(members), rows)


def is_zero(start: Theta, sites: tuple[Site, ...]) -> bool:
    """Whether the start is the base model itself: every B is 0."""
    return all(not start[s.b].any() for s in sites)


def stack(
    sites: tuple[Site, ...],
    start: Theta,
    members: Sequence[Theta],
    device: torch.device | str = "cpu",
) -> Deltas:
    """Stack members that each replace some tensors of ``start`` into deltas.

    A stays shared where no member replaces it.
    """

    def whole(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.get(name, start[name]) for m in members])).to(device)

    moved = {name for m in members for name in m}
    A = {
        s.name: whole(s.a) if s.a in moved else torch.from_numpy(start[s.a]).to(device)
        for s in sites
    }
    return Deltas(A, {s.name: whole(s.b) for s in sites})
