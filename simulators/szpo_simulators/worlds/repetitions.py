"""Many repetitions of the optimizer on one world, all repetitions of a block at a time.

The arithmetic is that of `szpo.optim.optimizer`, called on arrays: walks and votes of all
repetitions are made together. Directions, walks and votes of a repetition come from its own root
seed. So a repetition gives the same result alone, beside others, and through the ordinary loop of
ask, rollout, votes and tell.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szpo.aggregation import weighting
from szpo.errors import UsageError
from szpo.optim import optimizer, parameters, sample_directions
from szpo.optim.checked_settings import defaults
from szpo.optim.parameters import Space, round_coef
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import Move, Perturbations
from szpo.optim.settings import Settings
from szpo.optim.weighted_votes import WeightedVotes, weigh
from szpo.types import Floats, Tally
from szpo_simulators.worlds import oracle, people
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.world import Uniforms, World, draws_ahead

COINS = 32
"""Steps whose votes are drawn at once."""
AHEAD = 8192
"""Uniform numbers of walks that are drawn at once for a repetition, where a step needs fewer."""
ENDLESS = 1e9
"""Votes that no run of a world has."""
CACHED_DIM = 256
"""Directions of at most this many coordinates are cached for the next bench's cell."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Repetitions after their last step."""

    theta: NDArray[np.float32]
    """(S, d)."""
    curve: Floats
    """Value (S, marks) after each marked step."""
    trail: NDArray[np.float32]
    """θ (S, marks, d) after each marked step."""
    marks: tuple[int, ...]
    votes: int
    """Votes of one repetition per step: K · N · M."""
    answers: int
    """Walks that voters read per step: K · N · M · 2D."""
    walks: int
    """Walks made per step: K · N · 2D."""
    seconds: dict[str, float]
    """CPU seconds of rollouts, oracle and optimizer, all repetitions together."""

    @property
    def final(self) -> Floats:
        """Value (S,) after the last mark."""
        return np.asarray(self.curve[:, -1])


def settings_for(world: World, **changes: Any) -> Settings:
    """The optimizer's settings on a world, in the notation of `szpo.optim.settings.Settings`.

    Gaussian directions with |v| = √d, N = 16, M = 1, D = 1, μ = 1 unless changed. Under
    ``regression``, which expects as much of each coordinate here, it is the nats per vote by
    which its KL budget grows without end, and without it there is no budget; directions are
    orthonormal, and N of them are asked once each unless K is set.
    """
    wanted = {"N": 16, "M": 1, "D": 1, "mu": 1.0, "rule": "known", "warmup": 0, **changes}
    law = sample_directions.Law(normalise=True)
    if rule_of(wanted["rule"]).two_points:
        law = sample_directions.Law("orthonormal")
        if wanted.get("K", 1) == 1:
            wanted |= {"K": wanted["N"], "N": 1}
        # Their panels have no texts to guard, and votes come without the sides they were given on.
        none = {"kl_budget": None, "guarded": None, "sided": None}
        wanted = {**none, "prior_variances": "flat", **wanted}
        if "alpha" in wanted:
            nats = wanted.pop("alpha")
            wanted["kl_budget"] = ((1.0, nats), (ENDLESS, ENDLESS * nats))
    return defaults(0, (("theta", (world.dim,)),), **{"law": law, **wanted})


@dataclass(frozen=True, slots=True)
class Batching:
    """How repetitions are divided among blocks and threads; changes no result."""

    block: int = 50
    """Repetitions that are computed together."""
    threads: int = 1
    """Blocks at a time."""
    on_step: Callable[[int], None] = lambda runs: None
    """Called with the number of repetitions that have made a further step."""


