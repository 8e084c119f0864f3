"""Links σ, and their inverse: from counted votes to value differences.

A link σ is the probability that plus is preferred, as a function of the value difference. It is
increasing, with σ(0) = ½ and σ(−x) = 1 − σ(x). Functions take arrays of any shape.

A comparison n has k_n votes for plus out of M (a tie is half a vote for each side); Δ̂_n
estimates the difference of the two policies' mean returns in units of the link. Arrays may have
any leading axes; the last axis is n, the comparisons of one direction.

Exactness: for the logistic link and whole or half votes, `haldane` takes its logarithms from
`decimal` at 50 digits, rounded once, and means are summed in the order of n by plain additions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from szpo.errors import UsageError
from szpo.types import Floats, Tally

LOG_2 = math.log(2.0)

_FIFTY_DIGITS = Context(prec=50)
TRIM = 4.0
"""H: the trimmed share is clipped to [σ(−H), σ(H)]."""
EXACT_BELOW = 2**12
"""From this many votes on, `moments` and `haldane` do not compute with exact tables and sums."""
Inversion = Callable[[Floats, Floats], Floats]
"""(k, M) → Δ̂_n, elementwise; 0 where M = 0."""


@dataclass(frozen=True)
class Link:
    """A link by name: its probability, its inverse (±inf at 1 and 0) and its slope at 0."""

    name: str
    prob: Callable[[ArrayLike], Floats]
    inverse: Callable[[ArrayLike], Floats]
    slope0: float


def link(name: str) -> Link:
    """The link of that name: logistic, probit, cauchit, cloglog, linear or linear:B.

    >>> link("logistic").prob([0.0, 2.0]).round(4).tolist()
    [0.5, 0.8808]
    >>> link("linear:4").inverse(0.75).item()
    2.0
    """
    kind, _, width = name.partition(":")
    if kind == "linear":
        try:
            return linear(float(width) if width else 2.0)
        except ValueError:
            raise UsageError(f"link: {name!r} needs a number after the colon") from None
    if name not in LINKS:
        names = ", ".join((*LINKS, "linear:B"))
        raise UsageError(f"link: {name!r} is unknown; choose one of {names}")
    return LINKS[name]


def linear(width: float) -> Link:
    """½ + x / 2B, clipped to [0, 1]; its inverse is exact for |x| < B."""
    if not (width > 0 and math.isfinite(width)):
        raise UsageError(f"link: linear needs a positive width, not {width}")
    return Link(
        f"linear:{width:g}",
        lambda x: np.clip(0.5 + _array(x) / (2 * width), 0.0, 1.0),
        lambda p: 2 * width * (_array(p) - 0.5),
        1 / (2 * width),
    )


def _array(x: ArrayLike) -> Floats:
    return np.asarray(x, dtype=np.float64)


def _cauchit_inverse(p: ArrayLike) -> Floats:
    q = _array(p)
    with np.errstate(divide="ignore"):
        # The cotangent of the nearer tail gives ±inf at 0 and 1.
        tail = 1 / np.tan(np.pi * np.minimum(q, 1 - q))
    return np.asarray(np.where(q == 0.5, 0.0, np.where(q > 0.5, tail, -tail)))


def _cloglog_tail(x: Floats) -> Floats:
    """1 − σ(x) of the symmetric link, without cancellation for large x."""
    return 0.5 * (np.exp(-np.exp(x) * LOG_2) - np.expm1(-np.exp(-x) * LOG_2))


def _cloglog_prob(x: ArrayLike) -> Floats:
    y = _array(x)
    with np.errstate(over="ignore"):
        tail = _cloglog_tail(np.abs(y))
    return np.where(y > 0, 1 - tail, tail)


def _cloglog_inverse(p: ArrayLike) -> Floats:
    """Bisection on the tail, whose range 0 … 45 covers every double below 1."""
    q = _array(p)
    goal = np.minimum(q, 1 - q)
    low, high = np.zeros_like(q), np.full_like(q, 750.0)
    with np.errstate(over="ignore"):
        for _ in range(64):
            middle = (low + high) / 2
            above = _cloglog_tail(middle) > goal
            low, high = np.where(above, middle, low), np.where(above, high, middle)
    size = np.where(goal == 0, np.inf, np.where(goal == 0.5, 0.0, (low + high) / 2))
    return np.asarray(np.where(q > 0.5, size, -size))


LINKS: dict[str, Link] = {
    "logistic": Link("logistic", special.expit, special.logit, 0.25),
    "probit": Link("probit", special.ndtr, special.ndtri, 1 / math.sqrt(2 * math.pi)),
    "cauchit": Link(
        "cauchit", lambda x: 0.5 + np.arctan(_array(x)) / np.pi, _cauchit_inverse, 1 / np.pi
    ),
    # 1 − exp(−eˣ ln 2), made symmetric: it stands in for the published Weibull link.
    "cloglog": Link("cloglog", _cloglog_prob, _cloglog_inverse, LOG_2 / 2),
}

LOGISTIC = LINKS["logistic"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value difference per direction (...), its standard error, and counted comparisons.

    ``stderr`` is inf where nothing was counted, and 0 where all comparisons were identical.
    """

    delta: Floats
    stderr: Floats
    counted: NDArray[np.int64]


