"""Bayesian logistic regression of all of a run's votes: a mixture of fits of Bradley–Terry.

All arrays may have leading axes for many data sets at once.

A vote that compares two batches has the regressor x = z⁺ − z⁻, and P(plus) = σ(xᵀw + b·s): w is
the gradient of the reward in link units, b the advantage of side A, s = ±1 the side of plus. The
texts of a batch add noise. With one vote per comparison this noise cannot be told apart, and w is
the attenuated gradient.

The prior is a mixture of Gaussians N(m, Λ⁻¹) of several widths, and the fit a mixture of their
Laplace posteriors, weighted by their marginal likelihoods (MacKay, "Bayesian interpolation",
Neural Computation 4, 1992). The same likelihoods against w = 0 give the probability of a signal.
Where there is no signal this Bayes factor is a martingale, so it may be looked at after every
step: it ever passes 1/α with probability at most α (Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim.bradley_terry import Approximation, Rows, approximate, predict
from szpo.types import Floats, Ints

BAYES_FACTOR_NEEDED = 5.0
"""Bayes factor for any signal from which a taste is shown, and the recommended point goes the
whole way: the smallest of 3, 4, 5, 6 and 9 that none of nine kinds of verdicts without
information ever passed in more than 5 % of runs (experiments/LOG.md, 2026-11-30)."""
UNPROVEN_SHARE = 0.15
"""The share of the way that it goes below that factor, where no KL budget bounds it."""
SIDE = 0.5
"""Prior standard deviation of the side's coefficient, in logits."""
FIRST, TAIL = 8, 0.01
"""Coordinates of the smallest block that may carry the taste; variance of the others."""
_HOPELESS = 1e26


@dataclass(frozen=True, slots=True)
class Votes:
    """The evidence: one row per comparison.

    Axes before the rows are repetitions. ``up`` and ``down`` are votes for plus and for minus,
    times the weights of their voters; a tie is half a vote for each, or none.
    """

    x: Floats
    """(..., R, d): z⁺ − z⁻, or a mixture with the texts' score features."""
    up: Floats
    """(..., R)."""
    down: Floats
    """(..., R)."""
    plus_on_a: Floats | None = None
    """(..., R): +1 where plus stood on A, −1 on B, 0 if balanced; None: no such term is fitted."""

    @classmethod
    def empty(cls, dim: int, lead: tuple[int, ...] = ()) -> Votes:
        """No votes yet, for d coordinates."""
        none = np.zeros((*lead, 0))
        return cls(np.zeros((*lead, 0, dim)), none, none)


@dataclass(frozen=True, slots=True)
class Prior:
    """The prior of w: a mixture of equally likely Gaussians."""

    variances: Floats
    """(V, d): relative variances of the coordinates of w; each row is one possibility."""
    widths: tuple[float, ...] = (4.0, 16.0, 64.0)
    """Prior variances of the logit of a comparison along w, at the distance that is asked."""
    signal: float = 0.65
    """Probability that w ≠ 0."""

    def __post_init__(self) -> None:
        variances = np.asarray(self.variances, dtype=np.float64)
        sizes = np.array([*variances.ravel(), *self.widths])
        if variances.ndim != 2 or not self.widths or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise UsageError("prior of the votes: variances and widths must be > 0")
        if not 0 < self.signal < 1:
            raise UsageError(f"prior of the votes: `signal` {self.signal} is not between 0 and 1")

    @classmethod
    def flat(cls, dim: int) -> Prior:
        """Equal variances of all coordinates."""
        return cls(np.ones((1, dim)))

    @classmethod
    def blocks(cls, dim: int) -> Prior:
        """The first 8, 16, 32, … or all coordinates carry the taste: the votes decide."""
        sizes = [FIRST]
        while sizes[-1] < dim:
            sizes.append(2 * sizes[-1])
        return cls(np.where(np.arange(dim) < np.array(sizes)[:, None], 1.0, TAIL))


