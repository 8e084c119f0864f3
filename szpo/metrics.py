"""Metrics shared by guards, reports and comparisons: variety, repetition, win rate."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo.errors import UsageError
from szpo.intervals import Share, Z, share, wilson
from szpo.types import Floats

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


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
    found: Floats = 0.5 + 0.5 * np.sign(first[:, :, None] - second[:, None, :])
    return found


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
