"""Bayesian logistic regression of all of a run's votes: the fit behind the rule `regression`.

A vote that compares two batches has the feature x = z⁺ − z⁻ in whitened coordinates, and
P(plus) = σ(xᵀw + b·s): w is the gradient of the reward in link units, b what standing on side A
is worth, s = ±1 the side of plus. Texts of a batch are luck, shared by nobody else; since each
comparison has one vote this luck cannot be seen apart, and w is the attenuated gradient.

The prior is a mixture of Gaussians N(m, Λ⁻¹) of several widths, and the fit a mixture of their
Laplace posteriors, weighted by their marginal likelihoods (MacKay, "Bayesian interpolation",
Neural Computation 4, 1992). The same likelihoods against w = 0 give the probability of a signal.
Their ratio is a martingale where there is none, so that looking after every step is allowed: it
ever passes 1/α with probability at most α (Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import laplace
from szpo.optim.laplace import Approximation, Rows
from szpo.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Votes:
    """The evidence: one row per asked direction or comparison.

    Axes before the rows are repetitions. ``up`` and ``down`` are votes for plus and for minus,
    half a vote each for a tie, times the weights of their voters.
    """

    x: Floats
    """(..., R, d): z⁺ − z⁻, or a mixture with the texts' score features."""
    up: Floats
    """(..., R)."""
    down: Floats
    """(..., R)."""
    steps: Ints
    """(R,)."""
    side: Floats | None = None
    """(..., R): +1 where plus stood on A, −1 on B, 0 if balanced; None fits no such term."""
    bend: Floats | None = None
    """(..., R): −(z⁺ − z⁻)ᵀc with c the midpoint of z⁺ and z⁻; its coefficient is the curvature a
    of the reward wᵀz − a|z|²/2. None fits a linear reward."""

    @classmethod
    def empty(cls, dim: int, lead: tuple[int, ...] = ()) -> Votes:
        """No votes yet, for d coordinates."""
        none = np.zeros((*lead, 0))
        return cls(np.zeros((*lead, 0, dim)), none, none, np.zeros(0, dtype=np.int64))

    def scale(self, weight: Floats) -> Votes:
        """The same rows with their votes times a weight (..., R): one that fades with age, say."""
        return Votes(
            self.x, self.up * weight, self.down * weight, self.steps, self.side, self.bend
        )


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed about w before the votes.

    Raises:
        UsageError: a variance, width or deviation is not positive, or a probability not in (0, 1).
    """

    variances: Floats
    """(d,): of the coordinates of w, relative to each other."""
    widths: tuple[float, ...] = (0.05, 0.2, 0.8, 3.2)
    """Prior variances of the logit of an asked comparison, equally likely."""
    signal: float = 0.5
    """Probability that w ≠ 0."""
    side: float = 0.5
    """Standard deviation of the side's coefficient, in logits."""
    bend: tuple[float, float] = (0.125, 0.125)
    """Mean and standard deviation of the curvature in units of the prior's |w|: a/|w| is one over
    the distance at which the reward is highest."""

    def __post_init__(self) -> None:
        variances = np.asarray(self.variances, dtype=np.float64)
        sizes = np.array([*variances.ravel(), *self.widths, self.side, self.bend[1]])
        if variances.ndim != 1 or not self.widths or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise UsageError("prior of the votes: variances, widths and deviations must be > 0")
        if not 0 < self.signal < 1 or not math.isfinite(self.bend[0]):
            raise UsageError(f"prior of the votes: `signal` {self.signal} is not between 0 and 1")

    @classmethod
    def flat(cls, dim: int) -> Prior:
        """Equal variances of all coordinates."""
        return cls(np.ones(dim))

    @classmethod
    def falling(cls, dim: int, half: float = 8.0) -> Prior:
        """Variances 1/(1 + i/half): leading components are expected to carry more."""
        return cls(1 / (1 + np.arange(dim) / half))


@dataclass(frozen=True, slots=True)
class Fit:
    """A mixture over the prior's C Gaussians of Laplace posteriors, given that w ≠ 0.

    Coefficients are those of x (d), then of the side and of the curvature where they were fitted:
    p in all.
    """

    w: Floats
    """(..., d): posterior mean."""
    covariance: Floats
    """(..., d, d)."""
    signal: Floats
    """(...): posterior probability that w ≠ 0."""
    log_factor: Floats
    """(...): log of the Bayes factor for w ≠ 0 against w = 0."""
    side: Floats
    """(...): posterior mean of the side's coefficient; 0 where it was not fitted."""
    weights: Floats = field(repr=False)
    """(..., C): posterior probabilities of the Gaussians."""
    modes: Floats = field(repr=False)
    """(..., C, p)."""
    covariances: Floats = field(repr=False)
    """(..., C, p, p)."""
    precisions: Floats = field(repr=False)
    """(..., C, p, p): Λ of the prior's Gaussians."""
    count: Floats = field(repr=False)
    """(...): votes."""
    has_bend: bool = False
    """The last coefficient is a curvature."""

    def interval(self, x: Floats, z: float = 1.959963984540054) -> tuple[Floats, Floats]:
        """Lower and upper end of the interval of xᵀw, ± z standard deviations."""
        centre = (x * self.w).sum(-1)
        half = z * np.sqrt(np.einsum("...i,...ij,...j->...", x, self.covariance, x))
        return centre - half, centre + half