@dataclass(frozen=True, slots=True)
class Fit:
    """The posterior given that w ≠ 0: a mixture of the Laplace posteriors of C prior Gaussians.

    The p coefficients are those of x (d), then that of the side if fitted.
    """

    w: Floats
    """(..., d): posterior mean."""
    covariance: Floats
    """(..., d, d)."""
    signal: Floats
    """(...): posterior probability that w ≠ 0."""
    log_factor: Floats
    """(...): log of the Bayes factor for w ≠ 0 against w = 0."""
    side_coefficient: Floats
    """(...): posterior mean of the side's coefficient; 0 where it was not fitted."""
    weights: Floats = field(repr=False)
    """(..., C): posterior probabilities of the Gaussians."""


def fit(votes: Votes, prior: Prior) -> Fit:
    """The posterior of w, its uncertainty and the probability of any signal.

    The order of the rows does not matter. Shapes are those of `Votes` and `Fit`.

    Raises:
        UsageError: prior and votes differ in dimension, a number is not finite, or a count is
            negative.
    """
    rows = _rows(votes, prior)
    dim, lead = votes.x.shape[-1], votes.x.shape[:-2]
    chances, posteriors = _posteriors(rows, votes, prior)
    evidence = np.stack([each.evidence for each in posteriors], -1) + np.log(chances)
    weights = special.softmax(evidence, axis=-1)
    modes = np.stack([each.coef for each in posteriors], -2)
    covariances = np.stack([each.covariance() for each in posteriors], -3)
    mean, covariance = mixture_moments(weights, modes, covariances)
    log_factor = special.logsumexp(evidence, axis=-1)
    log_factor = log_factor - _without_signal(rows, dim, votes.plus_on_a is not None)
    return Fit(
        w=mean[..., :dim],
        covariance=covariance[..., :dim, :dim],
        signal=special.expit(log_factor + special.logit(prior.signal)),
        log_factor=log_factor,
        side_coefficient=mean[..., dim] if votes.plus_on_a is not None else np.zeros(lead),
        weights=weights,
    )


def direction(fit: Fit, log_factor: Floats | None = None, unproven: float | None = None) -> Floats:
    """The direction of w (..., d), with a length of at most 1 that grows with the evidence.

    The length is the square root of |w|/√(|w|² + tr Σ), the cosine that the posterior expects
    between its mean and the truth. Until the Bayes factor for any signal has reached
    `BAYES_FACTOR_NEEDED`, the length is at most ``unproven``, or `UNPROVEN_SHARE` of the
    full length where ``unproven`` is None.
    ``log_factor`` (...) is the largest that the run has seen; the default is the fit's own. A
    factor that was reached once stays reached.
    """
    trace = np.trace(fit.covariance, axis1=-2, axis2=-1)
    square = (fit.w**2).sum(-1)
    certainty = np.sqrt(square / np.maximum(square + trace, 1e-300))
    factor = fit.log_factor if log_factor is None else np.maximum(fit.log_factor, log_factor)
    length = np.sqrt(certainty)
    short = UNPROVEN_SHARE * length if unproven is None else np.minimum(length, unproven)
    length = np.where(factor >= math.log(BAYES_FACTOR_NEEDED), length, short)
    return np.asarray((length / np.sqrt(np.maximum(square, 1e-300)))[..., None] * fit.w)


