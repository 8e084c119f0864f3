"""Bayesian logistic regression of votes on named features and coordinates of which few matter.

A comparison of two batches has the regressors x = φ(plus) − φ(minus) of the texts that were shown,
then the distance of its two policies along coordinates, and P(plus) = σ(xᵀw + b·s) as in
`szpo.optim.vote_regression`. The posterior is a mixture over supports
(`szpo.optim.sparse_prior`), each weighted by its Laplace evidence, so it names what the votes are
about. All supports are screened (`screen`), the likeliest are refitted
(George and McCulloch, "Approaches for Bayesian variable selection", Statistica Sinica 7, 1997).
The Bayes factor of all supports against none may be looked at after every step, as there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import bradley_terry
from szpo.optim.bradley_terry import Approximation, Rows, derivatives
from szpo.optim.sparse_prior import SparsePrior, Support
from szpo.optim.vote_regression import Votes
from szpo.types import Floats, Ints

REFITS = 32
"""Number of supports that are fitted exactly, besides nothing and the dense block, and as many
triples."""
ROUNDING = 2.0**20
"""Evidence is rounded to 2⁻²⁰ nats before it is compared, so no order depends on a last bit."""

_NEWTON_STEPS = 6
"""Newton steps towards each feature's mode: a parabola needs to be near it, not on it."""
_LONGEST = 4.0
"""Most logits by which one Newton step moves any vote."""
_BLOCK = 64
"""Number of features whose parabolas are made at once, to save memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A support that was fitted exactly, and what the votes say of it."""

    support: Support
    evidence: float
    """Log of prior probability times marginal likelihood, nats; a multiple of 2⁻²⁰."""
    chance: float
    """Posterior probability."""
    w: Floats
    """(features,): posterior mean of the coefficients."""
    side: float = 0.0
    """Posterior mean of the side's coefficient; 0 where it was not fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseFit:
    """The posterior. Mean and covariance are conditional on w ≠ 0, probabilities are not."""

    w: Floats
    """(k,): posterior mean."""
    covariance: Floats
    """(k, k)."""
    signal: float
    """Posterior probability that w ≠ 0."""
    log_factor: float
    """Log of the Bayes factor for w ≠ 0 against w = 0, a multiple of 2⁻²⁰."""
    less: Floats
    """(k,): probability that votes are about the feature and prefer less of it."""
    more: Floats
    """(k,): probability that votes are about the feature and prefer more of it."""
    dense: float
    """Probability that the dense block explains the votes."""
    kept: tuple[Kept, ...] = field(repr=False)
    """The supports that were fitted exactly, the likeliest first."""

    @property
    def side(self) -> float:
        """Posterior mean over the kept supports of the advantage of side A, in logits."""
        whole = sum(each.chance for each in self.kept)
        return sum(each.chance * each.side for each in self.kept) / whole


def fit_sparse(votes: Votes, prior: SparsePrior) -> SparseFit:
    """The posterior of w, and for each feature the probability that the votes are about it.

    ``votes`` are those of one run (no leading axes), with x (R, k). Rows without votes are
    ignored.
    """
    rows = _rows(votes, prior)
    nothing = _refit(rows, prior, [()])
    logits = rows.design[:, len(prior.groups) :] @ nothing[0].coef[0]
    screened = screen(rows, prior, logits)
    supports = _likeliest(screened, prior)
    exact = _refit(rows, prior, supports)
    screened.insert(supports, exact)
    dense = _refit(rows, prior, [prior.block]) if prior.block else []
    triples = screen_triples(rows, prior, logits, screened)
    leading = triples.likeliest(prior.log_triples())
    exact3 = _refit(rows, prior, leading)
    triples.insert(leading, exact3)
    fits = _Fits(nothing, dense, supports, exact, triples, leading, exact3)
    return _summarise(prior, screened, fits)


def _rows(votes: Votes, prior: SparsePrior) -> Rows:
    """The rows that somebody voted on, with the side, if it is fitted, as the last column."""
    x, up, down = votes.x, votes.up, votes.down
    if x.ndim != 2 or x.shape[1] != len(prior.groups) or not up.shape == down.shape == x.shape[:1]:
        raise UsageError(
            f"votes: features {x.shape} and counts {up.shape}, for a prior of {len(prior.groups)}"
        )
    side = np.zeros((len(x), 0)) if votes.plus_on_a is None else votes.plus_on_a[:, None]
    design = np.concatenate([x, side], axis=1)
    finite = all(np.isfinite(each).all() for each in (design, up, down))
    if not finite or (up < 0).any() or (down < 0).any():
        raise UsageError("votes: features must be finite and counts at least 0")
    cast = up + down > 0
    return Rows(design[cast], up[cast], (up + down)[cast])


def _refit(rows: Rows, prior: SparsePrior, supports: list[Support]) -> list[Approximation]:
    """Laplace approximations of the supports (leading axis), one for each width."""
    k, longest = len(prior.groups), max(map(len, supports), default=0)
    count, columns = len(rows.design), longest + rows.design.shape[1] - k
    design = np.zeros((len(supports), count, columns))
    for s, support in enumerate(supports):
        design[s, :, : len(support)] = rows.design[:, list(support)]
    design[:, :, longest:] = rows.design[:, k:]
    shape = (len(supports), count)
    own = Rows(design, np.broadcast_to(rows.up, shape), np.broadcast_to(rows.total, shape))
    fits: list[Approximation] = []
    for width in prior.widths:
        precision = np.ones((len(supports), columns))
        for s, support in enumerate(supports):
            precision[s, : len(support)] = prior.precision(support, width)
        precision[:, longest:] = prior.side**-2
        start = fits[-1] if fits else None
        mean = np.zeros(precision.shape)
        matrix = precision[:, :, None] * np.eye(columns)
        fits.append(bradley_terry.approximate(own, mean, matrix, start))
    return fits


def _likeliest(screened: Screen, prior: SparsePrior) -> list[Support]:
    """The `REFITS` likeliest supports in order; ties go to the lower feature numbers."""
    joint = _round(_over_widths(screened.evidence) + prior.log_chances()[0])
    i, j = np.triu_indices(len(joint))
    values = joint[i, j]
    order = np.argsort(-values, kind="stable")[:REFITS]
    pairs = [(int(i[at]), int(j[at])) for at in order if values[at] > -math.inf]
    return [pair[:1] if pair[0] == pair[1] else pair for pair in pairs]


@dataclass(frozen=True, slots=True, eq=False)
class _Fits:
    """Exact fits, one for each width, with supports as the leading axis."""

    nothing: list[Approximation]
    dense: list[Approximation]
    """Of the dense block; empty without one."""
    supports: list[Support]
    exact: list[Approximation]
    """Of ``supports``: singles and pairs, in the order of their evidence."""
    triples: Triples
    leading: list[Support]
    exact3: list[Approximation]
    """Of ``leading``: the likeliest triples."""


def _summarise(prior: SparsePrior, screened: Screen, fits: _Fits) -> SparseFit:
    """The posterior over all supports; exact fits are already inserted in the screens."""
    k, log_signal, triples = len(prior.groups), math.log(prior.signal), fits.triples
    log_chances, log_dense = prior.log_chances()
    log_triples, log_widths = prior.log_triples(), math.log(len(prior.widths))
    joint = screened.evidence + log_chances - log_widths
    joint3 = triples.evidence + log_triples - log_widths
    without = _evidence(fits.nothing)[0, 0]
    total = special.logsumexp(joint[:, *np.triu_indices(k)])
    if joint3.size:
        total = np.logaddexp(total, special.logsumexp(joint3))
    if fits.dense:
        total = np.logaddexp(total, _over_widths(_evidence(fits.dense))[0] + log_dense)
    log_factor = float(_round(total - without))
    signal = float(special.expit(log_factor + special.logit(prior.signal)))

    chances, mean = np.exp(joint - total), screened.mean
    w = (chances * mean).sum((0, 2))
    second = (chances * (screened.covariance + mean * mean.swapaxes(1, 2))).sum(0)
    second[range(k), range(k)] = (chances * (screened.variance + mean**2)).sum((0, 2))
    above = special.ndtr(mean / np.sqrt(screened.variance))
    more, less = (chances * above).sum((0, 2)), (chances * (1 - above)).sum((0, 2))
    triples.add_to(np.exp(joint3 - total), w, second, more, less)
    at, share = np.array(prior.block, dtype=np.int64), 0.0
    for each in fits.dense:
        weight = math.exp(each.evidence[0] + log_dense - math.log(len(fits.dense)) - total)
        coef, own = each.coef[0, : len(at)], each.covariance()[0, : len(at), : len(at)]
        w[at] += weight * coef
        second[np.ix_(at, at)] += weight * (own + np.outer(coef, coef))
        share += weight
    whole = float(np.logaddexp(log_signal + total, math.log(1 - prior.signal) + without))
    named = [log_signal + log_chances[each[0], each[-1]] for each in fits.supports]
    kept = _keep([()], fits.nothing, [math.log(1 - prior.signal)], whole)
    kept += _keep(fits.supports, fits.exact, named, whole)
    place = {tuple(each): n for n, each in enumerate(triples.at.tolist())}
    of_three = [log_signal + log_triples[place[each]] for each in fits.leading]
    kept += _keep(fits.leading, fits.exact3, of_three, whole)
    if fits.dense:
        kept += _keep([prior.block], fits.dense, [log_signal + log_dense], whole)
    return SparseFit(
        w=w,
        covariance=second - np.outer(w, w),
        signal=signal,
        log_factor=log_factor,
        less=signal * np.minimum(less, 1.0),
        more=signal * np.minimum(more, 1.0),
        dense=signal * share,
        kept=tuple(sorted(kept, key=lambda each: (-each.evidence, each.support))),
    )


def _keep(
    supports: list[Support], fits: list[Approximation], log_prior: list[float], whole: float
) -> list[Kept]:
    """What is kept of exact fits; ``whole`` is the log of the total evidence."""
    evidence = _evidence(fits)
    joint = _round(_over_widths(evidence) + log_prior)
    modes = np.array([each.coef for each in fits])
    w = np.einsum("ts,tsp->sp", special.softmax(evidence, axis=0), modes)
    longest = max(map(len, supports), default=0)
    sides = w[:, longest:].sum(-1)  # of at most one column
    return [
        Kept(
            support,
            float(joint[s]),
            math.exp(joint[s] - whole),
            w[s, : len(support)],
            float(sides[s]),
        )
        for s, support in enumerate(supports)
    ]


def _over_widths(evidence: Floats) -> Floats:
    """Log marginal likelihood (...) of supports whose T widths (T, ...) are equally likely."""
    return np.asarray(special.logsumexp(evidence, axis=0) - math.log(len(evidence)))


def _evidence(fits: list[Approximation]) -> Floats:
    """Log marginal likelihoods (T, supports)."""
    return np.array([each.evidence for each in fits])


def _round(evidence: Floats) -> Floats:
    return np.asarray(np.round(evidence * ROUNDING) / ROUNDING)


# ---- all single features and pairs, without fitting them ----


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """All single features, on the diagonal, and pairs at T widths: arrays (T, k, k).

    With k = 300 features there are 45 thousand pairs. A parabola of the log-likelihood gives the
    evidence of any pair in closed form, but errs far from the point of its expansion. So each
    feature has a parabola, expanded at the logits of that feature alone. A pair uses the parabola
    of its better feature, which then only predicts the effect of adding the other one. Three
    matrix products make all parabolas.
    """

    evidence: Floats
    """Log marginal likelihood."""
    mean: Floats
    """[i, j]: mean of the coefficient of i in the support {i, j}."""
    variance: Floats
    """[i, j]: variance of the same coefficient."""
    covariance: Floats
    """[i, j]: covariance of the coefficients of i and j; 0 on the diagonal."""

    def insert(self, supports: Sequence[Support], fits: list[Approximation]) -> None:
        """Replace the predictions for some supports by exact fits.

        ``fits`` has one for each width. Supports are the leading axis; the coefficients of a
        support's features come first.
        """
        if not supports:
            return
        i, j = (np.array([each[end] for each in supports], dtype=np.int64) for end in (0, -1))
        at, last = np.arange(len(supports)), 1 * (i != j)
        for t, each in enumerate(fits):
            own = each.covariance()
            self.evidence[t, i, j] = self.evidence[t, j, i] = each.evidence
            self.mean[t, i, j], self.mean[t, j, i] = each.coef[:, 0], each.coef[at, last]
            self.variance[t, i, j], self.variance[t, j, i] = own[:, 0, 0], own[at, last, last]
            mixed = np.where(last, own[at, 0, last], 0.0)
            self.covariance[t, i, j] = self.covariance[t, j, i] = mixed


def screen(rows: Rows, prior: SparsePrior, nothing: Floats) -> Screen:
    """Predict the evidence of all supports of one or two features.

    Args:
        rows: Votes; the design is (R, k), with the side, if it is fitted, as a last column.
        prior: The prior of k features.
        nothing: Logits (R,) where no feature matters; the Newton steps start there.
    """
    k = len(prior.groups)
    parts = [
        _expand(rows, prior, nothing, slice(at, min(at + _BLOCK, k))) for at in range(0, k, _BLOCK)
    ]
    level, slope, bend, mixed = (np.concatenate(each) for each in zip(*parts, strict=True))
    precision = (prior.scale / np.array(prior.widths)[:, None]) ** 2  # (T, k)
    at = np.arange(k)

    total = precision + bend[at, at]
    alone = level + slope[at, at] ** 2 / total / 2 + np.log(precision / total) / 2

    # Pairs [t, i, j] by the parabola of i, the anchor: `a` is the anchor, `b` the other feature.
    prior_a, prior_b = 2 * precision[:, :, None], 2 * precision[:, None, :]
    total_a, total_b = prior_a + bend[at, at][:, None], prior_b + bend
    slope_a = slope[at, at][:, None]
    volume = total_a * total_b - mixed**2
    mean_a = (total_b * slope_a - mixed * slope) / volume
    mean_b = (total_a * slope - mixed * slope_a) / volume
    pair = level[:, None] + (mean_a * slope_a + mean_b * slope) / 2
    pair += np.log(prior_a * prior_b / volume) / 2

    better = alone.max(0)[:, None] >= alone.max(0)  # i is the better feature of the two
    screened = Screen(
        evidence=np.where(better, pair, pair.swapaxes(1, 2)),
        mean=np.where(better, mean_a, mean_b.swapaxes(1, 2)),
        variance=np.where(better, total_b / volume, (total_a / volume).swapaxes(1, 2)),
        covariance=np.where(better, -mixed / volume, (-mixed / volume).swapaxes(1, 2)),
    )
    screened.evidence[:, at, at], screened.mean[:, at, at] = alone, slope[at, at] / total
    screened.variance[:, at, at], screened.covariance[:, at, at] = 1 / total, 0.0
    return screened


def _expand(
    rows: Rows, prior: SparsePrior, nothing: Floats, part: slice
) -> tuple[Floats, Floats, Floats, Floats]:
    """Parabolas of the log-likelihood around A single features (anchors), the side integrated out.

    Returns level (A,) and slope along each feature (A, k) at w = 0, then minus the second
    derivatives: along each feature (A, k), and mixed, along the anchor and each feature (A, k).
    """
    k = len(prior.groups)
    x = rows.design[:, :k]
    own = np.ascontiguousarray(x[:, part].T)  # (A, R)
    level, toward, curvature = _around(rows, prior, nothing, part)
    slope, bend, mixed = toward @ x, curvature @ (x * x), (curvature * own) @ x
    if rows.design.shape[1] == k:
        return level, slope, bend, mixed
    certain, pull, cross = _side_at(rows, prior, toward, curvature)
    with_own = np.einsum("ar,ar,r->a", curvature, own, rows.design[:, k])
    return (
        level + pull**2 * certain / 2 - np.log(certain * prior.side**2) / 2,
        slope - cross * pull[:, None],
        bend - cross**2 / certain[:, None],
        mixed - cross * (with_own / certain)[:, None],
    )


def _around(
    rows: Rows, prior: SparsePrior, nothing: Floats, part: slice | Ints
) -> tuple[Floats, Floats, Floats]:
    """The log-likelihood near each anchor's mode: level (A,), slopes and curvatures (A, R)."""
    own = np.ascontiguousarray(rows.design[:, part].T)
    precision = (prior.scale[part] / np.median(prior.widths)) ** 2
    furthest = _LONGEST / np.maximum(np.abs(own).max(1, initial=0.0), 1e-300)
    w = np.zeros(len(own))
    for _ in range(_NEWTON_STEPS):
        residual, curvature = derivatives(rows, nothing + w[:, None] * own)
        newton = np.einsum("ar,ar->a", own, residual) - precision * w
        newton /= np.einsum("ar,ar,ar->a", own, own, curvature) + precision
        w += np.clip(newton, -furthest, furthest)
    logits = nothing + w[:, None] * own
    residual, curvature = derivatives(rows, logits)
    toward = residual + curvature * logits
    level = bradley_terry.log_likelihood(rows, logits).sum(1)
    level -= np.einsum("ar,ar->a", residual + toward, logits) / 2
    return level, toward, curvature


