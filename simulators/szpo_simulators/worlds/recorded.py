"""A world of recorded answers: a policy that moved draws from those of the start, reweighted.

Where the policy moves by c along the natural gradients of its features, an answer whose scores
along them are s becomes exp(sᵀc) times as likely, to first order. So thousands of runs of votes
need some dozen answers of the start to each prompt, once, and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.optim.sparse_prior import Prior
from szpo.optim.sparse_regression import Fit, fit
from szpo.optim.vote_regression import Votes
from szpo.types import Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """N answers with k features, in order of their prompts."""

    prompts: Ints
    """(N,): of each answer, from 0."""
    features: Floats
    """(N, k), in units of their spread within prompts."""
    scores: Floats
    """(N, k): the log-probability's slope along the natural gradient of each feature."""
    metric: Floats
    """(k, k): cᵀMc/2 is the KL of a move by c in nats, to second order."""
    reward: Floats
    """(N,)."""

    def draw(self, moves: Floats, rows: int, rng: np.random.Generator) -> Ints:
        """Answers (B, rows) of policies that moved by c (B, k), all to the same prompts."""
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

    def gain(self, w: Floats) -> float:
        """Spreads of the reward that a short move by w gains per unit of |z| = √(2 KL)."""
        count = np.bincount(self.prompts)
        reward = self.reward - (np.bincount(self.prompts, self.reward) / count)[self.prompts]
        moved = self.scores @ w
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
    asking: str = "gaussian"
    """Directions: ``gaussian`` in the metric, or along a draw from the ``posterior``."""
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


def run(world: Recorded, prior: Prior, plan: Plan, rng: np.random.Generator) -> list[Look]:
    """One run of votes, a fit after each step."""
    k = world.scores.shape[1]
    root = np.asarray(np.linalg.cholesky(world.metric), dtype=np.float64)
    votes, looks = Votes.empty(k), list[Look]()
    centre, largest = np.zeros(k), -math.inf
    while len(votes.x) < plan.votes:
        known = looks[: len(looks) - plan.lag]
        if known:
            target = recommend(world, plan, known[-1])
            way = target - centre
            centre = centre + way * min(1.0, plan.step / max(_length(world, way), 1e-9))
        directions = np.array([_ask(root, plan, known, rng) for _ in range(plan.pairs)])
        moves = centre + plan.radius * np.stack([directions, -directions], axis=1)
        shown = np.array([world.draw(pair, plan.rows, rng) for pair in moves])
        x = world.features[shown].mean(2)
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
    """Where the recommended point is: along w, as far as its certainty and the gate allow."""
    w, metric = look.found.w, world.metric
    square = float(w @ metric @ w)
    certain = square / (square + float((metric * look.found.covariance).sum()))
    length = math.sqrt(2 * 0.9 * plan.budget * math.sqrt(certain))
    if look.log_factor < math.log(plan.gate):
        length = min(length, 0.5)
    return np.asarray(w * (length / max(_length(world, w), 1e-9)))


def _ask(root: Floats, plan: Plan, known: list[Look], rng: np.random.Generator) -> Floats:
    """A direction of length 1 in the metric, of which ``root`` is the Cholesky factor."""
    noise = np.linalg.solve(root.T, rng.standard_normal(len(root)))
    noise /= np.linalg.norm(root.T @ noise)
    w = noise
    if plan.asking == "posterior" and known:
        found = [each for each in known[-1].found.kept if each.support]
        odds = np.sqrt([each.chance for each in found])
        drawn = found[rng.choice(len(found), p=odds / odds.sum())]
        w = np.zeros(len(root))
        w[list(drawn.support)] = drawn.w
        w = w / max(float(np.linalg.norm(root.T @ w)), 1e-9) + 0.7 * noise
    return np.asarray(w / np.linalg.norm(root.T @ w))


def _length(world: Recorded, c: Floats) -> float:
    return math.sqrt(float(c @ world.metric @ c))
