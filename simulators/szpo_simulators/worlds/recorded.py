"""A world of recorded answers: a policy that moved draws from those of the start, reweighted.

Where the policy moves by z in its whitened coordinates, an answer whose scores along them are s
becomes exp(sᵀz) times as likely, to first order. So thousands of runs of votes need some dozen
answers of the start to each prompt, once, and no model. Directions are drawn as a run draws them
(`szpo.optim.posterior_directions`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.optim import named_features, parameters, posterior_directions, sample_directions
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import Space
from szpo.optim.sparse_prior import Prior
from szpo.optim.sparse_regression import Fit, fit
from szpo.optim.vote_regression import Votes
from szpo.types import Floats, Grid, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """N answers with k features, in order of their prompts, of a policy with d coordinates."""

    prompts: Ints
    """(N,): of each answer, from 0."""
    features: Floats
    """(N, k), in units of their spread within prompts."""
    scores: Floats
    """(N, d): the log-probability's slope along each coordinate; a move by z costs |z|²/2 nats."""
    named: NamedFeatures
    """The features in these coordinates."""
    reward: Floats
    """(N,)."""

    def draw(self, moves: Floats, rows: int, rng: np.random.Generator) -> Ints:
        """Answers (B, rows) of policies that moved by z (B, d), all to the same prompts."""
        chosen = rng.choice(self.prompts[-1] + 1, rows, replace=False)
        found = []
        for first, end in zip(
            np.searchsorted(self.prompts, chosen),
            np.searchsorted(self.prompts, chosen + 1),
            strict=True,
        ):
            tilt = moves @ self.scores[first:end].T
            found.append(first + (tilt + rng.gumbel(size=tilt.shape)).argmax(-1))
        return np.stack(found, axis=-1)

    def regressors(self) -> Floats:
        """(N, p): features and leading scores, what a vote is about."""
        return np.concatenate([self.features, self.scores[:, : self.named.components]], axis=1)

    def gain(self, w: Floats) -> float:
        """Spreads of the reward that a short move by weights w (p,) gains per |z| = √(2 KL)."""
        count = np.bincount(self.prompts)
        reward = self.reward - (np.bincount(self.prompts, self.reward) / count)[self.prompts]
        moved = self.scores @ (named_features.directions(self.named) @ w)
        length = math.sqrt(float((moved**2).mean())) * float(reward.std())
        return float((moved * reward).mean()) / length if length > 0 else 0.0

    def voter(self, rows: int, agreement: float, rng: np.random.Generator) -> float:
        """β at which two votes on two batches of the start that differ agree so often."""
        still = np.zeros((2, self.scores.shape[1]))
        shown = np.array([self.draw(still, rows, rng) for _ in range(1000)])
        gap = np.diff(self.reward[shown].mean(2), axis=1)
        gap = gap[gap != 0]
        low, high = 1e-4, 1e5
        for _ in range(60):
            middle = math.sqrt(low * high)
            chance = special.expit(middle * gap)
            below = float((chance**2 + (1 - chance) ** 2).mean()) < agreement
            low, high = (middle, high) if below else (low, middle)
        return low


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run asks."""

    beta: float
    """The voter's: P(plus) = σ(β times the difference of the batches' mean rewards)."""
    votes: int = 40
    rows: int = 8
    """Prompts a comparison."""
    lag: int = 0
    """Steps whose votes are still missing when a step is asked."""
    gate: float = 9.0
    """Bayes factor from which the run leaves the start."""
    noise: float = 1.0
    """Share of the seed's own direction in one that is asked, see `Settings.asking_noise`."""
    pairs: int = 8
    """Comparisons a step."""
    radius: float = 1.8
    """Half the distance of a pair, in |z|."""
    budget: float = 3.0
    """KL of the recommended point at most, nats."""
    step: float = 1.2
    """How far the centre moves in a step at most, in |z|."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a run knows after a step."""

    votes: int
    log_factor: float
    """The largest so far."""
    found: Fit


def run(world: Recorded, prior: Prior, plan: Plan, root_seed: int) -> list[Look]:
    """One run of votes, a fit after each step."""
    rng, dim = np.random.default_rng(root_seed), world.scores.shape[1]
    space = Space(root_seed, (("z", (dim,)),), sample_directions.Law("orthonormal"))
    votes, looks = Votes.empty(world.named.columns), list[Look]()
    centre, largest, regressors = np.zeros(dim), -math.inf, world.regressors()
    while len(votes.x) < plan.votes:
        known = looks[: len(looks) - plan.lag]
        if known:
            way = recommend(world, plan, known[-1]) - centre
            centre = centre + way * min(1.0, plan.step / max(float(np.linalg.norm(way)), 1e-9))
        v = _ask(world, space, plan, known, len(looks))
        moves = centre + plan.radius * np.stack([v, -v], axis=1)
        shown = np.array([world.draw(pair, plan.rows, rng) for pair in moves])
        x = regressors[shown].mean(2)
        reward = world.reward[shown].mean(2)
        chance = special.expit(plan.beta * (reward[:, 0] - reward[:, 1]))
        up = (rng.random(plan.pairs) < chance).astype(float)
        votes = Votes(
            np.concatenate([votes.x, x[:, 0] - x[:, 1]]),
            np.append(votes.up, up),
            np.append(votes.down, 1 - up),
            np.append(votes.steps, np.full(plan.pairs, len(looks))),
        )
        found = fit(votes, prior)
        largest = max(largest, found.log_factor)
        looks.append(Look(len(votes.x), largest, found))
    return looks


def recommend(world: Recorded, plan: Plan, look: Look) -> Floats:
    """Where the recommended point (d,) is: along w, as far as certainty and the gate allow."""
    found = named_features.in_coordinates(look.found, world.named, look.votes)
    square = float(found.w @ found.w)
    certain = square / (square + float(np.trace(found.covariance)))
    length = math.sqrt(2 * 0.9 * plan.budget * math.sqrt(certain))
    if look.log_factor < math.log(plan.gate):
        length = min(length, 0.5)
    return np.asarray(found.w * (length / max(math.sqrt(square), 1e-9)))


def _ask(world: Recorded, space: Space, plan: Plan, known: list[Look], step: int) -> Floats:
    """The directions (pairs, d) of a step, of length 1."""
    each, grids = range(plan.pairs), list[Grid | None]([None] * plan.pairs)
    if (
        plan.noise < 1
        and known
        and (ways := posterior_directions.ways_of(known[-1].found, world.named))
    ):
        grids = [
            posterior_directions.draw_direction(space, world.named, ways, plan.noise, step, k)
            for k in each
        ]
    v = np.array([parameters.direction_vector(space, step, k, grids[k]) for k in each])
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))
