"""What the votes so far promise: the win rate of a point against the base, with an interval.

The reward of a point z, in link units over the base, is wᵀz − a|z|²/2, and σ of it the share of
votes that a batch of texts from z would win against one from the base.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.optim.vote_regression import Fit
from szpo.types import Floats

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Forecast:
    """A win rate against the base in (0, 1) and the interval of its posterior; each (...)."""

    rate: Floats
    low: Floats
    high: Floats


def forecast(fit: Fit, point: Floats, level: float = 0.95) -> Forecast:
    """Win rate of a point (..., d) against the base, under the fit and its doubt of any signal."""
    dim = fit.w.shape[-1]
    bend = np.zeros((*point.shape[:-1], fit.modes.shape[-1]))
    bend[..., :dim] = point
    if fit.has_bend:
        bend[..., -1] = -0.5 * (point**2).sum(-1)
    mean = np.einsum("...cp,...p->...c", fit.modes, bend)
    spread = np.sqrt(np.einsum("...p,...cpq,...q->...c", bend, fit.covariances, bend))
    weights = fit.weights * fit.signal[..., None]
    centre = (weights * mean).sum(-1)
    tail = (1 - level) / 2
    ends = [_quantile(weights, mean, spread, share) for share in (tail, 1 - tail)]
    return Forecast(special.expit(centre), special.expit(ends[0]), special.expit(ends[1]))


def _quantile(weights: Floats, mean: Floats, spread: Floats, share: float) -> Floats:
    """Quantile (...) of Gaussians with weights (..., C); the weight that they lack lies at 0."""
    wide = 9 * spread + np.abs(mean)
    low, high = -wide.max(-1), wide.max(-1)
    rest = 1 - weights.sum(-1)
    spread = np.maximum(spread, 1e-300)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = (weights * special.ndtr((middle[..., None] - mean) / spread)).sum(-1)
        below = below + np.where(middle >= 0, rest, 0.0)
        low, high = np.where(below < share, middle, low), np.where(below < share, high, middle)
    return np.asarray((low + high) / 2)
