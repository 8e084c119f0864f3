"""REINFORCE (Williams 1992) with returns to go and a baseline, on any reward of trajectories."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats
from szpo_simulators.rivals.tables import tallied, to_logits


def returns_to_go(rewards: Floats, gamma: float = 1.0) -> Floats:
    """G_t = Σ_k γ^k r_{t+k}, (..., H).

    >>> returns_to_go(np.ones(3), 0.99).round(4).tolist()
    [2.9701, 1.99, 1.0]
    """
    found = np.empty_like(rewards, dtype=np.float64)
    ahead = np.zeros(rewards.shape[:-1])
    for t in range(rewards.shape[-1] - 1, -1, -1):
        ahead = rewards[..., t] + gamma * ahead
        found[..., t] = ahead
    return found


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
