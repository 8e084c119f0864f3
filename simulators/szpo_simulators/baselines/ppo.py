"""PPO-clip (Schulman et al. 2017) for tabular softmax policies, on any reward of trajectories.

In a table the clipped objective of a whole batch needs only two sums per (cell, move): of the
advantages above 0 and of those below. Epochs then cost no pass over the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.baselines.advantages import gae, returns_to_go
from szpo.types import Floats
from szpo_simulators.baselines.tables import Adam, log_policy, tallied, to_logits
from szpo_simulators.baselines.walks import MOVES, Walks, walk
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.world import draws


def sums(index: NDArray[np.integer], advantages: Floats, d: int) -> tuple[Floats, Floats]:
    """Sums (S, d) of the advantages above and below 0 over a batch, per trajectory of it.

    Args:
        index: which (cell, move) each step took, (S, n, H).
        advantages: (S, n, H).
        d: cells · moves.
    """
    lead, n = index.shape[:-2], index.shape[-2]
    flat, given = index.reshape(*lead, -1), advantages.reshape(*lead, -1)
    up = tallied(flat, d, np.maximum(given, 0)) / n
    down = tallied(flat, d, np.minimum(given, 0)) / n
    return up, down


def objective(
    theta: Floats, old: Floats, up: Floats, down: Floats, *, clip: float, moves: int
) -> Floats:
    """Σ min(ρA, clip(ρ, 1 − ε, 1 + ε)A) per trajectory, (S,), with ρ = π_θ/π_old."""
    ratio = np.exp(log_policy(theta, moves) - log_policy(old, moves))
    found: Floats = (np.minimum(ratio, 1 + clip) * up + np.maximum(ratio, 1 - clip) * down).sum(
        axis=-1
    )
    return found


def gradient(
    theta: Floats, old: Floats, up: Floats, down: Floats, *, clip: float, moves: int
) -> Floats:
    """Of `objective` with respect to the logits, (S, d): nothing from moves that are clipped."""
    ratio = np.exp(log_policy(theta, moves) - log_policy(old, moves))
    slope = ratio * (up * (ratio < 1 + clip) + down * (ratio > 1 - clip))
    return to_logits(slope, theta, moves)


@dataclass(frozen=True)
class Clip:
    """How PPO works on a reward: batches, epochs, sizes."""

    batches: int = 40
    walks: int = 64
    epochs: int = 4
    rate: float = 0.1
    """Adam's."""
    clip: float = 0.2
    lam: float = 0.95
    tie: float = 0.0
    """Weight of the KL penalty per move towards the policy it starts from."""


Reward: TypeAlias = Callable[[Walks], Floats]
"""Rewards (S, n, H) of the moves of walks."""


def improve(
    world: GridWorld,
    theta: Floats,
    reward: Reward,
    root_seeds: Sequence[int],
    how: Clip,
    *,
    first: int = 0,
    mark: Callable[[int, Floats], None] = lambda batch, theta: None,
) -> Floats:
    """Logits (S, d) after PPO-clip on a reward, with a table of V by time and cell as critic.

    The critic is the mean return to go of the batch, shrunk towards that of the time by two
    observations; advantages are standardised. ``first`` numbers the walks that are drawn.
    """
    start, adam = log_policy(theta, MOVES), Adam.empty(theta.shape)
    runs = np.arange(len(theta))[:, None, None]
    for batch in range(how.batches):
        u = draws(world, root_seeds, first + batch, 0, how.walks, "practice")
        made = walk(world, theta, u)
        taken = made.taken.astype(np.int64)
        gains = reward(made)
        if how.tie:
            gains = gains - how.tie * (log_policy(theta, MOVES) - start)[runs, taken]
        advantage = gae(gains, critic(gains, taken // MOVES, world.cells), how.lam)
        advantage -= advantage.mean((1, 2), keepdims=True)
        advantage /= advantage.std((1, 2), keepdims=True) + 1e-9
        up, down = sums(taken, advantage, theta.shape[-1])
        old = theta
        for _ in range(how.epochs):
            slope = gradient(theta, old, up, down, clip=how.clip, moves=MOVES)
            adam, move = adam.step(slope, how.rate)
            theta = theta + move
        mark(batch, theta)
    return theta


def critic(rewards: Floats, cells: NDArray[np.integer], size: int) -> Floats:
    """V (S, n, H + 1) at each move of a batch, from its rewards and cells (S, n, H)."""
    to_go = returns_to_go(rewards)
    runs, count, horizon = to_go.shape
    place = (np.arange(horizon) * size + cells).reshape(runs, -1)
    total = tallied(place, horizon * size, to_go.reshape(runs, -1))
    seen = tallied(place, horizon * size)
    usual = np.repeat(to_go.mean(1), size, axis=-1)
    table = (total + 2 * usual) / (seen + 2)
    found = np.take_along_axis(table, place, 1).reshape(runs, count, horizon)
    return np.concatenate([found, np.zeros((runs, count, 1))], axis=-1)
