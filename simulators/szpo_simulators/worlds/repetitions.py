"""Many repetitions of the optimizer on one world, all repetitions of a block at a time.

The arithmetic is that of `szpo.optim.optimizer`, called on arrays; what is new is only that walks
and votes of all repetitions are made together. Directions, walks and votes of a repetition come
from its own root seed, so that a repetition is the same alone, in any company, and through the
ordinary loop of ask, rollout, votes and tell (`szpo_simulators.worlds.policies` has that loop's
policy).
"""

from __future__ import annotations

import dataclasses
import functools
import math
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
from szpo.optim import (
    bayes_rule,
    count_rules,
    directions,
    momentum,
    optimizer,
    parameters,
    posterior,
    step_size,
    weighted_votes,
)
from szpo.optim.parameters import Space
from szpo.optim.settings import Settings, defaults
from szpo.types import Floats, Tally
from szpo_simulators.worlds import oracle, people
from szpo_simulators.worlds.oracle import Panel
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.world import Uniforms, World, draws_ahead

COINS = 32
"""Steps whose votes are drawn at once."""
AHEAD = 8192
"""Uniform numbers of walks that are drawn at once for a repetition, where a step needs fewer."""
KEPT_DIM = 256
"""Directions of at most so many coordinates are kept for the next bench's cell."""


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


def settings(world: World, **changes: Any) -> Settings:
    """The optimizer's settings on a world, in the notation of `szpo.optim.settings.Settings`.

    Gaussian directions with |v| = √d, N = 16, M = 1, D = 1, μ = 1 unless said otherwise. Under
    ``bayes`` an ``alpha`` is the longest step over √d, as under ``sign``, and sets ``kl_step``.
    """
    law = changes.pop("law", directions.Law(normalise=True))
    wanted = {"N": 16, "M": 1, "D": 1, "mu": 1.0, "rule": "known", "warmup": 0, **changes}
    if wanted["rule"] == "bayes" and "alpha" in wanted:
        radius = wanted.get("kl_radius", Settings.__dataclass_fields__["kl_radius"].default)
        wanted["kl_step"] = radius * (wanted.pop("alpha") / wanted["mu"]) ** 2
    return defaults(0, (("theta", (world.dim,)),), law=law, **wanted)


def train(
    world: World,
    chosen: Settings,
    root_seeds: Sequence[int],
    steps: int,
    *,
    panel: Panel | People | None = None,
    crn: bool = True,
    truth: bool = False,
    marks: Sequence[int] = (),
    block: int = 50,
    threads: int = 1,
    on_step: Callable[[int], None] = lambda runs: None,
) -> Runs:
    """Run every root seed for so many steps.

    Args:
        world: Where the policies walk.
        chosen: The optimizer's settings; their root seed is replaced by each of ``root_seeds``.
        root_seeds: One per repetition.
        steps: T.
        panel: Who votes; the logistic panel with β = 1 by default. Only `People` have members, and
            with them all weightings of `szpo.aggregation.weighting`.
        crn: Both sides of a comparison walk by the same uniform numbers.
        truth: The true difference of mean returns instead of votes (a reference).
        marks: Steps after which the value is taken; the last step by default.
        block: Repetitions that are worked on together; changes no result.
        threads: Blocks at a time; changes no result.
        on_step: Told how many repetitions have made a further step.

    Raises:
        UsageError: settings that a world cannot run: a warm-up, weights of voters, steering,
            Davidson's ties, momentum of a space too large for a vector, a selection or a price of
            votes (`szpo_simulators.worlds.choosing` has them), ``truth`` under ``bayes``.
    """
    asked = panel or Panel()
    check(chosen, asked)
    for name in ("selection", "vote_price"):
        if getattr(chosen, name) is not None:
            raise UsageError(f"worlds: no {name} here; leave it out, or take worlds.choosing")
    if truth and chosen.rule == "bayes":
        raise UsageError(
            "worlds: truth gives a difference per direction, and bayes takes votes; choose the "
            "rule known, sign or margin, or leave truth out"
        )
    stops = tuple(marks) or (steps,)
    parts = [root_seeds[i : i + block] for i in range(0, len(root_seeds), block)]

    def one(
        part: Sequence[int],
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.float32], _Clock]:
        clock = _Clock()
        run = _Block(world, chosen, part, asked, crn, truth, clock)
        values, trail = [], []
        for step in range(steps):
            run.advance(step)
            if step + 1 in stops:
                values.append(world.value(run.theta))
                trail.append(run.theta)
            on_step(len(part))
        return run.theta, np.stack(values, axis=1), np.stack(trail, axis=1), clock

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, parts))
    per_step = chosen.K * chosen.N * chosen.M
    return Runs(
        theta=np.concatenate([theta for theta, _, _, _ in found]),
        curve=np.concatenate([values for _, values, _, _ in found]),
        trail=np.concatenate([trail for _, _, trail, _ in found]),
        marks=stops,
        votes=0 if truth else per_step,
        answers=2 * chosen.D * per_step,
        walks=2 * chosen.D * chosen.K * chosen.N,
        seconds={
            name: sum(clock.seconds[name] for _, _, _, clock in found) for name in _Clock.PARTS
        },
    )