def _side_at(
    rows: Rows, prior: SparsePrior, toward: Floats, curvature: Floats
) -> tuple[Floats, Floats, Floats]:
    """The side's precision (A,), mean (A,) and second derivatives with each feature (A, k)."""
    k = len(prior.groups)
    side = rows.design[:, k]
    certain = curvature @ side**2 + prior.side**-2
    return certain, toward @ side / certain, (curvature * side) @ rows.design[:, :k]


# ---- three named coordinates ----


@dataclass(frozen=True, slots=True, eq=False)
class Triples:
    """All supports of three named coordinates at T widths, predicted as in `Screen`."""

    at: Ints
    """(n, 3): the coordinates' regressors, in rising order."""
    evidence: Floats
    """(T, n): log marginal likelihood."""
    mean: Floats
    """(T, n, 3)."""
    covariance: Floats
    """(T, n, 3, 3)."""

    def likeliest(self, log_chances: Floats) -> list[Support]:
        """The `REFITS` likeliest by prior and evidence, in order; ties go to the lower numbers."""
        joint = _over_widths(self.evidence) + log_chances - log_chances.max(initial=-math.inf)
        order = np.argsort(-_round(joint), kind="stable")[:REFITS]
        return [tuple(each) for each in self.at[order].tolist()]

    def insert(self, supports: Sequence[Support], fits: list[Approximation]) -> None:
        """Replace the predictions for some triples by exact fits, one for each width."""
        place = {tuple(each): n for n, each in enumerate(self.at.tolist())}
        which = [place[each] for each in supports]
        for t, each in enumerate(fits if which else ()):
            self.evidence[t, which] = each.evidence
            self.mean[t, which] = each.coef[:, :3]
            self.covariance[t, which] = each.covariance()[:, :3, :3]

    def add_to(
        self, chances: Floats, w: Floats, second: Floats, more: Floats, less: Floats
    ) -> None:
        """Add the triples' part, of probability ``chances`` (T, n), to moments and to senses."""
        moment = self.covariance + self.mean[..., :, None] * self.mean[..., None, :]
        variance = np.diagonal(self.covariance, axis1=-2, axis2=-1)
        above = chances[..., None] * special.ndtr(self.mean / np.sqrt(variance))
        np.add.at(w, self.at, np.einsum("tn,tni->ni", chances, self.mean))
        pairs = self.at[:, :, None], self.at[:, None, :]
        np.add.at(second, pairs, np.einsum("tn,tnij->nij", chances, moment))
        np.add.at(more, self.at, above.sum(0))
        np.add.at(less, self.at, (chances[..., None] - above).sum(0))