def fit(votes: Votes, prior: Prior) -> Fit:
    """The posterior of w, its uncertainty and the probability of any signal.

    A function of the set of rows: their order cannot matter. Shapes are `Votes`' and `Fit`'s.

    Raises:
        UsageError: prior and votes differ in dimension, or some number is not finite or a count
            negative.
    """
    rows = _rows(votes, prior)
    dim, lead = votes.x.shape[-1], votes.x.shape[:-2]
    found: list[Approximation] = []
    for mean, precision in _gaussians(rows, votes, prior):
        found.append(laplace.approximate(rows, mean, precision, found[-1] if found else None))
    evidence = np.stack([each.evidence for each in found], -1)
    weights = special.softmax(evidence, axis=-1)
    modes = np.stack([each.coef for each in found], -2)
    covariances = np.linalg.inv(
        np.stack([each.information + each.precision for each in found], -3)
    )
    covariances = (covariances + np.swapaxes(covariances, -1, -2)) / 2
    mean, covariance = mixture_moments(weights, modes, covariances)
    log_factor = special.logsumexp(evidence, axis=-1) - math.log(len(found))
    log_factor = log_factor - _without_signal(rows, prior, dim, votes.side is not None)
    return Fit(
        w=mean[..., :dim],
        covariance=covariance[..., :dim, :dim],
        signal=special.expit(log_factor + special.logit(prior.signal)),
        log_factor=log_factor,
        side=mean[..., dim] if votes.side is not None else np.zeros(lead),
        weights=weights,
        modes=modes,
        covariances=covariances,
        precisions=np.stack([each.precision for each in found], -3),
        count=rows.total.sum(-1),
        has_bend=votes.bend is not None,
    )


def direction(fit: Fit) -> Floats:
    """Where to go: signal · w/√(|w|² + tr Σ), shape (..., d), of length at most 1.

    Long where the votes say much, short where they say little, next to nothing where they may be
    chance.
    """
    trace = np.trace(fit.covariance, axis1=-2, axis2=-1)
    norm = np.sqrt((fit.w**2).sum(-1) + trace)
    return np.asarray((fit.signal / norm)[..., None] * fit.w)


def mixture_moments(weights: Floats, means: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """Mean (..., p) and covariance (..., p, p) of a mixture of C Gaussians."""
    mean = np.einsum("...c,...cp->...p", weights, means)
    off = means - mean[..., None, :]
    within = np.einsum("...c,...cpq->...pq", weights, covariances)
    return mean, within + np.einsum("...c,...cp,...cq->...pq", weights, off, off)


def _rows(votes: Votes, prior: Prior) -> Rows:
    """The rows in an order of their own, without those that nobody voted on; equal ones as one."""
    dim, lead = votes.x.shape[-1], votes.x.shape[:-2]
    if np.shape(prior.variances) != (dim,):
        raise UsageError(f"prior of the votes: {len(prior.variances)} variances for {dim} axes")
    more = [each[..., None] for each in (votes.side, votes.bend) if each is not None]
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
    """An order of rows (R, p) that depends on nothing but their numbers: that of their bytes."""
    flat = np.ascontiguousarray(rows).view(np.dtype((np.void, 8 * rows.shape[-1])))
    return np.argsort(flat.ravel(), kind="stable")


def _gaussians(rows: Rows, votes: Votes, prior: Prior) -> Iterator[tuple[Floats, Floats]]:
    """Means (..., p) and precisions (..., p, p) of the prior, the widest first.

    A width is the variance of xᵀw for the average vote: τ² · mean of Σ vᵢxᵢ².
    """
    lead, dim = votes.x.shape[:-2], votes.x.shape[-1]
    square = (rows.total * (rows.design[..., :dim] ** 2 @ prior.variances)).sum(-1)
    mean_square = np.where(square > 0, square / np.maximum(rows.total.sum(-1), 1e-12), 1.0)
    for width in sorted(prior.widths, reverse=True):
        tau = np.sqrt(width / mean_square)
        diagonal = [1 / (tau[..., None] ** 2 * prior.variances)]
        mean = [np.zeros((*lead, dim))]
        if votes.side is not None:
            diagonal.append(np.full((*lead, 1), 1 / prior.side**2))
            mean.append(np.zeros((*lead, 1)))
        if votes.bend is not None:
            length = tau * math.sqrt(np.sum(prior.variances))
            diagonal.append((1 / (prior.bend[1] * length) ** 2)[..., None])
            mean.append((prior.bend[0] * length)[..., None])
        yield (
            np.concatenate(mean, -1),
            np.concatenate(diagonal, -1)[..., None] * np.eye(dim + len(diagonal) - 1),
        )


def _without_signal(rows: Rows, prior: Prior, dim: int, has_side: bool) -> Floats:
    """Log evidence of w = 0, where only the side may matter."""
    if not has_side:
        return np.asarray(-math.log(2) * rows.total.sum(-1))
    lead = rows.design.shape[:-2]
    only = Rows(rows.design[..., dim : dim + 1], rows.up, rows.total)
    precision = np.full((*lead, 1, 1), 1 / prior.side**2)
    return laplace.approximate(only, np.zeros((*lead, 1)), precision, None).evidence
