"""The interface of a world, and its plain panel of M identical voters.

The first axis S runs over repetitions (or policies), the second, n, over walks. All randomness is
passed in as uniform numbers, so both sides of a comparison can share them (common random numbers).

The plain panel of the worlds: M identical voters compare mean returns.

This is the panel of the published experiments, P(plus) = σ(β·gap), at millions of votes per
second. `szpo_simulators.panels.raters` has raters with ties, lapses and side bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo import seeds
from szpo.errors import UsageError
from szpo.optim import parameters
from szpo.optim.links import link
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.types import Batch, Floats, Layout, Prompt, Shift, Theta, Update
from szpo_simulators.panels import panel

Reals: TypeAlias = NDArray[np.floating[Any]]
Uniforms: TypeAlias = NDArray[np.float32]
"""Multiples of 2⁻²⁴ in [0, 1)."""


class World(Protocol):
    """A world for policies with d parameters."""

    @property
    def dim(self) -> int:
        """Number of parameters d."""

    @property
    def width(self) -> int:
        """Number of uniform numbers that a walk uses."""

    @property
    def theta0(self) -> Floats:
        """The policy's starting parameters (d,)."""

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n) of walks of the policies θ (S, d) by uniform numbers (S, n, width)."""

    def value(self, theta: Reals) -> Floats:
        """Expected return (S,) of the policies θ (S, d): exact, or estimated as documented."""


def uniforms(key: bytes, n: int, start: int = 0) -> Uniforms:
    """Numbers start … start + n − 1 of the key's stream: 24 bits each, two from each word.

    >>> whole = uniforms(bytes(16), 9)
    >>> bool((uniforms(bytes(16), 3, start=5) == whole[5:8]).all())
    True
    """
    word, skip = divmod(start, 2)
    words = seeds.bits(key, (skip + n + 1) // 2, word)
    halves = words.astype("<u8", copy=False).view("<u4")[skip : skip + n]
    numbers: Uniforms = (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return numbers


def draws(
    world: World, root_seeds: Sequence[int], step: int, k: int, count: int, side: str | None = None
) -> Uniforms:
    """The uniform numbers (S, count, width) of one step's walks, from each repetition's root seed.

    ``side`` None: both sides share the numbers; "plus" and "minus": each side has its own.
    """
    whole: Uniforms = draws_ahead(world, root_seeds, range(step, step + 1), k, count, side)[0]
    return whole


def draws_ahead(
    world: World,
    root_seeds: Sequence[int],
    steps: range,
    k: int,
    count: int,
    side: str | None,
) -> Uniforms:
    """`draws` for a range of steps at once: (steps, S, count, width)."""
    size = count * world.width
    keys = (seeds.derive(seed, "world walk", k=k, name=side) for seed in root_seeds)
    made = np.stack([uniforms(key, size * len(steps), size * steps.start) for key in keys])
    return made.reshape(-1, len(steps), count, world.width).swapaxes(0, 1)


class WorldPolicy:
    """Base class of policies that answer by walks: θ, its updates, a walk per prompt."""

    purpose: ClassVar[str]
    """Purpose of the walks' random numbers; see `szpo.seeds.derive`."""

    def __init__(self, root_seed: int, start: Theta, law: Law | None = None) -> None:
        self.layout: Layout = tuple((name, values.shape) for name, values in start.items())
        self.dim = sum(values.size for values in start.values())
        self.space = Space(root_seed, self.layout, law or Law.for_dim(self.dim))
        self._theta = start

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """A walk per prompt and shift; both sides of a direction share the random numbers."""
        if len(prompts) != len(shifts):
            raise UsageError(f"rollout: {len(prompts)} lists of prompts for {len(shifts)} shifts")
        return [
            self.walk(
                parameters.shift(self.space, self._theta, shift),
                asked,
                seeds.derive(seed, self.purpose, k=shift.k),
            )
            for asked, shift in zip(prompts, shifts, strict=True)
        ]

    def walk(self, theta: Theta, prompts: Sequence[Prompt], key: bytes) -> Batch:
        """One walk of the policy θ per prompt, by the key's random numbers."""
        raise NotImplementedError

    def apply(self, update: Update) -> None:
        """θ ← θ + coef · v, or θ + vector."""
        self._theta = parameters.apply_update(self.space, self._theta, update)

    def theta(self) -> Theta:
        """A copy of the master coordinates."""
        return {name: values.copy() for name, values in self._theta.items()}

    def digest(self) -> str:
        """SHA-256 of θ in canonical form."""
        return parameters.digest(self._theta, self.layout)


@dataclass(frozen=True)
class LinkPanel:
    """Identical voters: P(plus) = link(β · difference of mean returns)."""

    link: str = "logistic"
    beta: float = 1.0
    """Logits per unit of return."""

    def __post_init__(self) -> None:
        """Refuse a link that does not exist."""
        link(self.link)

    def chance(self, gap: ArrayLike) -> Floats:
        """P(plus) for differences of mean returns, plus over minus, any shape."""
        return link(self.link).prob(self.beta * np.asarray(gap, dtype=np.float64))


@lru_cache
def calibrate_panel(world: World, rows: int) -> panel.Calibration:
    """β of ``bt70`` for mean returns of ``rows`` walks of a world's untrained policy."""
    returns = world.returns(world.theta0[None], draws(world, [0], 0, 0, 20_000, "calibration"))
    return panel.calibrate(returns.reshape(200, 100), rows, 0)


def count_plus(chance: Reals, coins: Uniforms) -> Floats:
    """Number of votes for plus (...) out of M, from P(plus) (...) and uniforms (..., M)."""
    bound = chance.astype(np.float32)
    if coins.shape[-1] == 1:
        return np.asarray(coins[..., 0] < bound, dtype=np.float64)
    return np.asarray((coins < bound[..., None]).sum(-1), dtype=np.float64)


def draw_coins(
    root_seeds: Sequence[int], step: int, shape: tuple[int, ...], steps: int = 1
) -> Uniforms:
    """The voters' uniform numbers (steps, S, *shape) from ``step`` on, for each root seed."""
    size = int(np.prod(shape))
    keys = (seeds.derive(seed, "world votes") for seed in root_seeds)
    made = [uniforms(key, size * steps, size * step) for key in keys]
    return np.stack(made).reshape(len(made), steps, *shape).swapaxes(0, 1)
