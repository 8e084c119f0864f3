"""Bradley-Terry reward models: weights w of a trajectory's features from preferences.

P(plus preferred) = σ(x·w), x the features of plus minus those of minus (batch means where whole
batches were compared); Bradley and Terry (1952), Christiano et al. (2017).
"""

from __future__ import annotations

import numpy as np

from szpo.types import Floats

HALVINGS = 5
"""Most halvings of a Newton step."""


def loss(w: Floats, x: Floats, won: Floats, ridge: float) -> Floats:
    """−mean log-likelihood + ridge·|w|²/2, (S,): ln 2 at w = 0 without ridge.

    Args:
        w: weights (S, F).
        x: differences of features (S, n, F).
        won: share of the votes for plus (S, n), in [0, 1].
        ridge: of |w|²/2, at least 0.
    """
    m = np.einsum("...nf,...f->...n", x, w)
    each = np.logaddexp(0, -m) + (1 - won) * m
    found: Floats = each.mean(axis=-1) + ridge / 2 * (w**2).sum(axis=-1)
    return found


def gradient(w: Floats, x: Floats, won: Floats, ridge: float) -> Floats:
    """Gradient of `loss`, (S, F)."""
    off = (preference_probability(w, x) - won)[..., None]  # ∂/∂w = mean (σ(x·w) − y) x + ridge·w
    found: Floats = (np.swapaxes(x, -1, -2) @ off)[..., 0] / x.shape[-2] + ridge * w
    return found


def preference_probability(w: Floats, x: Floats) -> Floats:
    """P(plus preferred) at each difference, (S, n)."""
    found: Floats = 1 / (1 + np.exp(-(x @ w[..., None])[..., 0]))
    return found


def fit(x: Floats, won: Floats, ridge: float, rounds: int = 8) -> Floats:
    """Weights (S, F) that minimise `loss`, by damped Newton steps on all repetitions together.

    A step that raises a repetition's loss is halved, up to five times, and then taken as it is:
    beside the minimum rounding alone may seem to raise it. ridge > 0 makes the minimum unique.
    """
    w = np.zeros((x.shape[0], x.shape[-1]))
    at = loss(w, x, won, ridge)
    for _ in range(rounds):
        p = preference_probability(w, x)
        weighted = x * (p * (1 - p))[..., None]
        # Hessian of `loss`: mean p(1 − p) x xᵀ + ridge·I
        curvature = np.swapaxes(weighted, -1, -2) @ x / x.shape[-2]
        curvature += ridge * np.eye(x.shape[-1])
        slope = gradient(w, x, won, ridge)
        if np.abs(slope).max() < 1e-7:
            break
        move = np.linalg.solve(curvature, slope[..., None])[..., 0]
        for _ in range(HALVINGS):
            after = loss(w - move, x, won, ridge)
            worse = after > at
            if not worse.any():
                break
            move = np.where(worse[:, None], move / 2, move)
        w, at = w - move, loss(w - move, x, won, ridge)
    return w
