"""Forecast gain and KL of the recommendation, now and after more votes.

The reward of a point z over the base, in link units, is wᵀz − a|z|²/2. Its σ is the share of votes
that a batch of texts from z would win against one from the base. The curvature a is fitted for the
forecast only (`Votes.curvature_term`); the recommendation does not use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from szpo.errors import UsageError
from szpo.optim import vote_regression
from szpo.optim.vote_regression import Fit, Prior, Votes, direction, fit
from szpo.types import Floats

DRIFT_NATS = 1.75
"""Nats by which a fit that forgets must predict better before the taste counts as changed."""
_BISECTIONS = 60
_DRAWS = 400
"""Number of simulated futures of a forecast."""
_LAPSE_RATE, _FAR_LOGIT, _EXTRA_SLOPE = 0.05, 3.0, 0.15
"""By how much a win rate's interval is wider than the posterior's; see `Interval.rate`."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the lower and upper end of its interval; each (...)."""

    value: Floats
    low: Floats
    high: Floats

    def rate(self) -> Interval:
        """A gain in link units as a win rate against the base.

        The logistic curve is wrong far out: some votes are cast without looking, and chance in the
        texts flattens the middle of the curve more than its ends. So the interval's outer ends
        allow for 5 % such votes, and for 15 % more logits beyond 3.
        """
        ends = []
        for inner, sign in ((self.low, 1.0), (self.high, -1.0)):
            logit = sign * inner  # above 0 where even this end is beyond the base
            share = special.expit(
                np.where(logit < -_FAR_LOGIT, logit + _EXTRA_SLOPE * (logit + _FAR_LOGIT), logit)
            )
            share = np.where(share > 0.5, share + _LAPSE_RATE * (0.5 - share), share)
            ends.append(share if sign > 0 else 1 - share)
        return Interval(special.expit(self.value), ends[0], ends[1])


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run would have after ``votes`` more votes."""

    votes: int
    gain: Interval
    """Gain of the recommendation over the base, in link units."""
    kl: Interval
    """|z|²/2 in whitened units, nats."""
    evidence: float
    """Probability that the votes will by then show that there is a signal."""


@dataclass(frozen=True, slots=True)
class RunPosition:
    """A run's two points and its evidence."""

    centre: Floats
    """(d,): the asked centre."""
    point: Floats
    """(d,): the recommendation."""
    log_factor: float
    """The largest log Bayes factor for any signal that the run has seen."""


def gain(found: Fit, point: Floats, level: float = 0.95) -> Interval:
    """Gain of a point (..., d) over the base in link units, with its posterior interval."""
    at = _contrast(found, point)
    mean = np.einsum("...cp,...p->...c", found.modes, at)
    spread = np.sqrt(np.einsum("...p,...cpq,...q->...c", at, found.covariances, at))
    weights = found.weights * found.signal[..., None]
    tail = (1 - level) / 2
    low, _ = _quantile(weights, mean, spread, tail)
    _, high = _quantile(weights, mean, spread, 1 - tail)
    return Interval((weights * mean).sum(-1), low, high)


