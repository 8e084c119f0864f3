"""Figures that show a run going wrong, and the bands that pause it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from szpo import metrics
from szpo.errors import UsageError
from szpo.types import Answer, Comparison

Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bands:
    """Closed intervals that a step's figures must stay in; None watches nothing.

    ``kl`` in nats per completion, ``length`` in the unit of `mean_length`; ``repetition`` (mean
    over the answers of `szpo.metrics.repetition`) and ``identical`` are shares. ``norm`` is |θ|.

    >>> Bands(kl=(0, 15)).broken({"kl": 16.2, "length": 20.0})
    ('kl', 'kl is 16.2, outside 0 … 15')
    """

    kl: Band | None = None
    length: Band | None = None
    repetition: Band | None = None
    identical: Band | None = None
    norm: Band | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            band = getattr(self, name)
            if band is not None and not band[0] <= band[1]:
                raise UsageError(f"band {name}: {band[0]} … {band[1]} is empty")

    def broken(self, figures: Mapping[str, float | None]) -> tuple[str, str] | None:
        """Name and sentence of the first figure outside its band, or None."""
        for name in self.__slots__:
            band, value = getattr(self, name), figures.get(name)
            if band is None or value is None:
                continue
            if not (math.isfinite(value) and band[0] <= value <= band[1]):
                return name, f"{name} is {value:.4g}, outside {band[0]:g} … {band[1]:g}"
        return None


def mean_length(answers: Sequence[Answer]) -> float:
    """Mean tokens per answer; words where an engine gives no token counts."""
    if not answers:
        return 0.0
    if all(answer.tokens == 0 for answer in answers):
        return sum(len(answer.text.split()) for answer in answers) / len(answers)
    return sum(answer.tokens for answer in answers) / len(answers)


def figures(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """What a step's texts tell without a model: lengths, repetition, shares of equal rows."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    plus, minus = [row.plus for row in rows], [row.minus for row in rows]
    both = [*plus, *minus]
    return {
        "length": mean_length(both),
        "length_plus": mean_length(plus),
        "length_minus": mean_length(minus),
        "repetition": sum(metrics.repetition(a.text) for a in both) / max(len(both), 1),
        "identical": sum(row.identical for row in rows) / max(len(rows), 1),
        "identical_comparisons": float(sum(c.identical for c in comparisons)),
        "truncated": sum(answer.end == "length" for answer in both) / max(len(both), 1),
        "tokens": float(sum(answer.tokens for answer in both)),
    }