class _Clock:
    """CPU time of this thread by part."""

    PARTS = ("rollouts", "oracle", "optimizer")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(self.PARTS, 0.0)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[part] += time.thread_time() - start


class _Block:
    """Some repetitions on their way: θ and what the rule carries over."""

    def __init__(
        self,
        world: World,
        chosen: Settings,
        root_seeds: Sequence[int],
        panel: Panel | People,
        crn: bool,
        truth: bool,
        clock: _Clock,
    ) -> None:
        self.world, self.chosen, self.root_seeds = world, chosen, root_seeds
        self.panel, self.crn, self.truth, self.clock = panel, crn, truth, clock
        self.spaces = [
            dataclasses.replace(chosen, root_seed=int(seed)).space for seed in root_seeds
        ]
        lead = (len(root_seeds),)
        self.theta = np.tile(world.theta0.astype(np.float32), (*lead, 1))
        self.state = optimizer.init(chosen)
        self.window = posterior.Window.empty(chosen.dim, chosen.N, lead)
        zero = np.zeros((*lead, chosen.dim))
        self.memory = momentum.Memory(zero, zero)
        self.draws: dict[tuple[int, str | None], Uniforms] = {}
        if isinstance(panel, People):
            self.raters = panel.raters(root_seeds)
            empty = weighting.History.empty(chosen.N, lead)
            self.history: weighting.History | None = weighting.joined(empty, panel.names)

    def advance(self, step: int) -> None:
        """One step of all repetitions."""
        chosen, clock = self.chosen, self.clock
        with clock.timing("optimizer"):
            query = optimizer.ask(dataclasses.replace(self.state, step=step))
            v, factor = self._directions(step)
            radius = _rounded(query.mu * factor)
        with clock.timing("rollouts"):
            views = [
                None if view is None else self._gaps(view, step, radius, v)
                for view in (self.world, *self._other_views())
            ]
            gap = views[0]
            assert gap is not None
        with clock.timing("oracle"):
            votes = self._voted(step, gap, *views[1:])
        with clock.timing("optimizer"):
            if chosen.rule == "bayes":
                move = self._posterior_step(step, votes, radius, v)
            else:
                found = count_rules.coefficients(
                    chosen,
                    votes.tally,
                    mu=query.mu,
                    alpha=1.0 if chosen.adam is not None else (query.alpha or 0.0),
                    delta=gap.mean(-1) if self.truth else votes.delta,
                    cast=votes.cast,
                )
                if not chosen.vectored:
                    for k, coef in enumerate(_rounded(found.coef * factor).T):
                        added = coef.astype(np.float32)[:, None] * v[:, k].astype(np.float32)
                        self.theta = self.theta + added
                    return
                move = self._carried(query.alpha or 0.0, query.mu, found.coef * factor, v)
            self.theta = self.theta + move.astype(np.float32)

    def _other_views(self) -> tuple[World | None, World | None]:
        panel = self.panel
        return (panel.other, panel.words) if isinstance(panel, People) else (None, None)

    def _voted(
        self, step: int, gap: Floats, other: Floats | None = None, words: Floats | None = None
    ) -> weighted_votes.Weighed:
        """The step's votes after the weighting."""
        chosen = self.chosen
        if isinstance(self.panel, People):
            shape = (chosen.K, chosen.N, chosen.M)
            if step % COINS == 0:
                self.seat_coins, self.own_coins = people.coins(self.root_seeds, step, shape, COINS)
            said = people.ballots(
                self.panel, self.raters, step, (gap, other, words),
                self.seat_coins[step % COINS], self.own_coins[step % COINS],
            )  # fmt: skip
            found = weighted_votes.weigh(
                chosen, self.history, step, said.tally(), said, rows=len(self.window.steps)
            )
            self.history = found.history
            return found
        plus = np.zeros_like(gap) if self.truth else self._votes(step, gap)
        tally = Tally(plus, chosen.M - plus, 0 * plus, np.zeros(plus.shape, dtype=bool))
        return weighted_votes.weigh(chosen, None, step, tally, None)

    def _directions(self, step: int) -> tuple[Floats, Floats]:
        """Grid values (S, K, d) and their factors (S, K)."""
        chosen = self.chosen
        make = _kept if chosen.dim <= KEPT_DIM else parameters.direction_vector
        v = np.stack([[make(space, step, k) for k in range(chosen.K)] for space in self.spaces])
        law = chosen.law
        if law.block is not None:
            return v, np.full(v.shape[:2], directions.block_factor(chosen.dim, law.block))
        if not law.normalise:
            return v, np.ones(v.shape[:2])
        squares = ((v * directions.GRID) ** 2).sum(-1)
        factors = [
            directions.gaussian_factor(int(square), chosen.dim) for square in squares.ravel()
        ]
        return v, np.reshape(factors, squares.shape)

    def _gaps(self, world: World, step: int, radius: Floats, v: Floats) -> Floats:
        """Differences of mean returns (S, K, N), plus over minus, as a view counts them."""
        every = range(self.chosen.K)
        return np.stack([self._gap(world, step, k, radius[:, k], v[:, k]) for k in every], axis=1)

    def _gap(self, world: World, step: int, k: int, radius: Floats, v: Floats) -> Floats:
        chosen, runs = self.chosen, len(self.root_seeds)
        rows = chosen.N * chosen.D
        shift = radius.astype(np.float32)[:, None] * v.astype(np.float32)
        below = self.theta - shift if chosen.pairing == "antithetic" else self.theta
        u = self._drawn(step, k, rows, None if self.crn else "plus")
        up = world.returns(self.theta + shift, u)
        down = world.returns(below, u if self.crn else self._drawn(step, k, rows, "minus"))
        both = np.stack([up, down]).reshape(2, runs, chosen.N, chosen.D).mean(-1)
        return np.asarray(both[0] - both[1])

    def _drawn(self, step: int, k: int, rows: int, side: str | None) -> Uniforms:
        ahead = max(1, min(COINS, AHEAD // (rows * self.world.width)))
        if step % ahead == 0:
            self.draws[k, side] = draws_ahead(
                self.world, self.root_seeds, step, k, rows, side, ahead
            )
        now: Uniforms = self.draws[k, side][step % ahead]
        return now

    def _votes(self, step: int, gap: Floats) -> Floats:
        if step % COINS == 0:
            shape = (*gap.shape[1:], self.chosen.M)
            self.coins = oracle.coins(self.root_seeds, step, shape, COINS)
        assert isinstance(self.panel, Panel)
        return oracle.votes(self.panel.chance(gap), self.coins[step % COINS])

    def _posterior_step(
        self, step: int, votes: weighted_votes.Weighed, radius: Floats, v: Floats
    ) -> Floats:
        chosen, tally = self.chosen, votes.tally
        self.window = posterior.add(
            self.window, step, chosen.distance * radius[..., None] * v,
            tally.plus, tally.minus, tally.tie, tally.identical, forget=chosen.forget,
        )  # fmt: skip
        if chosen.weighting in weighting.LEARNT and votes.history is not None:
            self.window = bayes_rule.reweighed(self.window, votes.history, votes.weights)
        mu = step_size.base_mu(chosen)
        known = bayes_rule.gradient(chosen, self.window, step)
        length = mu * math.sqrt(chosen.dim * chosen.kl_step / chosen.kl_radius)
        return posterior.step_vector(known, length * step_size.shape(chosen, step))

    def _carried(self, alpha: float, mu: float, coef: Floats, v: Floats) -> Floats:
        """The step under momentum or Adam, no longer than the cap."""
        chosen = self.chosen
        move = np.zeros(self.theta.shape)
        for k in range(chosen.K):
            move = move + coef[:, k, None] * v[:, k]
        if chosen.adam is not None:
            move, self.memory = momentum.adam_step(self.memory, move, alpha, chosen.adam)
        else:
            move, self.memory = momentum.momentum_step(self.memory, move, chosen.momentum)
        length = np.linalg.norm(move, axis=-1, keepdims=True)
        limit = chosen.coef_cap * mu * math.sqrt(chosen.dim)
        return np.asarray(move * np.minimum(1.0, limit / np.maximum(length, 1e-300)))


@functools.lru_cache(maxsize=2**18)
def _kept(space: Space, step: int, k: int) -> Floats:
    """`coordinates.direction_vector`, remembered: the cells of a bench share their seeds."""
    return parameters.direction_vector(space, step, k)


def _rounded(coef: Floats) -> Floats:
    """`szpo.optim.momentum.rounded` of arrays."""
    kept = np.where(np.abs(coef) < momentum.SMALLEST_COEF, 0.0, coef)
    return parameters.round13(kept)


def check(chosen: Settings, panel: Panel | People) -> None:
    """Refuse settings that the arithmetic of worlds does not have.

    Raises:
        UsageError: names the setting.
    """
    if chosen.warmup or chosen.steering is not None:
        raise UsageError("worlds: no warm-up and no steering; give alpha")
    if chosen.ties != "half":
        raise UsageError(f"worlds: ties {chosen.ties} are not reckoned here; set ties to half")
    if chosen.weighting != "equal" and not isinstance(panel, People):
        raise UsageError(f"worlds: weighting {chosen.weighting} needs a panel of members (People)")
    if chosen.rule != "bayes" and chosen.given_alpha is None:
        raise UsageError(f"worlds: the rule {chosen.rule} needs alpha, the benches tune it")
    if chosen.momentum > 0 and not chosen.vectored:
        raise UsageError(
            f"worlds: momentum in {chosen.dim} coordinates; {optimizer.__name__} folds"
        )
