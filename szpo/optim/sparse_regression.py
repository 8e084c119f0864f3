"""Bayesian logistic regression of votes on named features of which one or two matter.

A comparison of two batches has the features x = φ(plus) − φ(minus) of the texts that were shown,
and P(plus) = σ(xᵀw + b·s) as in `szpo.optim.vote_regression`. The posterior is a mixture over
supports (`szpo.optim.sparse_prior`), each weighted by its Laplace evidence: so it says in words
what the votes are about. All supports are screened (`szpo.optim.sparse_screen`), the likeliest
fitted exactly (George and McCulloch, "Approaches for Bayesian variable selection", Statistica
Sinica 7, 1997). The Bayes factor of all of them against none may be looked at after every step,
as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import laplace
from szpo.optim.laplace import Approximation, Rows
from szpo.optim.sparse_prior import Prior, Support
from szpo.optim.sparse_screen import Screen, screen
from szpo.optim.vote_regression import Votes
from szpo.types import Floats

REFITS = 32
"""Supports that are fitted exactly, besides nothing and the dense block."""
_ROUNDING = 2.0**20
"""Evidence is rounded to 2⁻²⁰ nats before it is compared: no order hangs on a last bit."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A support that was fitted exactly, and what the votes say of it."""

    support: Support
    evidence: float
    """Log of its prior probability times marginal likelihood, nats, a multiple of 2⁻²⁰."""
    chance: float
    """Posterior probability."""
    w: Floats
    """(features,): posterior mean of its coefficients."""
    side: float = 0.0
    """Of the side's coefficient, where it was fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The posterior. Mean and covariance are given that w ≠ 0, probabilities are not."""

    w: Floats
    """(k,): posterior mean."""
    covariance: Floats
    """(k, k)."""
    signal: float
    """Posterior probability that w ≠ 0."""
    log_factor: float
    """Log of the Bayes factor for w ≠ 0 against w = 0, a multiple of 2⁻²⁰."""
    less: Floats
    """(k,): probability that a feature is one of the one or two, and less of it is liked."""
    more: Floats
    """(k,): that more of it is liked."""
    dense: float
    """Probability that the dense block explains the votes."""
    kept: tuple[Kept, ...] = field(repr=False)
    """Nothing, the dense block and the likeliest others, the likeliest first."""

    @property
    def side(self) -> float:
        """Posterior mean of what standing on side A is worth, logits, over what is kept."""
        whole = sum(each.chance for each in self.kept)
        return sum(each.chance * each.side for each in self.kept) / whole


def fit(votes: Votes, prior: Prior, aside: Sequence[int] = ()) -> Fit:
    """The posterior of w, and how likely it is that each feature is what the votes are about.

    ``votes`` are those of one run (no leading axes), with x (R, k); a row without votes is as if
    it were not there. A curvature is not fitted. Features ``aside`` may explain votes, and are not
    followed: their weights are 0, and the signal is what the votes are about besides.

    Raises:
        UsageError: prior and votes differ in shape, or some number is not finite or a count
            negative.
    """
    rows = _rows(votes, prior)
    nothing = _refit(rows, prior, [()])
    found = screen(rows, prior, rows.design[:, len(prior.groups) :] @ nothing[0].coef[0])
    supports = _likeliest(found, prior)
    exact = _refit(rows, prior, supports)
    found.insert(supports, exact)
    dense = _refit(rows, prior, [prior.block]) if prior.block else []
    return _summarise(prior, found, nothing, dense, supports, exact, list(aside))


def _rows(votes: Votes, prior: Prior) -> Rows:
    """The rows that somebody voted on, with the side as the last column."""
    x, up, down = votes.x, votes.up, votes.down
    if x.ndim != 2 or x.shape[1] != len(prior.groups) or not up.shape == down.shape == x.shape[:1]:
        raise UsageError(
            f"votes: features {x.shape} and counts {up.shape}, for a prior of {len(prior.groups)}"
        )
    side = np.zeros((len(x), 0)) if votes.side is None else votes.side[:, None]
    design = np.concatenate([x, side], axis=1)
    finite = all(np.isfinite(each).all() for each in (design, up, down))
    if not finite or (up < 0).any() or (down < 0).any():
        raise UsageError("votes: features must be finite and counts at least 0")
    cast = up + down > 0
    return Rows(design[cast], up[cast], (up + down)[cast])


def _refit(rows: Rows, prior: Prior, supports: list[Support]) -> list[Approximation]:
    """Laplace's approximations of supports (the leading axis), one for each width.

    Coefficients are those of the longest support, then the side's where there is one. Where a
    support is shorter the rest is 0, without effect on its evidence.
    """
    k, longest = len(prior.groups), max(map(len, supports), default=0)
    count, columns = len(rows.design), longest + rows.design.shape[1] - k
    design = np.zeros((len(supports), count, columns))
    for s, support in enumerate(supports):
        design[s, :, : len(support)] = rows.design[:, list(support)]
    design[:, :, longest:] = rows.design[:, k:]
    shape = (len(supports), count)
    own = Rows(design, np.broadcast_to(rows.up, shape), np.broadcast_to(rows.total, shape))
    found: list[Approximation] = []
    for width in prior.widths:
        precision = np.ones((len(supports), columns))
        for s, support in enumerate(supports):
            precision[s, : len(support)] = prior.precision(support, width)
        precision[:, longest:] = prior.side**-2
        start = found[-1] if found else None
        mean = np.zeros(precision.shape)
        matrix = precision[:, :, None] * np.eye(columns)
        found.append(laplace.approximate(own, mean, matrix, start))
    return found


