"""REINFORCE (Williams 1992) with returns to go and a baseline, on any reward of trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szpo.baselines.advantages import returns_to_go
from szpo.types import Floats
from szpo_simulators.baselines.curves import Curve, curve
from szpo_simulators.baselines.tables import Adam, tallied, to_logits
from szpo_simulators.baselines.walks import MOVES, walk
from szpo_simulators.worlds.gridworld import GridWorld
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
    pulled = tallied(index.reshape(*lead, -1), theta.shape[-1], advantages.reshape(*lead, -1))
    return to_logits(pulled / n, theta, moves)


@dataclass(frozen=True)
class Recipe:
    """How walks become a policy."""

    walks: int = 32
    """Per step."""
    rate: float = 0.1
    """Adam's."""


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    steps: int,
    how: Recipe,
    marks: Sequence[int] = (),
) -> Curve:
    """REINFORCE on the true reward of every move, returns to go less their mean over the batch."""
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    adam = Adam.empty(theta.shape)
    values, read = [], []
    for step in range(steps):
        made = walk(world, theta, draws(world, root_seeds, step, 0, how.walks, "practice"))
        gains = world.arrival[made.states]
        gains[..., -1] += world.ending[made.states[..., -1]]
        to_go = returns_to_go(gains)
        advantages = to_go - to_go.mean(1, keepdims=True)
        slope = gradient(theta, made.taken, advantages, moves=MOVES)
        adam, move = adam.step(slope, how.rate)
        theta = theta + move
        if step + 1 in (marks or (steps,)):
            values.append(world.value(theta))
            read.append((step + 1) * how.walks)
    return curve(values, [0] * len(read), read)
