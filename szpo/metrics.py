"""Metrics of texts and answers (variety, repetition, win rate), and 95 % intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo import seeds
from szpo.errors import UsageError
from szpo.types import Floats

Z = 1.96
"""Half width of a 95 % interval, in standard errors."""
DRAWS: Final = 10_000
"""Resamples of a bootstrap."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``of`` cases with its interval; ``of`` may be an effective number."""

    hits: float
    of: float
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The share; None without cases."""
        return self.hits / self.of if self.of else None

    @property
    def percent(self) -> str:
        """The share with its interval, such as "63 % [58, 68]"; "none" without cases."""
        if self.value is None:
            return "none"
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"

    def unsure(self) -> bool:
        """The interval covers ½, so the true share may be on either side of it."""
        return self.low <= 0.5 <= self.high


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, from ``n`` observations."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def unsure(self, at: float = 0.0) -> bool:
        """The interval covers ``at``, or there is none."""
        return self.low is None or self.high is None or self.low <= at <= self.high


def wilson(wins: float, votes: float) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(edge, 3) for edge in wilson(8, 8)]
    [0.676, 1.0]
    """
    if not votes:
        return 0.0, 1.0
    share, z2 = wins / votes, Z * Z / votes
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(share * (1 - share) / votes + z2 / (4 * votes))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: float, of: float) -> Share:
    """A share with its interval by Wilson (1927).

    >>> found = share(12, 20)
    >>> round(found.low, 2), round(found.high, 2), found.unsure()
    (0.39, 0.78, True)
    """
    low, high = wilson(hits, of)
    return Share(hits, of, low, high)


def quantile(values: Sequence[float], q: float) -> Estimate:
    """A quantile with its interval by order statistics; no interval for fewer than six values.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    Estimate(value=2.0, low=None, high=None, n=3)
    """
    ordered, n = sorted(values), len(values)
    if not n:
        return Estimate()
    place = q * (n - 1)
    below = math.floor(place)
    above = min(below + 1, n - 1)
    value = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    if n < 6:
        return Estimate(value, None, None, n)
    half = Z * math.sqrt(n * q * (1 - q))
    first = max(0, math.floor(n * q - half))
    last = min(n - 1, math.ceil(n * q + half))
    return Estimate(value, ordered[first], ordered[last], n)


def rate(count: int, hours: float) -> Estimate:
    """Events an hour, with the interval of a Poisson count (Garwood 1936).

    >>> found = rate(41, 1.0)
    >>> round(found.low, 1), round(found.high, 1)
    (29.4, 55.6)
    """
    from scipy.special import gammaincinv

    if hours <= 0:
        return Estimate()
    low = float(gammaincinv(count, 0.025)) if count else 0.0
    high = float(gammaincinv(count + 1, 0.975))
    return Estimate(count / hours, low / hours, high / hours, count)


def correlation(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Pearson's correlation with its interval by Fisher's z; None for fewer than four pairs.

    >>> correlation([1, 2, 3], [2, 4, 6])
    Estimate(value=None, low=None, high=None, n=3)
    """
    n = len(x)
    if n < 4:
        return Estimate(None, None, None, n)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    xx = math.fsum((a - mean_x) ** 2 for a in x)
    yy = math.fsum((b - mean_y) ** 2 for b in y)
    if xx == 0 or yy == 0:
        return Estimate(None, None, None, n)
    xy = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    r = max(-1.0, min(1.0, xy / math.sqrt(xx * yy)))
    if abs(r) == 1:
        return Estimate(r, r, r, n)
    z, half = math.atanh(r), Z / math.sqrt(n - 3)
    return Estimate(r, math.tanh(z - half), math.tanh(z + half), n)


def rescale(x: Estimate, f: Callable[[float], float]) -> Estimate:
    """Transform an estimate by an increasing function.

    >>> rescale(Estimate(1.0, None, 2.0, 3), lambda x: 60 * x)
    Estimate(value=60.0, low=None, high=120.0, n=3)
    """
    value, low, high = (None if v is None else f(v) for v in (x.value, x.low, x.high))
    return Estimate(value, low, high, x.n)


def mean(values: Sequence[float]) -> Estimate:
    """A mean ± 1.96 standard errors; no interval for one value."""
    n = len(values)
    if not n:
        return Estimate()
    middle = math.fsum(values) / n
    if n == 1:
        return Estimate(middle, None, None, 1)
    error = math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (n - 1) / n)
    return Estimate(middle, middle - Z * error, middle + Z * error, n)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    >>> words("It's a well-read -- secret_place, No. 7!")
    ["it's", 'a', 'well-read', 'secret', 'place', 'no', '7']
    """
    return _WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Share of different word n-grams among all n-grams of the texts, in [0, 1]; 1 without any.

    The ratio falls with the amount of text, so compare only equal numbers of texts of about
    equal length.

    >>> distinct_n(["the sea the sea"], 2)  # the-sea, sea-the, the-sea
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str, n: int = 2) -> float:
    """Share of a text's n-grams that occurred earlier in the same text, in [0, 1).

    >>> repetition("very very very very")
    0.6666666666666667
    >>> repetition("one of a kind")
    0.0
    """
    grams = _ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def versus(tuned: ArrayLike, base: ArrayLike) -> Floats:
    """Each answer of one policy against each answer of the other to the same prompt: 1, ½ or 0.

    Args:
        tuned: rewards (prompts, samples).
        base: rewards (prompts, samples) of the other policy.

    Returns:
        (prompts, samples, samples), for `win_rate`.
    """
    first, second = np.asarray(tuned, np.float64), np.asarray(base, np.float64)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise UsageError(f"versus: rewards of shapes {first.shape} and {second.shape}")
    wins: Floats = 0.5 + 0.5 * np.sign(first[:, :, None] - second[:, None, :])
    return wins