def train(
    world: World,
    settings: Settings,
    root_seeds: Sequence[int],
    steps: int,
    *,
    panel: LinkPanel | People | None = None,
    crn: bool = True,
    truth: bool = False,
    marks: Sequence[int] = (),
    batching: Batching | None = None,
) -> Runs:
    """Run every root seed for T steps.

    Args:
        world: Where the policies walk.
        settings: The optimizer's settings; their root seed is replaced by each of ``root_seeds``.
        root_seeds: One per repetition.
        steps: T.
        panel: Who votes; the logistic panel with β = 1 by default. Only `People` have members, and
            with them all weightings of `szpo.aggregation.weighting`.
        crn: Both sides of a comparison walk by the same uniform numbers.
        truth: The true difference of mean returns instead of votes (a reference).
        marks: Steps after which the value is taken; the last step by default.
        batching: How the repetitions are divided; changes no result.

    Raises:
        UsageError: settings that a world cannot run: a warm-up, weights of voters,
            Davidson's ties, ``truth`` under ``regression``.
    """
    voters = panel or LinkPanel()
    check(settings, voters)
    if truth and rule_of(settings.rule).two_points:
        raise UsageError(
            f"worlds: truth gives a difference per direction, and {settings.rule} takes votes; "
            "choose the rule known or sign, or leave truth out"
        )
    stops, work = tuple(marks) or (steps,), batching or Batching()
    parts = [root_seeds[i : i + work.block] for i in range(0, len(root_seeds), work.block)]

    def one(
        part: Sequence[int],
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.float32], Clock]:
        run = Block(world, settings, part, voters, crn=crn, truth=truth)
        values, trail = [], []
        for step in range(steps):
            run.advance(step)
            if step + 1 in stops:
                values.append(world.value(run.theta))
                trail.append(run.theta)
            work.on_step(len(part))
        return run.theta, np.stack(values, axis=1), np.stack(trail, axis=1), run.clock

    with ThreadPoolExecutor(work.threads) as pool:
        found = list(pool.map(one, parts))
    per_step = settings.K * settings.N * settings.M
    return Runs(
        theta=np.concatenate([theta for theta, _, _, _ in found]),
        curve=np.concatenate([values for _, values, _, _ in found]),
        trail=np.concatenate([trail for _, _, trail, _ in found]),
        marks=stops,
        votes=0 if truth else per_step,
        answers=2 * settings.D * per_step,
        walks=2 * settings.D * settings.K * settings.N,
        seconds={
            name: sum(clock.seconds[name] for _, _, _, clock in found) for name in Clock.PARTS
        },
    )


