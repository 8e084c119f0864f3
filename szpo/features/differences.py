"""Differences of text features between the two sides of a comparison, as exact integers.

A feature's value is a ratio of integers, and sums over rows are exact fractions. Only the result
is rounded, half to even. So a replay on any machine computes the recorded integers again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from szpo.errors import UsageError
from szpo.features.dictionary import ENTRIES, Entry, Ratio, ratios
from szpo.types import FEATURE_GRID, Floats


def scale(spread: float) -> int:
    """Convert the spread of one feature to the integer that is recorded, in units of 2⁻¹².

    >>> scale(0.25), scale(0)
    (1024, 0)
    """
    if not 0 <= spread < float("inf"):
        raise UsageError(f"spread of a feature: {spread}; it must be finite and at least 0")
    return round(Fraction(spread) * FEATURE_GRID)


def values(pairs: Iterable[tuple[str, str]], entries: Sequence[Entry]) -> Floats:
    """Values (n, k) of features of n pairs of a prompt and an answer."""
    rows = [[top / bottom for top, bottom in ratios(*pair, entries)] for pair in pairs]
    return np.array(rows).reshape(len(rows), len(entries))


def differences(
    plus: Sequence[str],
    minus: Sequence[str],
    prompts: Sequence[str],
    scales: Sequence[int],
    entries: Sequence[Entry] = ENTRIES,
) -> tuple[int, ...]:
    """The mean of each feature over the plus answers less that over the minus answers.

    Units: 2⁻¹² of the feature's spread. A feature without spread (scale 0) gives 0. Rows with
    equal answers count in D and add nothing.

    ``scales``: the spread of each entry, as `scale` returns it. Texts are as recorded, (D,).

    >>> from szpo.features.dictionary import BY_NAME
    >>> length = [BY_NAME["length"]]
    >>> differences(["Rain.", "So"], ["Rain.", "So it is."], ["?", "?"], [4096], length)
    (-4096,)
    """
    values = [(ratios(q, a, entries), ratios(q, b, entries)) for q, a, b in _rows(
        plus, minus, prompts) if a != b]  # fmt: skip
    if len(scales) != len(entries):
        raise UsageError(f"differences: {len(scales)} scales for {len(entries)} features")
    return tuple(
        difference([a[i] for a, _ in values], [b[i] for _, b in values], len(prompts), each)
        for i, each in enumerate(scales)
    )


def difference(plus: Sequence[Ratio], minus: Sequence[Ratio], rows: int, scale: int) -> int:
    """The difference of one feature, as in `differences`, from ratios that are known.

    Args:
        plus: ratios of the rows that differ.
        minus: ratios of the same rows on the other side.
        rows: D; it includes the rows that do not differ.
        scale: the spread in units of 2⁻¹²; 0 where the feature has none.

    >>> difference([(1, 3)], [(0, 1)], 1, 4096), difference([(0, 1)], [(1, 3)], 1, 4096)
    (1365, -1365)
    """
    if scale < 0:
        raise UsageError(f"differences: a scale of {scale}; it must be at least 0")
    if not scale:
        return 0
    total = sum((Fraction(*ratio) for ratio in plus), Fraction())
    total -= sum((Fraction(*ratio) for ratio in minus), Fraction())
    return round(total * FEATURE_GRID * FEATURE_GRID / (rows * scale))


def _rows(
    plus: Sequence[str], minus: Sequence[str], prompts: Sequence[str]
) -> list[tuple[str, str, str]]:
    if not len(plus) == len(minus) == len(prompts) > 0:
        raise UsageError(
            f"differences: {len(plus)} plus, {len(minus)} minus, {len(prompts)} prompts; give as "
            "many of each, and at least one"
        )
    return list(zip(prompts, plus, minus, strict=True))