def screen_triples(rows: Rows, prior: SparsePrior, nothing: Floats, screened: Screen) -> Triples:
    """Predict the evidence of all supports of three named coordinates.

    A triple uses the parabola around that coordinate of the three which explains most alone.
    ``nothing`` is as in `screen`, which made ``screened``.
    """
    block = np.array(prior.block if prior.log_triples().size else (), dtype=np.int64)
    which = np.array(list(itertools.combinations(range(len(block)), 3)), dtype=np.int64)
    which = which.reshape(-1, 3)
    at, widths = block[which], np.array(prior.widths)
    if not len(at):
        none = np.zeros((len(widths), 0, 3, 3))
        return Triples(at, none[..., 0, 0], none[..., 0], none)
    x = rows.design[:, block]
    level, toward, curvature = _around(rows, prior, nothing, block)
    slope, bend = toward @ x, (curvature[:, None] * x.T) @ x
    if rows.design.shape[1] > len(prior.groups):
        certain, pull, every = _side_at(rows, prior, toward, curvature)
        cross = every[:, block]
        level += pull**2 * certain / 2 - np.log(certain * prior.side**2) / 2
        slope -= cross * pull[:, None]
        bend -= cross[:, :, None] * cross[:, None] / certain[:, None, None]
    alone = _round(screened.evidence[:, block, block].max(0))
    best = np.take_along_axis(which, alone[which].argmax(1)[:, None], 1)
    own_slope = slope[best, which]
    own_bend = bend[best[..., None], which[:, :, None], which[:, None]]
    precision = 3 * (prior.scale[at] / widths[:, None, None]) ** 2
    total = own_bend + precision[..., None] * np.eye(3)
    covariance = np.linalg.inv(total)
    mean = np.einsum("tnij,nj->tni", covariance, own_slope)
    evidence = level[best[:, 0]] + (mean * own_slope).sum(-1) / 2
    evidence += (np.log(precision).sum(-1) - np.linalg.slogdet(total)[1]) / 2
    return Triples(at, evidence, mean, covariance)
