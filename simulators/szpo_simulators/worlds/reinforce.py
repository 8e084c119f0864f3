"""REINFORCE (Williams 1992) with returns to go and a baseline, on any reward of trajectories."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szpo.baselines.advantages import returns_to_go
from szpo.types import Floats
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.tables import Adam, sum_by_index, to_logits
from szpo_simulators.worlds.walks import MOVES, true_rewards, walk
from szpo_simulators.worlds.world import draws


def gradient(
    theta: Floats, index: NDArray[np.integer], advantages: Floats, *, moves: int
) -> Floats:
    """Mean over trajectories of Σ_t A_t ∇log π(a_t|s_t), (S, d).

    Args:
        theta: logits (S, d).
        index: which (cell, move) each step took, (S, n, H).
        advantages: A_t (S, n, H), constants.
        moves: per cell.
    """
    lead, n = index.shape[:-2], index.shape[-2]
    pulled = sum_by_index(index.reshape(*lead, -1), theta.shape[-1], advantages.reshape(*lead, -1))
    return to_logits(pulled / n, theta, moves)


@dataclass(frozen=True)
class Recipe:
    """Settings of REINFORCE."""

    walks: int = 32
    """Walks of a step."""
    rate: float = 0.1
    """Adam's learning rate."""


def iterate(world: GridWorld, root_seeds: Sequence[int], how: Recipe) -> Iterator[Floats]:
    """θ (S, d) before the first step and after each, without end.

    The advantage of a move is its return to go less the mean over the batch.
    """
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    adam = Adam.empty(theta.shape)
    for step in itertools.count():
        yield theta
        made = walk(world, theta, draws(world, root_seeds, step, 0, how.walks, "practice"))
        to_go = returns_to_go(true_rewards(world, made))
        advantages = to_go - to_go.mean(1, keepdims=True)
        slope = gradient(theta, made.taken, advantages, moves=MOVES)
        adam, move = adam.step(slope, how.rate)
        theta = theta + move
