"""Returns and advantages (GAE) of rewards, and KL-penalised rewards per token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats


def returns_to_go(rewards: Floats, gamma: float = 1.0) -> Floats:
    """G_t = Σ_k γ^k r_{t+k}, (..., H).

    >>> returns_to_go(np.ones(3), 0.99).round(4).tolist()
    [2.9701, 1.99, 1.0]
    """
    return gae(rewards, np.zeros((*rewards.shape[:-1], rewards.shape[-1] + 1)), 1.0, gamma)


def gae(rewards: Floats, values: Floats, lam: float, gamma: float = 1.0) -> Floats:
    """Generalised advantages (..., H) (Schulman et al. 2016, eq. 16).

    Pad shorter trajectories with rewards and values of 0, so that nothing after their end counts.

    Args:
        rewards: r_t (..., H).
        values: V(s_t) (..., H + 1); the last is V of the final state.
        lam: λ in [0, 1]: 0 gives temporal differences, 1 returns to go minus V.
        gamma: discount.
    """
    # δ_t = r_t + γ V(s_{t+1}) − V(s_t)
    errors = rewards + gamma * values[..., 1:] - values[..., :-1]
    advantages = np.empty(errors.shape)
    ahead = np.zeros(errors.shape[:-1])
    for t in range(errors.shape[-1] - 1, -1, -1):
        ahead = errors[..., t] + gamma * lam * ahead  # Â_t = δ_t + γλ Â_{t+1}
        advantages[..., t] = ahead
    return advantages


def token_rewards(
    score: Floats, logp: Floats, reference: Floats, there: NDArray[np.bool_], beta: float
) -> Floats:
    """−β(log π − log π_ref) at every token, and the answer's score at its last one, (n, H).

    Their sum over an answer is r(x, y) = r_φ(x, y) − β(log π(y|x) − log π_ref(y|x)) (Ziegler et
    al. 2019, eq. 2). An answer without tokens earns nothing.

    Args:
        score: r_φ of each answer (n,).
        logp: log π of each answer's tokens (n, H).
        reference: the same of π_ref.
        there: which tokens belong to the answer, the first ones of each row (n, H).
        beta: weight β ≥ 0 of the KL penalty.
    """
    rewards = np.where(there, -beta * (logp - reference), 0.0)
    rows = np.flatnonzero(there.any(1))
    rewards[rows, there.sum(1)[rows] - 1] += score[rows]
    return rewards


def standardise(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """Standardise values where ``there``: mean 0, standard deviation 1; 0 elsewhere."""
    known = values[there]
    if not known.size:
        return np.zeros_like(values)
    return np.where(there, (values - known.mean()) / (known.std() + 1e-8), 0.0)