def inversion(smoothing: str, link: Link = LOGISTIC) -> Inversion:
    """The per-comparison estimator of that name.

    ``haldane``: log((k+½)/(M−k+½)); for other links the inverse at (k+½)/(M+1). ``trim``: the
    inverse at k/M clipped to [σ(−H), σ(H)], as published (Zhang & Ying, arXiv 2409.17401).

    >>> inversion("haldane")(np.array([1.0]), np.array([1.0])).round(4).tolist()
    [1.0986]
    """
    if smoothing == "haldane":
        if link.name == "logistic":
            return haldane
        return _zero_without_votes(lambda k, m: link.inverse((k + 0.5) / (m + 1)))
    if smoothing == "trim":
        low, high = float(link.prob(-TRIM)), float(link.prob(TRIM))
        return _zero_without_votes(lambda k, m: link.inverse(np.clip(k / m, low, high)))
    raise UsageError(f"smoothing: {smoothing!r} is unknown")


def haldane(k: Floats, m: Floats) -> Floats:
    """log((k+½)/(M−k+½)): unbiased to O(M⁻²) (Haldane 1956; Anscombe 1956)."""
    k, m = np.broadcast_arrays(np.asarray(k, float), np.asarray(m, float))
    whole = (2 * k == np.rint(2 * k)) & (m == np.rint(m)) & (m < EXACT_BELOW)
    out = np.empty(k.shape)
    for size in _distinct(m[whole]):
        here = whole & (m == size)
        out[here] = _log_odds_table(int(size))[(2 * k[here]).astype(np.int64)]
    rest = ~whole
    out[rest] = np.log((k[rest] + 0.5) / (m[rest] - k[rest] + 0.5))
    return out


def log_odds(doubled: int, votes: int) -> float:
    """log((2k+1)/(2(M−k)+1)) from integers 2k and M, rounded once from 50 digits.

    >>> log_odds(2, 1) == math.log(3)
    True
    """
    ratio = _FIFTY_DIGITS.divide(Decimal(doubled + 1), Decimal(2 * votes - doubled + 1))
    return float(_FIFTY_DIGITS.ln(ratio))


@functools.lru_cache(maxsize=256)  # at most 64 KiB each
def _log_odds_table(votes: int) -> Floats:
    return np.array([log_odds(doubled, votes) for doubled in range(2 * votes + 1)])


def estimate(tally: Tally, invert: Inversion = haldane) -> Estimate:
    """Δ̂ of each direction (..., K): the mean over n **after** inversion.

    Identical comparisons count with Δ̂_n = 0; comparisons without votes do not count. The
    standard error is the larger of the spread over n and the expected vote noise at the pooled
    rate, so it is not 0 for one comparison or a unanimous panel.
    """
    identical = tally.identical
    votes = np.where(identical, 0.0, tally.plus + tally.minus + tally.tie)
    wins = np.where(identical, 0.0, tally.plus + 0.5 * tally.tie)
    asked = votes > 0
    each = np.where(asked, invert(wins, votes), 0.0)
    counts = asked | identical
    size = counts.sum(-1)
    mean = ordered_sum(each) / np.maximum(size, 1)
    square = ordered_sum(np.where(counts, (each - mean[..., None]) ** 2, 0.0))
    spread = square / np.maximum(size - 1, 1) / np.maximum(size, 1)
    noise = ordered_sum(_vote_variance(wins, votes, asked, invert)) / np.maximum(size, 1) ** 2
    stderr = np.sqrt(np.maximum(np.where(size > 1, spread, 0.0), noise))
    return Estimate(mean, np.where(size > 0, stderr, np.inf), size)


