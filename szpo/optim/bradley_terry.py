"""The one fit of Bradley–Terry: logistic regression under a Gaussian prior, by Laplace.

P(plus) = σ(η) with η = xᵀw, where x is what differs between the sides of a comparison (Bradley and
Terry, 1952, with regressors). A vote may count as any part of one: a tie is half a vote for each
side. The advantage of a side on the page is one more column of x. The rule, tastes, clusters,
reward weights and particles all call it.

All arrays may have leading axes for many data sets at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.types import Floats

_NEWTON_STEPS = 100
_HALVINGS = 40
_SETTLED = 1e-10
"""Newton's method stops when no logit changes by more than this in a step."""
_SAME_HESSIAN = 3e-3
"""The Hessian is reused while no logit changes by more than this in a step."""
_BLOCK = 4096
"""Number of rows whose products are summed at once."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Design matrix (..., R, p), votes for plus (..., R) and numbers of all votes (..., R)."""

    design: Floats
    up: Floats
    total: Floats


@dataclass(frozen=True, slots=True)
class Approximation:
    """The Gaussian approximation around a posterior's mode."""

    coef: Floats
    """(..., p): the mode."""
    information: Floats
    """(..., p, p): information of the votes at the mode."""
    mean: Floats
    """(..., p): prior mean."""
    precision: Floats
    """(..., p, p): prior precision."""
    likelihood: Floats
    """(...): log-likelihood at the mode."""
    evidence: Floats
    """(...): log marginal likelihood of the votes."""

    def covariance(self) -> Floats:
        """Posterior covariance (..., p, p): the inverse of information plus precision."""
        inverse = np.linalg.inv(self.information + self.precision)
        return np.asarray((inverse + np.swapaxes(inverse, -1, -2)) / 2)


def approximate(
    rows: Rows, mean: Floats, precision: Floats, start: Approximation | None = None
) -> Approximation:
    """The posterior under the prior N(mean, precision⁻¹), by Newton's method.

    ``start`` is a posterior of the same rows under another prior: it saves time and changes the
    result by rounding only. The log posterior is concave; steps that overshoot are halved. The
    likelihood's Hessian costs R·p² products, so it is recomputed only after a step that changed
    some logit by more than `_SAME_HESSIAN`: near the mode an old Hessian is good enough.
    """
    x = rows.design
    coef = mean if start is None else start.coef
    information = None if start is None else start.information
    eta = _times(x, coef)
    height = _log_posterior(rows, eta, coef - mean, precision)
    for _ in range(_NEWTON_STEPS):
        rate = special.expit(eta)
        if information is None:
            information = _information(x, rows.total * rate * (1 - rate))
        residual = np.asarray(rows.up - rows.total * rate)
        gradient = _times(np.swapaxes(x, -1, -2), residual) - _times(precision, coef - mean)
        newton = np.linalg.solve(information + precision, gradient[..., None])
        move = np.asarray(newton[..., 0], dtype=np.float64)
        move_eta = _times(x, move)
        slope = (gradient * move).sum(-1)
        size = np.ones(height.shape)
        for _ in range(_HALVINGS):
            part = size[..., None]
            trial = _log_posterior(
                rows, eta + part * move_eta, coef + part * move - mean, precision
            )
            # Near the mode, rounding hides the last increase.
            short = trial < height + 1e-4 * size * slope - 1e-12 * (1 + np.abs(height))
            if not short.any():
                break
            size = np.where(short, size / 2, size)
        part = size[..., None]
        coef, eta, height = coef + part * move, eta + part * move_eta, trial
        moved = np.abs(part * move_eta).max(initial=0.0)
        if moved > _SAME_HESSIAN:
            information = None
        if moved <= _SETTLED:
            break
    rate = special.expit(eta)
    information = _information(x, rows.total * rate * (1 - rate))
    likelihood = log_likelihood(rows, eta).sum(-1)
    return _approximation(coef, information, mean, precision, likelihood)