def win_rate(outcomes: ArrayLike) -> Share:
    """Share of comparisons that the tuned policy wins (a tie is half), with its 95 % interval.

    Answers to one prompt resemble each other, so the interval is Wilson's with an effective number
    of cases (Korn and Graubard 1998): the number that gives the spread of the prompts' rates, at
    least the number of prompts and at most that of tuned answers. One added prompt all won and one
    all lost widen the spread, so that a few prompts that agree by chance do not make it too small.

    Args:
        outcomes: (prompts, …), 1 won, ½ tied, 0 lost, NaN not compared; see `versus`.
    """
    values = np.asarray(outcomes, np.float64)
    if not values.size:
        return share(0, 0)
    answers = values.shape[1] if values.ndim > 1 else 1
    values = values.reshape(len(values), -1)
    there = ~np.isnan(values)
    if not (values[there] >= 0).all() or not (values[there] <= 1).all():
        raise UsageError("win rate: outcomes must be 1 (won), 0.5 (tied), 0 (lost) or NaN")
    compared = there.any(1)
    rates = np.nansum(values[compared], axis=1) / there[compared].sum(1)
    n, won = len(rates), float(rates.sum())
    if n < 2:
        return share(won, n)
    widened = np.append(rates, (0.0, 1.0))
    even = widened.mean() * (1 - widened.mean()) / widened.var(ddof=1) * len(widened)
    even *= (Z / special.stdtrit(n - 1, 0.975)) ** 2
    cases = min(max(n, float(even)), n * answers)
    return Share(won, n, *wilson(won / n * cases, cases))


def gain(before: ArrayLike, after: ArrayLike, *, seed: int) -> tuple[float, float, float]:
    """Mean gain of rewards (prompts, samples) on the same prompts, and its 95 % interval.

    The interval is a paired bootstrap of `DRAWS` resamples of the prompts, drawn by ``seed``.
    """
    diff = np.asarray(after, np.float64).mean(1) - np.asarray(before, np.float64).mean(1)
    random = seeds.generator(seeds.derive(seed, "bootstrap"))
    index = random.integers(len(diff), size=(DRAWS, len(diff)))
    low, high = np.quantile(diff[index].mean(1), (0.025, 0.975))
    return float(diff.mean()), float(low), float(high)


def pool(parts: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean and standard error of all cases, from parts: cases, mean, standard error of each.

    The error of a single case is nan.

    >>> pool([(2, 1.0, 1.0), (1, 4.0, float("nan"))])  # 0, 2 and 4
    (2.0, 1.1547005383792515)
    """
    n, means, errors = np.array(parts, np.float64).T
    of, mean = n.sum(), float(n @ means / n.sum())
    squares = np.nan_to_num((n - 1) * n * errors**2) + n * (means - mean) ** 2
    return mean, math.sqrt(squares.sum() / (of - 1) / of) if of > 1 else math.nan
