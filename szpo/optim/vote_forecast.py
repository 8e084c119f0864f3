"""What the votes so far promise: gain and KL of the recommendation, now and after more votes.

The reward of a point z over the base, in link units, is wᵀz − a|z|²/2, and σ of it the share of
votes that a batch of texts from z would win against one from the base. The curvature a is fitted
for the forecast alone (`Votes.bend`); the recommendation does without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.optim.vote_regression import Fit
from szpo.types import Floats

_BISECTIONS = 60
_DRAWS = 400
"""Possible futures of a forecast."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the lower and upper end of its interval; each (...)."""

    value: Floats
    low: Floats
    high: Floats

    def rate(self) -> Interval:
        """A gain in link units as a win rate against the base."""
        return Interval(*(special.expit(each) for each in (self.value, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run would have after ``votes`` more votes; |z|²/2 is the KL in whitened nats."""

    votes: int
    gain: Interval
    """Of the recommendation over the base, in link units."""
    kl: Interval
    evidence: float
    """Probability that the votes will by then show that there is a signal."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands."""

    centre: Floats
    """(d,): the asked centre."""
    point: Floats
    """(d,): the recommendation."""
    log_factor: float
    """The largest log Bayes factor for any signal that the run has seen."""


def gain(fit: Fit, point: Floats, level: float = 0.95) -> Interval:
    """Gain of a point (..., d) over the base in link units, under the fit and its doubt."""
    at = _contrast(fit, point)
    mean = np.einsum("...cp,...p->...c", fit.modes, at)
    spread = np.sqrt(np.einsum("...p,...cpq,...q->...c", at, fit.covariances, at))
    weights = fit.weights * fit.signal[..., None]
    tail = (1 - level) / 2
    low, high = (_quantile(weights, mean, spread, share) for share in (tail, 1 - tail))
    return Interval((weights * mean).sum(-1), low, high)


def _contrast(fit: Fit, point: Floats) -> Floats:
    """The coefficients (..., p) with which a point's gain is linear in those of the fit."""
    dim = fit.w.shape[-1]
    at = np.zeros((*point.shape[:-1], fit.modes.shape[-1]))
    at[..., :dim] = point
    if fit.has_bend:
        at[..., -1] = -0.5 * (point**2).sum(-1)
    return at


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
