"""Tabular softmax policies of many repetitions at once, shared by all baselines.

Logits are (S, d) with d = cells · moves; a policy's table of log-probabilities has the same shape.
A trajectory is represented by its counts: how often it chose each move in each cell. Since
log π(τ) = Σ counts · log π, likelihoods, their gradients and linear rewards need only counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from szpo.types import Floats


def log_policy(theta: Floats, moves: int) -> Floats:
    """Log-probabilities (S, d) of the softmax policy with logits (S, d).

    >>> np.exp(log_policy(np.array([[0.0, np.log(3.0)]]), 2)).round(2).tolist()
    [[0.25, 0.75]]
    """
    logs = log_softmax(theta.reshape(*theta.shape[:-1], -1, moves), axis=-1)
    return np.asarray(logs.reshape(theta.shape))


def to_logits(gradient: Floats, theta: Floats, moves: int) -> Floats:
    """The gradient with respect to logits from that with respect to log-probabilities, (S, d).

    With the Jacobian of log-softmax: ∂/∂θ_sa = G_sa − π(a|s) Σ_b G_sb.
    """
    chances = np.exp(log_policy(theta, moves))
    total = gradient.reshape(*gradient.shape[:-1], -1, moves).sum(axis=-1, keepdims=True)
    spread = np.broadcast_to(total, (*total.shape[:-1], moves)).reshape(gradient.shape)
    found: Floats = gradient - chances * spread  # G_sa − π(a|s) Σ_b G_sb
    return found


def sum_by_index(index: NDArray[np.integer], size: int, weights: Floats | None = None) -> Floats:
    """Sums (..., size) of ``weights``, or of 1, grouped by ``index`` (..., H) along its last axis.

    >>> sum_by_index(np.array([[0, 2, 2]]), 3).tolist()
    [[1.0, 0.0, 2.0]]
    """
    lead = index.shape[:-1]
    rows = int(np.prod(lead, dtype=np.int64))
    flat = index.reshape(rows, -1) + size * np.arange(rows)[:, None]
    given = None if weights is None else weights.ravel()
    found = np.bincount(flat.ravel(), given, rows * size).reshape(*lead, size)
    return np.asarray(found, dtype=np.float64)


def sum_by_move(index: NDArray[np.integer], d: int, weights: Floats) -> Floats:
    """Sums (S, d) of weights by (cell, move), divided by n; index and weights are (S, n, H)."""
    *lead, n, _ = index.shape
    return np.asarray(sum_by_index(index.reshape(*lead, -1), d, weights) / n)


class Adam:
    """Gradient ascent with Adam (Kingma and Ba 2015)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first = self.second = np.zeros(shape)
        self.seen = 0

    def step(self, gradient: Floats, rate: float) -> Floats:
        """The move (S, d) to add to θ after a gradient (S, d)."""
        self.seen += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        # rate · m̂ / (√v̂ + ε), Kingma and Ba 2015, algorithm 1
        mean, square = self.first / (1 - 0.9**self.seen), self.second / (1 - 0.999**self.seen)
        return np.asarray(rate * mean / (np.sqrt(square) + 1e-8))
