"""PPO-clip (Schulman et al. 2017) for tabular softmax policies, on any reward of trajectories.

In a table the clipped objective of a whole batch needs only two sums per (cell, move): of the
advantages above 0 and of those below. Epochs then cost no pass over the trajectories.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats
from szpo_simulators.rivals.tables import log_policy, tallied, to_logits


def gae(rewards: Floats, values: Floats, lam: float, gamma: float = 1.0) -> Floats:
    """Generalised advantages (..., H) (Schulman et al. 2016).

    Args:
        rewards: r_t (..., H).
        values: V(s_t) (..., H + 1); the last is that of the end.
        lam: λ in [0, 1]: 0 gives temporal differences, 1 returns to go less V.
        gamma: discount.
    """
    errors = rewards + gamma * values[..., 1:] - values[..., :-1]
    found = np.empty_like(errors)
    ahead = np.zeros(errors.shape[:-1])
    for t in range(errors.shape[-1] - 1, -1, -1):
        ahead = errors[..., t] + gamma * lam * ahead
        found[..., t] = ahead
    return found


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