class Clock:
    """CPU time of this thread by part."""

    PARTS = ("rollouts", "oracle", "optimizer")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(self.PARTS, 0.0)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add what the block takes to a part."""
        start = time.thread_time()
        yield
        self.seconds[part] += time.thread_time() - start


class Block:
    """Some repetitions in progress: θ (S, d) and the state that the rule carries over."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        root_seeds: Sequence[int],
        panel: LinkPanel | People,
        *,
        crn: bool = True,
        truth: bool = False,
    ) -> None:
        self.world, self.settings, self.root_seeds = world, settings, root_seeds
        self.panel, self.crn, self.truth, self.clock = panel, crn, truth, Clock()
        self.spaces = [
            dataclasses.replace(settings, root_seed=int(seed)).space for seed in root_seeds
        ]
        lead = (len(root_seeds),)
        self.theta = np.tile(world.theta0.astype(np.float32), (*lead, 1))
        self.centre = self.theta
        """Where the rule asks; θ itself unless it recommends another point."""
        self.state = optimizer.init(settings)
        self.rule = rule_of(settings.rule)
        self.carried = self.rule.init(settings, lead)
        self.history: weighting.History | None = None
        self.draws: dict[tuple[int, str | None], Uniforms] = {}
        if isinstance(panel, People):
            self.raters = panel.raters(root_seeds)
            empty = weighting.History.empty(settings.N, lead)
            self.history = weighting.add_voters(empty, panel.names)

    def advance(self, step: int) -> None:
        """One step of all repetitions."""
        settings, clock = self.settings, self.clock
        with clock.timing("optimizer"):
            at = self.perturb(step)
        with clock.timing("rollouts"):
            gap = self._gaps(self.world, at)
            other, words = (
                None if view is None else self._gaps(view, at) for view in self._other_views()
            )
        with clock.timing("oracle"):
            votes = self._vote(step, gap, other, words)
        with clock.timing("optimizer"):
            if self.truth:
                votes = dataclasses.replace(votes, delta=gap.mean(-1))
            self.apply(self.rule.move(settings, self.carried, at, votes, None), at)

    def perturb(self, step: int) -> Perturbations:
        """The perturbations of all repetitions at a step."""
        query = optimizer.ask(dataclasses.replace(self.state, step=step))
        grid, factor = self._directions(step)
        radius = round_coef(query.mu * factor)
        return Perturbations(step, query.mu, query.alpha, radius, lambda: (grid, factor))

    def apply(self, move: Move, at: Perturbations) -> None:
        """Move θ as a run's policies do, in fp32, direction by direction."""
        self.carried = move.carried
        if move.vector is not None:
            self.theta = self.theta + move.vector.astype(np.float32)
        elif move.coef is not None:
            grid, factor = at.directions()
            for k, coef in enumerate(round_coef(move.coef * factor).T):
                added = coef.astype(np.float32)[:, None] * grid[:, k].astype(np.float32)
                self.theta = self.theta + added
        moved = move.centre
        self.centre = self.theta if moved is None else self.centre + moved.astype(np.float32)

    def draw(self, step: int, k: int, rows: int, side: str | None) -> Uniforms:
        """The uniform numbers (S, rows, width) of a direction's walks at a step."""
        ahead = max(1, min(COINS, AHEAD // (rows * self.world.width)))
        if step % ahead == 0:
            self.draws[k, side] = draws_ahead(
                self.world, self.root_seeds, range(step, step + ahead), k, rows, side
            )
        now: Uniforms = self.draws[k, side][step % ahead]
        return now

    def sides(self, at: Perturbations, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The plus and minus policies (S, d) of a direction; minus is the centre under forward."""
        grid, _ = at.directions()
        shift = at.radius[:, k].astype(np.float32)[:, None] * grid[:, k].astype(np.float32)
        antithetic = self.settings.pairing == "antithetic"
        return self.centre + shift, self.centre - shift if antithetic else self.centre

    def _other_views(self) -> tuple[World | None, World | None]:
        panel = self.panel
        return (panel.other, panel.words) if isinstance(panel, People) else (None, None)

    def _vote(
        self, step: int, gap: Floats, other: Floats | None = None, words: Floats | None = None
    ) -> WeightedVotes:
        """The step's votes, weighted by voter."""
        settings = self.settings
        use = self.rule.past(settings, self.carried)
        if isinstance(self.panel, People):
            shape = (settings.K, settings.N, settings.M)
            if step % COINS == 0:
                self.seat_coins, self.own_coins = people.coins(self.root_seeds, step, shape, COINS)
            cast = people.cast_votes(
                self.panel, self.raters, step, (gap, other, words),
                (self.seat_coins[step % COINS], self.own_coins[step % COINS]),
            )  # fmt: skip
            found = weigh(settings, self.history, step, cast.tally(), cast, use=use)
            self.history = found.history
            return found
        plus = np.zeros_like(gap) if self.truth else self._count(step, gap)
        tally = Tally(plus, settings.M - plus, 0 * plus, np.zeros(plus.shape, dtype=bool))
        return weigh(settings, None, step, tally, None)

    def _count(self, step: int, gap: Floats) -> Floats:
        """Votes for plus (S, K, N) of voters who all follow one law."""
        if step % COINS == 0:
            shape = (*gap.shape[1:], self.settings.M)
            self.coins = oracle.coins(self.root_seeds, step, shape, COINS)
        assert isinstance(self.panel, LinkPanel)
        return oracle.votes(self.panel.chance(gap), self.coins[step % COINS])

    def _directions(self, step: int) -> tuple[Floats, Floats]:
        """Grid values (S, K, d) and their factors (S, K)."""
        settings = self.settings
        make = _cached_direction if settings.dim <= CACHED_DIM else parameters.direction_vector
        v = np.stack([[make(space, step, k) for k in range(settings.K)] for space in self.spaces])
        if not settings.law.scaled:
            return v, np.ones(v.shape[:2])
        squares = ((v * sample_directions.GRID) ** 2).sum(-1)
        factors = [
            sample_directions.gaussian_factor(int(square), settings.dim)
            for square in squares.ravel()
        ]
        return v, np.reshape(factors, squares.shape)

    def _gaps(self, world: World, at: Perturbations) -> Floats:
        """Differences of mean returns (S, K, N), plus less minus, in one view of the world."""
        return np.stack([self._gap(world, at, k) for k in range(self.settings.K)], axis=1)

    def _gap(self, world: World, at: Perturbations, k: int) -> Floats:
        settings, runs = self.settings, len(self.root_seeds)
        rows = settings.N * settings.D
        above, below = self.sides(at, k)
        u = self.draw(at.step, k, rows, None if self.crn else "plus")
        up = world.returns(above, u)
        down = world.returns(below, u if self.crn else self.draw(at.step, k, rows, "minus"))
        both = np.stack([up, down]).reshape(2, runs, settings.N, settings.D).mean(-1)
        return np.asarray(both[0] - both[1])


@functools.lru_cache(maxsize=2**18)
def _cached_direction(space: Space, step: int, k: int) -> Floats:
    """`szpo.optim.parameters.direction_vector`, remembered: a bench's cells share their seeds."""
    return parameters.direction_vector(space, step, k)


def check(settings: Settings, panel: LinkPanel | People) -> None:
    """Refuse settings that worlds do not simulate.

    Raises:
        UsageError: names the setting.
    """
    if settings.warmup:
        raise UsageError("worlds: no warm-up; give alpha")
    if settings.ties != "half":
        raise UsageError(f"worlds: ties {settings.ties} are not simulated here; set ties to half")
    if settings.weighting != "equal" and not isinstance(panel, People):
        raise UsageError(
            f"worlds: weighting {settings.weighting} needs a panel of members (People)"
        )
    if not rule_of(settings.rule).two_points and settings.alpha is None:
        raise UsageError(f"worlds: the rule {settings.rule} needs alpha, the benches tune it")
