"""Many runs of the yard at once: the same arithmetic as a run, without ledger or vote service.

Repetitions are a leading axis. Directions, walks and votes come from keys derived from each
repetition's root seed; rollouts, raters and the rule `bayes` take all repetitions together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from szpo.aggregation import weighting
from szpo.optim import bayes_rule, optimizer, parameters, posterior, step_size, weighted_votes
from szpo.optim.settings import Settings, defaults
from szpo.seeds import as_seed, derive, uniform
from szpo.types import Floats, Ints
from szpo_simulators.worlds.yard import COST, Yard


@dataclass(frozen=True)
class World:
    """One setting: P members, of whom the last ``hostile`` have −β; N comparisons of D rows."""

    beta: float
    members: int = 7
    hostile: int = 0
    comparisons: int = 8
    rows: int = 8
    mu: float = 0.4
    weighting: weighting.Weighting = "equal"
    yard: Yard = field(default_factory=Yard)

    def settings(self, root_seed: int) -> Settings:
        """The optimizer's settings of one repetition, all else at its defaults."""
        layout = (("logits", (self.yard.cells, 4)),)
        return defaults(
            root_seed, layout, rule="bayes", N=self.comparisons, M=1, D=self.rows, mu=self.mu,
            weighting=self.weighting,
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The members in order."""
        return tuple(f"member-{i:03d}" for i in range(self.members))

    def seats(self, step: int) -> Ints:
        """Who answers comparison n (N,): a round robin."""
        return (step * self.comparisons + np.arange(self.comparisons)) % self.members


def starts(world: World, root_seed: int, step: int) -> Ints:
    """The cells (N · D,) from which a step's walks start."""
    u = uniform(derive(root_seed, "starts", step=step), world.comparisons * world.rows)
    return world.yard.starts[(u * len(world.yard.starts)).astype(np.int64)]


def draws(world: World, root_seed: int, step: int) -> Floats:
    """The numbers (N · D, horizon, 2) that a rollout of `TabularPolicy` draws at a step."""
    key = derive(root_seed, "rollout", step=step)
    walk = derive(as_seed(key), "walk", k=0)
    rows, horizon = world.comparisons * world.rows, world.yard.horizon
    return uniform(walk, rows * horizon * 2).reshape(rows, horizon, 2)


def chance(world: World, root_seed: int, step: int) -> Floats:
    """The raters' uniform numbers (N,)."""
    return uniform(derive(root_seed, "votes", step=step), world.comparisons)


def rewards(yard: Yard, logits: Floats, begin: Ints, u: Floats) -> Floats:
    """Rewards (S, rows) of walks under logits (S, cells, 4) from cells (S, rows)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    edges = np.cumsum(powers / powers.sum(axis=-1, keepdims=True), axis=-1)
    run, cells = np.arange(len(begin))[:, None], begin
    moves, walking = np.zeros(begin.shape), np.ones(begin.shape, dtype=bool)
    for t in range(yard.horizon):
        chosen = np.minimum((u[:, :, t, :1] >= edges[run, cells]).sum(-1), 3)
        turn = np.where(u[:, :, t, 1] < yard.wind / 2, -1, 0)
        turn = np.where(u[:, :, t, 1] >= 1 - yard.wind / 2, 1, turn)
        moves += walking
        cells = np.where(walking, yard.landing[cells, (chosen + turn) % 4], cells)
        walking &= yard.ending[cells] == 0
        if not walking.any():
            break
    worth: Floats = yard.ending[cells] - COST * moves
    return worth


def train(
    world: World,
    seeds: Sequence[int],
    votes: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> NDArray[np.float32]:
    """θ (S, cells · 4) after so many votes of each repetition, one vote per comparison.

    The rule `bayes`, with equal or learnt weights as `szpo.optim.optimizer.tell` applies them.
    """
    settings = [world.settings(seed) for seed in seeds]
    one, N = settings[0], world.comparisons
    lead = (len(seeds),)
    theta = np.zeros((*lead, one.dim), dtype=np.float32)
    window = posterior.Window.empty(one.dim, N, lead)
    history = weighting.joined(weighting.History.empty(N, lead), world.names)
    mu = step_size.base_mu(one)
    precision = posterior.prior_precision(mu, one.distance, one.dim)
    length = mu * math.sqrt(one.dim * one.kl_step / one.kl_radius)
    beta = np.full(world.members, world.beta)
    beta[world.members - world.hostile :] *= -1
    for step in range(votes // N):
        radius = np.array([optimizer.query(s, step, mu).shifts[0][0].radius for s in settings])
        v = np.stack([parameters.direction_vector(s.space, step, 0) for s in settings])
        move = radius.astype(np.float32)[:, None] * v.astype(np.float32)
        begin = np.stack([starts(world, seed, step) for seed in seeds])
        u = np.stack([draws(world, seed, step) for seed in seeds])
        plus, minus = (
            rewards(world.yard, at.astype(np.float64).reshape(*lead, -1, 4), begin, u)
            for at in (theta + move, theta - move)
        )
        gap = (plus - minus).reshape(*lead, N, world.rows).mean(-1)
        seats = world.seats(step)
        coin = np.stack([chance(world, seed, step) for seed in seeds])
        said = np.where(coin < 1 / (1 + np.exp(-beta[seats] * gap)), 1, -1).astype(np.int8)
        cast = np.zeros((*lead, world.members, 1, N), dtype=np.int8)
        cast[:, seats, 0, np.arange(N)] = said
        ballots = weighting.Ballots(world.names, cast, np.abs(gap)[:, None] < 1e-12)
        weights = None
        if world.weighting in weighting.LEARNT:
            weights = weighted_votes.learnt(world.weighting, history)
        history = weighting.remember(history, step, ballots)
        tally = ballots.tally()
        window = posterior.add(
            window, step, (2 * radius)[:, None, None] * v[:, None],
            tally.plus, tally.minus, tally.tie, tally.identical, forget=one.forget,
        )  # fmt: skip
        if weights is not None:
            window = bayes_rule.reweighed(window, history, weights)
        known = posterior.posterior(window, precision=precision, forget=one.forget, step=step)
        theta = theta + posterior.step_vector(known, length).astype(np.float32)
        on_step(step)
    return theta
