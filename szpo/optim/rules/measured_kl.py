"""How far a proposed point may go by its measured KL: measured, shrunk, and only then recorded.

The point lies on a ray from where the run began, and a share of the way is n/256. The whole way is
measured first. While a reading is above the budget, a smaller share is, at most
`MOST_READINGS` in all: KL is taken to be linear in the square of the share, between the largest
share that fits (or the beginning) and the smallest that does not, and `AIMED_SHARE` of the budget
is aimed at. The record has the readings, and they alone give every share, to the last bit: a
replay needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

SHARE_PARTS: Final = 256
"""Shares of the way are multiples of 1/256."""
MOST_READINGS: Final = 3
"""Readings of a step at most."""
AIMED_SHARE: Final = 0.9
"""Share of the budget that is aimed at: the measured KL scatters about it."""
CLOSE_ENOUGH_SHARE: Final = 0.75
"""A shrunk point whose KL is this share of the budget or more is taken as it is."""
LEAST_KL: Final = 0.1
"""Nats by the quadratic estimate from which a point is measured."""
UNMOVED_SHARE: Final = 0.05
"""A point that has moved by less, of its distance from the model's start, is not read again."""


@dataclass(frozen=True, slots=True)
class Reading:
    """KL to the model's start, nats, at a share of the way."""

    share: int
    """In 1/256."""
    kl: float
    """As measured."""
    estimate: float
    """By |z|²/2 in whitened units."""


@dataclass(frozen=True, slots=True)
class KlMeasurement:
    """What was measured of a proposed point, and how much of the way to it was recorded."""

    limit: float
    """The budget, nats."""
    start: float
    """Quadratic estimate where the run began; 0 but in a branch."""
    readings: tuple[Reading, ...]
    """In the order in which they were made; at least one."""
    share: int
    """Of the way that was recorded, in 1/256."""

    @property
    def nearest(self) -> Reading:
        """The reading next to what was recorded."""
        return min(self.readings, key=lambda each: abs(each.share - self.share))

    @property
    def scale(self) -> float:
        """Measured KL over its quadratic estimate there."""
        return (self.nearest.kl + LEAST_KL) / (self.nearest.estimate + LEAST_KL)

    @property
    def measured(self) -> float | None:
        """KL of what was recorded, nats; None if nothing was read just there."""
        return self.nearest.kl if self.nearest.share == self.share else None

    @property
    def follows(self) -> bool:
        """Every share is the one that the readings before it give."""
        given = [(each.share, False) for each in self.readings] + [(self.share, True)]
        return all(
            choose(self.limit, self.start, self.readings[:i]) == each
            for i, each in enumerate(given)
        )

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> KlMeasurement:
        """What a step recorded.

        Raises:
            KeyError, TypeError, ValueError: it is not of this form, or a number is out of range.
        """
        readings = tuple(Reading(**each) for each in body["readings"])
        found = cls(body["limit"], body["start"], readings, body["share"])
        above = [found.limit, *(each.estimate for each in readings)]
        others = [found.start, *(each.kl for each in readings)]
        shares = [found.share, *(each.share for each in readings)]
        finite = all(map(math.isfinite, above + others))
        if not readings or not finite or min(above) <= 0 or min(others) < 0:
            raise ValueError("reach")
        if not all(isinstance(each, int) for each in shares):
            raise TypeError("reach")
        return found


def measure(limit: float, start: float, read: Callable[[int], Reading]) -> KlMeasurement:
    """Measure a proposed point and find how much of the way to it fits the budget.

    Args:
        limit: The budget, nats.
        start: Quadratic estimate where the way begins, nats.
        read: Measures at a share of the way, in 1/256.
    """
    readings: tuple[Reading, ...] = ()
    while True:
        share, settled = choose(limit, start, readings)
        if settled:
            return KlMeasurement(limit, start, readings, share)
        readings += (read(share),)


def choose(limit: float, start: float, readings: tuple[Reading, ...]) -> tuple[int, bool]:
    """The share that these readings give, and whether it is recorded; else it is measured.

    A point that costs no more than where the way begins fits as well: a branch does not go back.

    >>> choose(3.0, 0.0, (Reading(256, 12.0, 2.7),))
    (121, False)
    """
    if not readings:
        return SHARE_PARTS, False
    first = readings[0]
    fits = [each for each in readings if each.kl <= limit or each.estimate <= start]
    above = [each for each in readings if each not in fits]
    # Where the way begins, KL is not measured: the estimate is scaled as at the whole way.
    nothing = Reading(0, first.kl * start / first.estimate if start else 0.0, start)
    low = max(fits, key=lambda each: each.share, default=nothing)
    if not above or (fits and low.kl >= CLOSE_ENOUGH_SHARE * limit):
        return low.share, True
    high = min(above, key=lambda each: each.share)
    full = len(readings) >= MOST_READINGS
    if full and fits:
        return low.share, True
    bottom, top, aim = Fraction(low.kl), Fraction(high.kl), Fraction(AIMED_SHARE) * Fraction(limit)
    if aim <= bottom:
        return low.share, True
    along = (aim - bottom) / (top - bottom)
    share = math.isqrt(math.floor(low.share**2 + along * (high.share**2 - low.share**2)))
    return share, full or share <= low.share