def outlook(
    fits: tuple[Fit, Fit],
    standing: RunPosition,
    more: int,
    reach: float,
    hold: Callable[[Floats], Floats] | None = None,
    unproven: Floats | None = None,
) -> Outlook:
    """Forecast one run after ``more`` votes like those so far.

    ``fits`` are two fits of the same votes: the one that moves the recommendation, and one with
    the curvature. ``reach`` is the length of a recommendation of certain direction after these
    votes. ``hold`` shrinks points (draws, d) to what the run's guards allow. ``unproven`` is that
    argument of `direction`, at this reach.
    Tastes are drawn from the posterior, then the future votes' evidence on them, and the rule is
    applied to it. The log-likelihood of votes is taken as a parabola throughout.

    Raises:
        UsageError: there is no vote yet, or the second fit has no curvature.
    """
    moving, bent = fits
    if not bent.has_curvature or not float(moving.count) > 0:
        raise UsageError("a forecast needs votes, and a fit with the curvature")
    rng = np.random.default_rng(0)  # the same draws for all forecasts, so that they compare
    dim = bent.w.shape[-1]
    tastes = _tastes(bent, rng)
    if more > 0:
        local = tastes[:, :-1].copy()  # preferences around the centre
        local[:, :dim] -= tastes[:, -1:] * standing.centre
        future = _future(moving, local, more, rng)
        log_factor = np.maximum(future.log_factor, standing.log_factor)
        points = reach * direction(future, log_factor, unproven)
        points = points if hold is None else hold(points)
    else:
        log_factor = np.full(_DRAWS, standing.log_factor)
        points = np.broadcast_to(standing.point, (_DRAWS, dim))
    square = (points**2).sum(-1)
    gains = (tastes[:, :dim] * points).sum(-1) - 0.5 * tastes[:, -1] * square
    shown = log_factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)
    return Outlook(more, interval_of(gains), interval_of(square / 2), float(shown.mean()))


def interval_of(draws: Floats) -> Interval:
    """Mean and 95 % interval of draws; the mean need not lie within the interval."""
    return Interval(draws.mean(), *np.quantile(draws, [0.025, 0.975]))


def _tastes(bent: Fit, rng: np.random.Generator) -> Floats:
    """Draw coefficients (draws, p) from the posterior of one run; all 0 without a signal."""
    size = bent.modes.shape[-1]
    normal = rng.standard_normal((_DRAWS, size))
    shares = np.append(bent.weights * bent.signal, 1 - bent.signal)
    picks = np.searchsorted(np.cumsum(shares), (np.arange(_DRAWS) + 0.5) / _DRAWS)
    tastes = np.zeros((_DRAWS, size))
    for c, (mode, covariance) in enumerate(zip(bent.modes, bent.covariances, strict=True)):
        rows = picks == c
        tastes[rows] = mode + normal[rows] @ np.linalg.cholesky(covariance).T
    return tastes


def _future(fit: Fit, tastes: Floats, more: int, rng: np.random.Generator) -> Fit:
    """The fits (draws, ...) after more votes, one for each possible taste (draws, p).

    Votes so far are a parabola with information I and natural parameter b. Each further vote adds
    the mean information of the votes so far to I, and what people of that taste would vote to b.
    """
    held = np.linalg.inv(fit.covariances)
    information = np.einsum("c,cpq->pq", fit.weights, held - fit.precisions)
    toward = np.einsum("cpq,cq->cp", held, fit.modes)
    pulled = np.einsum("cpq,cq->cp", fit.precisions, fit.means)
    natural = fit.weights @ (toward - pulled)
    added = information * (more / float(fit.count))
    noise = rng.standard_normal(tastes.shape) @ _root(added)
    naturals = natural + tastes @ added + noise
    before = _evidence(fit, information, natural[None], pulled)[0][0]
    evidence, modes, covariances = _evidence(fit, information + added, naturals, pulled)
    # Correct the parabola's evidence by its error today.
    evidence = evidence + np.log(np.maximum(fit.weights, 1e-300)) + fit.log_factor - before
    weights = special.softmax(evidence, axis=-1)
    lead = (len(tastes), *covariances.shape)
    w, covariance = vote_regression.mixture_moments(
        weights, modes, np.broadcast_to(covariances, lead)
    )
    dim, log_factor = fit.w.shape[-1], special.logsumexp(evidence, axis=-1)
    return dataclasses.replace(
        fit, w=w[:, :dim], covariance=covariance[:, :dim, :dim], log_factor=log_factor,
        weights=weights, modes=modes,
    )  # fmt: skip