def mixture_moments(weights: Floats, means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """Mean (..., p) and covariance (..., p, p) of a mixture of C Gaussians."""
    mean = np.einsum("...c,...cp->...p", weights, means)
    off = means - mean[..., None, :]
    within = np.einsum("...c,...cpq->...pq", weights, covariances)
    return mean, within + np.einsum("...c,...cp,...cq->...pq", weights, off, off)


def _rows(votes: Votes, prior: Prior) -> Rows:
    """Rows in canonical order; without leading axes, equal ones merged, unvoted ones dropped."""
    dim, lead = votes.x.shape[-1], votes.x.shape[:-2]
    if prior.variances.shape[1] != dim:
        raise UsageError(f"prior of the votes: {prior.variances.shape[1]} variances, {dim} axes")
    more = [] if votes.plus_on_a is None else [votes.plus_on_a[..., None]]
    whole = np.concatenate([votes.x, *more, votes.up[..., None], votes.down[..., None]], -1) + 0.0
    if not np.isfinite(whole).all() or (whole[..., -2:] < 0).any():
        raise UsageError("votes: features must be finite and counts at least 0")
    if lead:
        ordered = np.empty_like(whole)
        for index in np.ndindex(lead):
            ordered[index] = whole[index][_order(whole[index])]
    else:
        whole = whole[_order(whole)]
        new = np.ones(len(whole), dtype=bool)
        new[1:] = (whole[1:, :-2] != whole[:-1, :-2]).any(-1)
        ordered = whole[new]
        if len(whole):
            ordered[:, -2:] = np.add.reduceat(whole[:, -2:], np.flatnonzero(new), axis=0)
        ordered = ordered[ordered[:, -2:].sum(-1) > 0]
    up, down = ordered[..., -2], ordered[..., -1]
    return Rows(np.ascontiguousarray(ordered[..., :-2]), up, up + down)


def _order(rows: Floats) -> Ints:
    """Sort rows (R, p) by their bytes: an order that depends on their numbers only."""
    flat = np.ascontiguousarray(rows).view(np.dtype((np.void, 8 * rows.shape[-1])))
    return np.argsort(flat.ravel(), kind="stable")


def _posteriors(rows: Rows, votes: Votes, prior: Prior) -> tuple[list[float], list[Approximation]]:
    """Prior probability and posterior of each of the prior's Gaussians."""
    gaussians = list(_gaussians(rows, votes, prior))
    first = approximate(rows, *gaussians[0][1:])
    predicted = [first, *(predict(first, *each[1:]) for each in gaussians[1:])]
    best = np.max([each.evidence for each in predicted], axis=0)
    posteriors, start = [], first
    for (_, mean, precision), guess in zip(gaussians, predicted, strict=True):
        if guess is not first and (guess.evidence > best - math.log(_HOPELESS)).any():
            guess = start = approximate(rows, mean, precision, start)
        posteriors.append(guess)
    return [each[0] for each in gaussians], posteriors


def _gaussians(rows: Rows, votes: Votes, prior: Prior) -> Iterator[tuple[float, Floats, Floats]]:
    """Probabilities, means (..., p) and precisions (..., p, p) of the prior, the widest first."""
    dim = votes.x.shape[-1]
    square = (rows.total * (rows.design[..., :dim] ** 2).sum(-1)).sum(-1)
    mean_square = np.where(square > 0, square / np.maximum(rows.total.sum(-1), 1e-12), 1.0)
    for width in sorted(prior.widths, reverse=True):
        length = np.sqrt(width / mean_square)
        for variances in prior.variances:
            Lambda = (variances.sum() / (length[..., None] ** 2 * variances))[..., None]
            Lambda = Lambda * np.eye(dim)
            chance = 1 / (len(prior.widths) * len(prior.variances))
            yield (chance, *_with_side(votes, Lambda))


def _with_side(votes: Votes, precision: Floats) -> tuple[Floats, Floats]:
    lead, size = precision.shape[:-2], precision.shape[-1]
    if votes.plus_on_a is None:
        return np.zeros((*lead, size)), precision
    wider = np.zeros((*lead, size + 1, size + 1))
    wider[..., :size, :size] = precision
    wider[..., size, size] = 1 / SIDE**2
    return np.zeros((*lead, size + 1)), wider


def _without_signal(rows: Rows, dim: int, has_side: bool) -> Floats:
    """Log evidence of w = 0, where only the side may matter."""
    if not has_side:
        return np.asarray(-math.log(2) * rows.total.sum(-1))
    lead = rows.design.shape[:-2]
    only = Rows(rows.design[..., dim : dim + 1], rows.up, rows.total)
    precision = np.full((*lead, 1, 1), 1 / SIDE**2)
    return approximate(only, np.zeros((*lead, 1)), precision, None).evidence
