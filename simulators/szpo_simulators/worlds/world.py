"""The interface of a world, its plain panel of M identical voters, and many runs on it.

The first axis S runs over repetitions (or policies), the second, n, over walks. All randomness is
passed in as uniform numbers, so both sides of a comparison can share them (common random numbers).

The plain panel, M identical voters who compare mean returns, is that of the published experiments,
P(plus) = σ(β·gap), at millions of votes per second. `szpo_simulators.panels.raters` has raters
with ties, lapses and side bias.

Repetitions of the optimizer are computed in blocks: its arithmetic is that of
`szpo.optim.optimizer` on arrays; walks and votes of all repetitions of a block are made together.
Directions, walks and votes of a repetition come from its own root seed. So a repetition gives the
same result alone, in a block, and through the ordinary loop of ask, rollout, votes and tell.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo import seeds
from szpo.config.optimizer import make_settings
from szpo.optim import optimizer, parameters, sample_directions
from szpo.optim.links import link
from szpo.optim.optimizer import rule_of
from szpo.optim.parameters import Space, round_coef
from szpo.optim.rule import Perturbations, WeightedVotes, weigh
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally
from szpo_simulators.panels import panel

Reals: TypeAlias = NDArray[np.floating[Any]]
Uniforms: TypeAlias = NDArray[np.float32]
"""Multiples of 2⁻²⁴ in [0, 1)."""

COINS = 32
"""Number of steps whose votes are drawn at once."""
AHEAD = 8192
"""Most uniform numbers of walks drawn at once per repetition, if a step needs fewer."""
CACHED_DIM = 256
"""Directions with at most this many coordinates are cached for the bench's next cell."""


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


@lru_cache
def calibrate_panel(world: World, rows: int) -> panel.Calibration:
    """β of ``bt70`` for mean returns of ``rows`` walks of a world's untrained policy."""
    returns = world.returns(world.theta0[None], draws(world, [0], 0, 0, 20_000, "calibration"))
    return panel.calibrate(returns.reshape(200, 100), rows)