def _likeliest(found: Screen, prior: Prior) -> list[Support]:
    """The likeliest supports in order, `REFITS` at most; of equals that of the lower features."""
    joint = _round(_over_widths(found.evidence) + prior.log_chances()[0])
    i, j = np.triu_indices(len(joint))
    values = joint[i, j]
    order = np.argsort(-values, kind="stable")[:REFITS]
    pairs = [(int(i[at]), int(j[at])) for at in order if values[at] > -math.inf]
    return [pair[:1] if pair[0] == pair[1] else pair for pair in pairs]


def _summarise(
    prior: Prior,
    found: Screen,
    nothing: list[Approximation],
    dense: list[Approximation],
    supports: list[Support],
    exact: list[Approximation],
    aside: list[int],
) -> Fit:
    """The posterior from what all supports say; those fitted exactly are in the screen too.

    A support of features aside alone counts with nothing.
    """
    k, log_signal = len(prior.groups), math.log(prior.signal)
    log_chances, log_dense = prior.log_chances()
    joint = found.evidence + log_chances - math.log(len(prior.widths))
    without = null = _evidence(nothing)[0, 0]
    signal, beside = prior.signal, -math.inf
    if aside:
        rest = np.zeros((k, k), dtype=bool)
        rest[np.ix_(aside, aside)] = True
        beside = special.logsumexp(joint[:, rest & np.triu(np.ones_like(rest))])
        share = float(np.exp(log_chances[rest & np.triu(np.ones_like(rest))]).sum())
        joint = np.where(rest, -np.inf, joint)
        null = np.logaddexp(log_signal + beside, math.log(1 - signal) + without)
        signal *= 1 - share
        null -= math.log(1 - signal)
    total = special.logsumexp(joint[:, *np.triu_indices(k)])
    if dense:
        total = np.logaddexp(total, _over_widths(_evidence(dense))[0] + log_dense)
    log_factor = float(_round(total - math.log(signal / prior.signal) - null))
    signal = float(special.expit(log_factor + special.logit(signal)))

    chances, mean = np.exp(joint - total), found.mean
    w = (chances * mean).sum((0, 2))
    second = (chances * (found.covariance + mean * mean.swapaxes(1, 2))).sum(0)
    second[range(k), range(k)] = (chances * (found.variance + mean**2)).sum((0, 2))
    at, share = np.array(prior.block, dtype=np.int64), 0.0
    for each in dense:
        weight = math.exp(each.evidence[0] + log_dense - math.log(len(dense)) - total)
        coef, own = each.coef[0, : len(at)], each.covariance()[0, : len(at), : len(at)]
        w[at] += weight * coef
        second[np.ix_(at, at)] += weight * (own + np.outer(coef, coef))
        share += weight
    followed = np.ones(k)
    followed[aside] = 0.0
    above = special.ndtr(mean / np.sqrt(found.variance))

    w[aside] = second[aside] = second[:, aside] = 0.0
    whole = float(np.logaddexp(log_signal + total, math.log(1 - prior.signal) + without))
    whole = float(np.logaddexp(whole, log_signal + beside))
    named = [log_signal + log_chances[each[0], each[-1]] for each in supports]
    kept = _keep([()], nothing, [math.log(1 - prior.signal)], whole)
    kept += _keep(supports, exact, named, whole)
    if dense:
        kept += _keep([prior.block], dense, [log_signal + log_dense], whole)
    return Fit(
        w=w,
        covariance=second - np.outer(w, w),
        signal=signal,
        log_factor=log_factor,
        less=signal * followed * np.minimum((chances * (1 - above)).sum((0, 2)), 1.0),
        more=signal * followed * np.minimum((chances * above).sum((0, 2)), 1.0),
        dense=signal * share,
        kept=tuple(sorted(kept, key=lambda each: (-each.evidence, each.support))),
    )


def _keep(
    supports: list[Support], found: list[Approximation], log_prior: list[float], whole: float
) -> list[Kept]:
    """What is kept of exact fits, with the log of all evidence."""
    evidence = _evidence(found)
    joint = _round(_over_widths(evidence) + log_prior)
    modes = np.array([each.coef for each in found])
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


def _evidence(found: list[Approximation]) -> Floats:
    """Log marginal likelihoods (T, supports)."""
    return np.array([each.evidence for each in found])


def _round(evidence: Floats) -> Floats:
    return np.asarray(np.round(evidence * _ROUNDING) / _ROUNDING)