def moments(rate: ArrayLike, votes: int, invert: Inversion = haldane) -> tuple[Floats, Floats]:
    """Mean and standard deviation of Δ̂_n when k ~ Binomial(votes, rate).

    Exact below `EXACT_BELOW` votes. With more votes, from Δ̂_n at k ± one standard deviation (the
    delta method), so that time and memory do not grow with the votes.

    >>> mean, sd = moments(LOGISTIC.prob(1.0), 3)
    >>> round(float(mean) - 1, 3)
    -0.138
    """
    p = np.asarray(rate, dtype=np.float64)[..., None]
    if votes >= EXACT_BELOW:
        spread = np.sqrt(votes * p * (1 - p))
        k = np.clip(votes * p + spread * np.array([-1.0, 1.0]), 0, votes)
        ends = invert(k, np.full_like(k, votes))
        return ends.mean(-1), np.abs(ends[..., 1] - ends[..., 0]) / 2
    k = np.arange(votes + 1, dtype=np.float64)
    ways = special.gammaln(votes + 1) - special.gammaln(k + 1) - special.gammaln(votes - k + 1)
    weight = np.exp(ways + special.xlogy(k, p) + special.xlog1py(votes - k, -p))
    values = invert(k, np.full_like(k, votes))
    mean = (weight * values).sum(-1)
    variance = (weight * (values - mean[..., None]) ** 2).sum(-1)
    return mean, np.sqrt(variance)


def null_rms(votes: int, invert: Inversion = haldane) -> float:
    """Root mean square of Δ̂_n at rate ½, with exact weights: the same on every machine."""
    k = np.arange(votes + 1, dtype=np.float64)
    values = invert(k, np.full_like(k, votes)).tolist()
    total = 0.0
    for count, value in enumerate(values):
        total += float(Fraction(math.comb(votes, count), 2**votes)) * (value * value)
    return math.sqrt(total)


def ordered_sum(values: Floats) -> Floats:
    """Sum over the last axis, first to last, by plain additions (np.sum may reorder)."""
    total = np.zeros(values.shape[:-1])
    for n in range(values.shape[-1]):
        total = total + values[..., n]
    return total


def _vote_variance(
    wins: Floats, votes: Floats, asked: NDArray[np.bool_], invert: Inversion
) -> Floats:
    """Variance of each Δ̂_n from vote noise alone, at the direction's pooled, smoothed rate."""
    rate = (ordered_sum(wins) + 0.5) / (ordered_sum(votes) + 1)
    whole = np.where(asked, np.maximum(np.rint(votes), 1), 0)
    out = np.zeros(votes.shape)
    for size in _distinct(whole[asked]):
        variance = moments(rate, int(size), invert)[1] ** 2
        out = np.where(whole == size, variance[..., None], out)
    return out


def _distinct(values: Floats) -> list[float]:
    """Distinct values, ascending; fast for the usual case of a single value."""
    if values.size and (values == values.flat[0]).all():
        return [float(values.flat[0])]
    return [float(value) for value in np.unique(values)]


def _zero_without_votes(invert: Inversion) -> Inversion:
    """The inversion with 0 where there are no votes (M = 0)."""

    def invert_or_zero(k: Floats, m: Floats) -> Floats:
        k, m = np.broadcast_arrays(np.asarray(k, float), np.asarray(m, float))
        asked = m > 0
        safe = np.where(asked, m, 1.0)
        return np.where(asked, invert(np.where(asked, k, 0.5), safe), 0.0)

    return invert_or_zero