def fit_ridge(
    x: Floats, up: Floats, ridge: float, total: Floats | None = None,
    start: Approximation | None = None,
) -> Approximation:  # fmt: skip
    """The posterior under the prior N(0, 1/``ridge``) of each weight, as `approximate` has it.

    ``x`` (..., n, p), votes for plus ``up`` (..., n) of ``total`` ones, 1 by default.

    >>> fit = fit_ridge(np.ones((3, 1)), np.array([1.0, 1.0, 0.0]), 1e-9)
    >>> fit.coef.round(4).tolist()  # the logarithm of the odds, log 2
    [0.6931]
    """
    lead, size = np.broadcast_shapes(x.shape[:-2], up.shape[:-1]), x.shape[-1]
    rows = Rows(x, up, np.ones(up.shape) if total is None else total)
    precision = np.broadcast_to(ridge * np.eye(size), (*lead, size, size))
    return approximate(rows, np.zeros((*lead, size)), precision, start)


def predict(known: Approximation, mean: Floats, precision: Floats) -> Approximation:
    """Predict the posterior under another prior, with the log-likelihood taken as a parabola.

    Needs no pass over the votes, and is more exact with more votes.
    """
    slope = _times(known.precision, known.coef - known.mean)  # of the likelihood, at its mode
    pull = slope + _times(precision, mean - known.coef)
    newton = np.linalg.solve(known.information + precision, pull[..., None])
    move = np.asarray(newton[..., 0], dtype=np.float64)
    bend = (move * _times(known.information, move)).sum(-1)
    likelihood = known.likelihood + (slope * move).sum(-1) - 0.5 * bend
    return _approximation(known.coef + move, known.information, mean, precision, likelihood)


def _approximation(
    coef: Floats, information: Floats, mean: Floats, precision: Floats, likelihood: Floats
) -> Approximation:
    off = coef - mean
    volume = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(information + precision)[1]
    evidence = likelihood - 0.5 * (off * _times(precision, off)).sum(-1) + 0.5 * volume
    return Approximation(coef, information, mean, precision, likelihood, evidence)


def _times(matrix: Floats, vector: Floats) -> Floats:
    """Matrix (..., n, m) times vector (..., m)."""
    if matrix.ndim == 2:
        return np.asarray(matrix @ vector)  # several times faster than the product of matrices
    return np.asarray((matrix @ vector[..., None])[..., 0])


def log_likelihood(rows: Rows, eta: Floats) -> Floats:
    """Log-likelihood of each row's votes at logits η; both (..., R)."""
    return np.asarray(rows.total * special.log_expit(eta) - (rows.total - rows.up) * eta)


def derivatives(rows: Rows, eta: Floats) -> tuple[Floats, Floats]:
    """Slope and minus the second derivative of each row's log-likelihood at logits (..., R)."""
    rate = special.expit(eta)
    expected = rows.total * rate
    return rows.up - expected, expected * (1 - rate)


def _log_posterior(rows: Rows, eta: Floats, off: Floats, precision: Floats) -> Floats:
    """Log-likelihood at logits η (..., R) plus log prior at mean + ``off``, up to constants."""
    quadratic = (off * _times(precision, off)).sum(-1)
    return np.asarray(log_likelihood(rows, eta).sum(-1) - 0.5 * quadratic)


def _information(x: Floats, curvature: Floats) -> Floats:
    """XᵀCX of rows (..., R, p) and diagonal C (..., R), in blocks that fit a processor's cache."""
    total = np.zeros((*x.shape[:-2], x.shape[-1], x.shape[-1]))
    for first in range(0, x.shape[-2], _BLOCK):
        part = slice(first, first + _BLOCK)
        half = x[..., part, :] * np.sqrt(curvature[..., part, None])
        total += np.swapaxes(half, -1, -2) @ half
    return total