def _root(information: Floats) -> Floats:
    """A symmetric square root (p, p) of information, which may be singular."""
    values, axes = np.linalg.eigh(information)
    return np.asarray((axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T)


def _evidence(
    fit: Fit, information: Floats, naturals: Floats, pulled: Floats
) -> tuple[Floats, Floats, Floats]:
    """Log evidence (draws, C) against no signal, modes (draws, C, p) and covariances (C, p, p)."""
    dim = fit.w.shape[-1]
    precision = information + fit.precisions
    covariances = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    right = naturals[:, None, :] + pulled
    modes: Floats = np.einsum("cpq,ncq->ncp", covariances, right)
    ratio = np.linalg.slogdet(fit.precisions)[1] - np.linalg.slogdet(precision)[1]
    prior = (fit.means * pulled).sum(-1)
    evidence = np.asarray(0.5 * ((modes * right).sum(-1) - prior + ratio))
    if fit.modes.shape[-1] > dim:  # the side may matter even without a signal
        alone, certain = information[dim, dim], fit.precisions[0, dim, dim]
        share = naturals[:, dim] ** 2 / (alone + certain) - np.log1p(alone / certain)
        evidence = evidence - 0.5 * share[:, None]
    return evidence, modes, covariances


def win_rates(found: Fit, votes: Votes) -> Floats:
    """Predicted share of votes for plus in each row (..., R) of ``votes``."""
    more = [
        each[..., None] for each in (votes.plus_on_a, votes.curvature_term) if each is not None
    ]
    rows = np.concatenate([votes.x, *more], -1)
    eta = np.einsum("...rp,...cp->...cr", rows, found.modes)
    variance = np.einsum("...rp,...cpq,...rq->...cr", rows, found.covariances, rows)
    rate = special.expit(eta / np.sqrt(1 + math.pi * variance / 8))
    return np.asarray((found.weights[..., None] * rate).sum(-2))


def drift(votes: Votes, prior: Prior, forget: float = 0.94, last: int = 40) -> Floats:
    """How much better a fit that forgets predicts the last votes, in nats, (...).

    Each step that holds some of the last 40 rows is predicted from earlier steps by two fits: in
    one, a vote of age a steps weighs ``forget``ᵃ; the other forgets nothing. A difference of
    `DRIFT_NATS` says that the taste has changed.
    """
    gain = np.zeros(votes.x.shape[:-2])
    for step in np.unique(votes.steps[-last:]):
        before, here = _rows(votes, votes.steps < step), _rows(votes, votes.steps == step)
        fading = before.scale(forget ** (step - 1 - before.steps.astype(np.float64)))
        for past, sign in ((fading, 1.0), (before, -1.0)):
            rate = win_rates(fit(past, prior), here)
            gain = gain + sign * (here.up * np.log(rate) + here.down * np.log1p(-rate)).sum(-1)
    return np.asarray(gain)


def _rows(votes: Votes, where: NDArray[np.bool_]) -> Votes:
    side, bend = (
        None if each is None else each[..., where]
        for each in (votes.plus_on_a, votes.curvature_term)
    )
    return Votes(
        votes.x[..., where, :], votes.up[..., where], votes.down[..., where],
        votes.steps[where], side, bend,
    )  # fmt: skip


def _contrast(fit: Fit, point: Floats) -> Floats:
    """The factors (..., p) on the fit's coefficients in a point's gain, which is their sum."""
    dim = fit.w.shape[-1]
    at = np.zeros((*point.shape[:-1], fit.modes.shape[-1]))
    at[..., :dim] = point
    if fit.has_curvature:
        at[..., -1] = -0.5 * (point**2).sum(-1)
    return at


def _quantile(
    weights: Floats, mean: Floats, spread: Floats, share: float
) -> tuple[Floats, Floats]:
    """Bounds, below and above, of a quantile (...) of Gaussians with weights (..., C).

    The weight that is missing from 1 lies at 0.
    """
    wide = 9 * spread + np.abs(mean)
    low, high = -wide.max(-1), wide.max(-1)
    rest = 1 - weights.sum(-1)
    spread = np.maximum(spread, 1e-300)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = (weights * special.ndtr((middle[..., None] - mean) / spread)).sum(-1)
        below = below + np.where(middle >= 0, rest, 0.0)
        low, high = np.where(below < share, middle, low), np.where(below < share, high, middle)
    return low, high
