"""PPO-clip (Schulman et al. 2017) for tabular softmax policies, on any reward of trajectories.

For a table the clipped objective of a batch needs only two sums per (cell, move): of the
advantages above 0 and of those below 0. So an epoch needs no pass over the trajectories.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.baselines.advantages import gae, returns_to_go
from szpo.types import Floats, Ints
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.tables import Adam, log_policy, sum_by_index, sum_by_move, to_logits
from szpo_simulators.worlds.walks import MOVES, Walks, walk
from szpo_simulators.worlds.world import draws


def sum_advantages(
    index: NDArray[np.integer], advantages: Floats, d: int
) -> tuple[Floats, Floats]:
    """Sums (S, d) of the advantages above and below 0 over a batch, divided by n.

    Args:
        index: cell · moves + move of each step, (S, n, H).
        advantages: advantage of each step, (S, n, H).
        d: cells · moves.
    """
    signed = np.maximum(advantages, 0), np.minimum(advantages, 0)
    up, down = (sum_by_move(index, d, each) for each in signed)
    return up, down


def gradient(
    theta: Floats, old: Floats, up: Floats, down: Floats, *, clip: float, moves: int
) -> Floats:
    """Gradient of the clipped objective with respect to the logits, (S, d).

    The objective is Σ min(ρA, clip(ρ, 1 − ε, 1 + ε)A) per trajectory, with ρ = π_θ/π_old.
    """
    ratio = np.exp(log_policy(theta, moves) - log_policy(old, moves))
    slope = ratio * (up * (ratio < 1 + clip) + down * (ratio > 1 - clip))
    return to_logits(slope, theta, moves)


@dataclass(frozen=True)
class Recipe:
    """Settings of PPO-clip on a reward."""

    batches: int = 40
    """Batches per reward; `iterate` itself has no end."""
    walks: int = 64
    """Walks per batch."""
    epochs: int = 4
    """Gradient steps per batch."""
    rate: float = 0.1
    """Adam's learning rate."""
    clip: float = 0.2
    """ε."""
    lam: float = 0.95
    """λ of the advantages."""
    tie: float = 0.0
    """Weight of the KL penalty per move towards the starting policy."""


Reward: TypeAlias = Callable[[Walks], Floats]
"""From walks to the rewards (S, n, H) of their moves."""
Sampler: TypeAlias = Callable[[Floats, int], tuple[Ints, Floats]]
"""(θ (S, d), batch) → cell · moves + move of each step, and its reward; both (S, n, H)."""


def iterate(theta: Floats, sample: Sampler, how: Recipe, *, moves: int) -> Iterator[Floats]:
    """θ (S, d) before the first batch and after each, without end.

    Advantages come from GAE with `estimate_values` as critic and are standardised over the batch.
    """
    adam = Adam(theta.shape)
    for batch in itertools.count():
        yield theta
        taken, rewards = sample(theta, batch)
        values = estimate_values(rewards, taken // moves, theta.shape[-1] // moves)
        advantage = gae(rewards, values, how.lam)
        advantage -= advantage.mean((1, 2), keepdims=True)
        advantage /= advantage.std((1, 2), keepdims=True) + 1e-9
        up, down = sum_advantages(taken, advantage, theta.shape[-1])
        old = theta
        for _ in range(how.epochs):
            slope = gradient(theta, old, up, down, clip=how.clip, moves=moves)
            theta = theta + adam.step(slope, how.rate)


def improve(
    world: GridWorld,
    theta: Floats,
    reward: Reward,
    root_seeds: Sequence[int],
    how: Recipe,
    *,
    first: int = 0,
) -> Iterator[Floats]:
    """`iterate` on walks in a grid world with any reward.

    ``first`` is the number of the first batch, which selects the uniform numbers of its walks.
    """
    start = log_policy(theta, MOVES)
    runs = np.arange(len(theta))[:, None, None]

    def sample(theta: Floats, batch: int) -> tuple[Ints, Floats]:
        u = draws(world, root_seeds, first + batch, 0, how.walks, "practice")
        made = walk(world, theta, u)
        taken, rewards = made.taken.astype(np.int64), reward(made)
        if how.tie:
            rewards = rewards - how.tie * (log_policy(theta, MOVES) - start)[runs, taken]
        return taken, rewards

    return iterate(theta, sample, how, moves=MOVES)


def estimate_values(rewards: Floats, cells: NDArray[np.integer], size: int) -> Floats:
    """V (S, n, H + 1) at each move of a batch, from its rewards and cells (S, n, H).

    V is a table by time and cell: the batch's mean return to go, shrunk towards the mean at that
    time with the weight of two observations.
    """
    to_go = returns_to_go(rewards)
    runs, count, horizon = to_go.shape
    place = (np.arange(horizon) * size + cells).reshape(runs, -1)
    total = sum_by_index(place, horizon * size, to_go.reshape(runs, -1))
    seen = sum_by_index(place, horizon * size)
    usual = np.repeat(to_go.mean(1), size, axis=-1)
    table = (total + 2 * usual) / (seen + 2)
    found = np.take_along_axis(table, place, 1).reshape(runs, count, horizon)
    return np.concatenate([found, np.zeros((runs, count, 1))], axis=-1)
