"""Small measures that guards, reports and comparisons of methods share.

Of texts: variety, repetition, words. Of two policies: KL, win rate. Of two evaluators: agreement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from szpo.errors import UsageError
from szpo.intervals import NOTHING, Estimate, Share, Z, share
from szpo.types import Floats, Ints

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    >>> words("It's a well-read -- secret_place, No. 7!")
    ["it's", 'a', 'well-read', 'secret', 'place', 'no', '7']
    """
    return _WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams of words over all n-grams of the texts, in [0, 1]; 1 where there is none.

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


# ---- two policies ----

Law: TypeAlias = Callable[[Ints], Floats]
"""Log-probabilities (n, words) of the next word after each of n beginnings (n, length)."""
PREFIXES = 2_000_000
"""Beginnings that `kl_by_enumeration` goes through at most."""


def kl(p: ArrayLike, q: ArrayLike) -> Floats:
    """KL(P ‖ Q) = Σ P log(P/Q) in nats, over the last axis; infinite where Q forbids what P does.

    Raises:
        UsageError: the shapes differ, or a row is no distribution.

    >>> round(float(kl([0.2, 0.5, 0.3], [0.1, 0.4, 0.5])), 7)
    0.0969535
    """
    first, second = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if first.shape != second.shape or not first.ndim:
        raise UsageError(f"kl: distributions of shapes {first.shape} and {second.shape}")
    for rows in (first, second):
        if not (rows >= 0).all() or not np.allclose(rows.sum(-1), 1.0, atol=1e-6):
            raise UsageError("kl: probabilities must be at least 0 and sum to 1")
    found: Floats = rel_entr(first, second).sum(-1)
    return found


def kl_by_enumeration(law: Law, reference: Law, horizon: int, stop: Collection[int] = ()) -> float:
    """KL of two laws of whole answers in nats, over every answer that there is: exact.

    By the chain rule, Σ over beginnings of their probability times KL of the next word.

    Args:
        law: of the policy.
        reference: what it is measured against.
        horizon: words of an answer at most.
        stop: words that end an answer.

    Raises:
        UsageError: there are too many beginnings.
    """
    beginnings, weight, total = np.zeros((1, 0), np.int64), np.ones(1), 0.0
    for place in range(horizon):
        logp, logq = law(beginnings), reference(beginnings)
        probable = np.exp(logp)
        total += float(weight @ rel_entr(probable, np.exp(logq)).sum(-1))
        if place == horizon - 1:
            break
        weight = weight[:, None] * probable
        weight[:, list(stop)] = 0.0
        rows, words_next = np.nonzero(weight)
        if len(rows) > PREFIXES:
            raise UsageError(
                f"kl: {len(rows):,} beginnings of {place + 1} words; at most {PREFIXES:,} are "
                "gone through, so sample instead"
            )
        beginnings = np.column_stack([beginnings[rows], words_next])
        weight = weight[rows, words_next]
    return total


def kl_sampled(logp: ArrayLike, logq: ArrayLike) -> Estimate:
    """KL from answers drawn from the policy, mean of log π − log π_ref, with its 95 % interval.

    Without bias and, for one answer, often below 0. Where all next words can be read,
    `szpo.policies.lora_policy.LoraPolicy.kl` has the same mean and a far smaller spread.

    Args:
        logp: log π of independent answers (n,).
        logq: log π_ref of the same answers.
    """
    return mean(np.asarray(logp, np.float64) - np.asarray(logq, np.float64))


def mean(values: ArrayLike) -> Estimate:
    """The mean of independent values, such as lengths of answers, with its 95 % interval.

    >>> found = mean([11, 12, 13])
    >>> found.value, round(found.high, 2)  # 12 + 1.96/√3
    (12.0, 13.13)
    """
    known = np.asarray(values, np.float64).ravel()
    if not known.size:
        return NOTHING
    middle = float(known.mean())
    if known.size < 2:
        return Estimate(middle, None, None, 1)
    half = Z * float(known.std(ddof=1)) / math.sqrt(known.size)
    return Estimate(middle, middle - half, middle + half, known.size)


def versus(tuned: ArrayLike, base: ArrayLike) -> Floats:
    """Each answer of one policy against each of the other's to the same prompt: 1, ½ or 0.

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
    """Share of comparisons that the tuned policy wins, a tie half, with its 95 % interval.

    The interval is Wilson's with as many cases as prompts: answers to one prompt resemble each
    other, and a prompt's own rate lies between 0 and 1, so it is never too narrow for that.

    Args:
        outcomes: (prompts, …), 1 won, ½ tied, 0 lost, NaN not compared; see `versus`.
    """
    values = np.asarray(outcomes, np.float64)
    if not values.size:
        return share(0, 0)
    values = values.reshape(len(values), -1)
    there = ~np.isnan(values)
    if not (values[there] >= 0).all() or not (values[there] <= 1).all():
        raise UsageError("win rate: outcomes must be 1 (won), 0.5 (tied), 0 (lost) or NaN")
    compared = there.any(1)
    rates = np.nansum(values[compared], axis=1) / there[compared].sum(1)
    return share(float(rates.sum()), int(compared.sum()))


# ---- two evaluators ----


def label_agreement(
    first: Sequence[str | None], second: Sequence[str | None], *, ties: bool = True
) -> Share:
    """Share of items on which two evaluators, or a model and votes, say the same.

    Items that one of them skipped or did not see do not count; without ``ties`` neither do those
    that one of them called a tie.

    >>> label_agreement(["A", "B", "tie", None], ["A", "A", "tie", "B"]).value
    0.6666666666666666
    """
    if len(first) != len(second):
        raise UsageError(f"label agreement: {len(first)} labels against {len(second)}")
    silent = {None, "skip"} | (set() if ties else {"tie"})
    both = [(a, b) for a, b in zip(first, second, strict=True) if not {a, b} & silent]
    return share(sum(a == b for a, b in both), len(both))


def labels(first: ArrayLike, second: ArrayLike) -> list[str]:
    """Which answer of each pair a score prefers: "plus" where the first is higher, "minus", "tie".

    >>> labels([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    ['minus', 'tie', 'plus']
    """
    signs = np.sign(np.asarray(first, np.float64) - np.asarray(second, np.float64))
    return [("tie", "plus", "minus")[int(sign)] for sign in signs]