def count_plus(gap: ArrayLike, sharpness: float, coins: Uniforms) -> Floats:
    """Number of votes for plus (...) out of M, each with P(plus) = σ(β·gap).

    ``gap`` (...) is the mean return of plus minus that of minus, ``coins`` (..., M) are uniform.
    """
    chance = link("logistic").prob(sharpness * np.asarray(gap, dtype=np.float64))
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


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Repetitions after their last step."""

    theta: NDArray[np.float32]
    """θ (S, d) after the last step."""
    curve: Floats
    """Value (S, marks) after each marked step."""
    trail: NDArray[np.float32]
    """θ (S, marks, d) after each marked step."""
    marks: tuple[int, ...]
    votes: int
    """Votes per step of one repetition: K · N · M."""
    answers: int
    """Walks read per step by the voters of one repetition: K · N · M · 2D."""

    @property
    def final(self) -> Floats:
        """Value (S,) after the last mark."""
        return np.asarray(self.curve[:, -1])


def settings_for(world: World, **changes: Any) -> Settings:
    """The optimizer's settings on a world; ``changes`` are fields of `Settings`.

    Defaults: rule `known`, Gaussian directions with |v| = √d, N = 16, M = D = 1, μ = 1.
    """
    wanted = {"N": 16, "M": 1, "D": 1, "mu": 1.0, "rule": "known", "law": "normalised"}
    if changes.get("rule", "known") == "known":
        wanted["warmup"] = 0
    return make_settings(0, (("theta", (world.dim,)),), **{**wanted, **changes})


def train(
    world: World,
    settings: Settings,
    root_seeds: Sequence[int],
    steps: int,
    *,
    sharpness: float = 1.0,
    crn: bool = True,
    marks: Sequence[int] = (),
    block: int = 50,
) -> Runs:
    """Run every root seed for T steps; each replaces that of the settings.

    ``sharpness``: the voters' β, logits per unit of return. ``crn``: both sides of a comparison
    use the same uniform numbers. ``marks``: steps after which the value is computed; by default
    the last. ``block``: repetitions that are computed together, which does not change results.
    """
    stops, found = tuple(marks) or (steps,), []
    for first in range(0, len(root_seeds), block):
        run = Block(world, settings, root_seeds[first : first + block], sharpness, crn)
        values, trail = [], []
        for step in range(steps):
            run.advance(step)
            if step + 1 in stops:
                values.append(world.value(run.theta))
                trail.append(run.theta)
        found.append((run.theta, np.stack(values, axis=1), np.stack(trail, axis=1)))
    theta, curve, trails = (np.concatenate(parts) for parts in zip(*found, strict=True))
    votes = settings.section.K * settings.section.N * settings.section.M
    return Runs(theta, curve, trails, stops, votes, 2 * settings.section.D * votes)


class Block:
    """S repetitions in progress: θ (S, d) and the state that the rule carries over."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        root_seeds: Sequence[int],
        sharpness: float,
        crn: bool,
    ) -> None:
        self.world, self.settings, self.root_seeds = world, settings, root_seeds
        self.sharpness, self.crn = sharpness, crn
        self.spaces = [
            dataclasses.replace(settings, root_seed=int(seed)).space for seed in root_seeds
        ]
        lead = (len(root_seeds),)
        self.theta = np.tile(world.theta0.astype(np.float32), (*lead, 1))
        self.state = optimizer.init(settings)
        self.rule = rule_of(settings.section.rule)
        self.carried = self.rule.init(settings, lead)
        self.draws: dict[tuple[int, str | None], Uniforms] = {}

    def advance(self, step: int) -> None:
        """One step of all repetitions."""
        query = optimizer.ask(dataclasses.replace(self.state, step=step))
        grid, factor = self._directions(step)
        radius = round_coef(query.mu * factor)
        at = Perturbations(step, query.mu, query.alpha, radius, lambda: (grid, factor))
        shifts = [self._scale(radius[:, k], grid[:, k]) for k in range(self.settings.section.K)]
        gaps = [self._gap(step, k, shift) for k, shift in enumerate(shifts)]
        votes = self._vote(step, np.stack(gaps, axis=1))
        move = self.rule.move(self.settings, self.carried, at, votes)
        self.carried = move.carried
        if move.coef is not None:  # added direction by direction, as in a run's policies
            for k, coef in enumerate(round_coef(move.coef * factor).T):
                self.theta = self.theta + self._scale(coef, grid[:, k])

    @staticmethod
    def _scale(coef: Floats, grid: Floats) -> NDArray[np.float32]:
        """Coefficients (S,) times directions (S, d), in fp32 as in a run's policies."""
        return coef.astype(np.float32)[:, None] * grid.astype(np.float32)

    def draw(self, step: int, k: int, rows: int, side: str | None) -> Uniforms:
        """The uniform numbers (S, rows, width) of the walks of direction ``k`` at a step."""
        ahead = max(1, min(COINS, AHEAD // (rows * self.world.width)))
        if step % ahead == 0:
            self.draws[k, side] = draws_ahead(
                self.world, self.root_seeds, range(step, step + ahead), k, rows, side
            )
        now: Uniforms = self.draws[k, side][step % ahead]
        return now

    def _vote(self, step: int, gap: Floats) -> WeightedVotes:
        """The step's votes, from differences of mean returns (S, K, N)."""
        if step % COINS == 0:
            shape = (*gap.shape[1:], self.settings.section.M)
            self.coins = draw_coins(self.root_seeds, step, shape, COINS)
        plus = count_plus(gap, self.sharpness, self.coins[step % COINS])
        nobody = np.zeros(plus.shape, dtype=bool)
        tally = Tally(plus, self.settings.section.M - plus, 0 * plus, nobody)
        return weigh(self.settings, None, step, tally, None)

    def _directions(self, step: int) -> tuple[Floats, Floats]:
        """Grid values (S, K, d) and their factors (S, K)."""
        settings = self.settings
        make = _cached_direction if settings.dim <= CACHED_DIM else parameters.direction_vector
        each = range(settings.section.K)
        v = np.stack([[make(space, step, k) for k in each] for space in self.spaces])
        if not settings.law.scaled:
            return v, np.ones(v.shape[:2])
        squares = ((v * sample_directions.PER_UNIT) ** 2).sum(-1)
        factors = [
            sample_directions.gaussian_factor(int(square), settings.dim)
            for square in squares.ravel()
        ]
        return v, np.reshape(factors, squares.shape)

    def _gap(self, step: int, k: int, shift: NDArray[np.float32]) -> Floats:
        """Differences of mean returns (S, N) of direction ``k``, plus minus minus."""
        world, settings, runs = self.world, self.settings, len(self.root_seeds)
        o = settings.section
        rows = o.N * o.D
        below = self.theta - shift if o.pairing == "antithetic" else self.theta
        u = self.draw(step, k, rows, None if self.crn else "plus")
        up = world.returns(self.theta + shift, u)
        down = world.returns(below, u if self.crn else self.draw(step, k, rows, "minus"))
        both = np.stack([up, down]).reshape(2, runs, o.N, o.D).mean(-1)
        return np.asarray(both[0] - both[1])


@functools.lru_cache(maxsize=2**18)
def _cached_direction(space: Space, step: int, k: int) -> Floats:
    """`szpo.optim.parameters.direction_vector` with a cache, as a bench's cells share seeds."""
    return parameters.direction_vector(space, step, k)
