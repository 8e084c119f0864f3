"""How far a move may go: by its measured KL.

Shrink a proposed point until its measured KL fits the budget; only then is it recorded. The point
lies on a ray from the model's start. A share of the way is n/256. The whole way is measured first.
While a reading is above the budget, a smaller share is measured, with at most `MOST_READINGS`
readings in all, or one where the budget is small. KL is taken as linear in the square of the share
between the largest share that fits (or the start) and the smallest that does not, and the next
share aims at `AIMED_SHARE` of the budget. The readings are recorded, and they alone determine
every share, to the last bit: a replay needs no model.

Under rules with one point the same is done every second step to the policy itself: it is drawn
back to the budget (`draw_back`), and moves on within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from szpo.optim import parameters
from szpo.types import Theta

SHARE_PARTS: Final = 256
"""Shares of the way are multiples of 1/256."""
MOST_READINGS: Final = 3
"""Largest number of readings in a step."""
UNPROVEN: Final = 0.14
"""How far the recommended point goes while the votes may be chance, nats."""
AIMED_SHARE: Final = 0.9
"""Share of the budget that is aimed at, since measured KL scatters."""
CLOSE_ENOUGH_SHARE: Final = 0.75
"""A shrunk point is accepted if its KL is at least this share of the budget."""
ONE_READING: Final = UNPROVEN / AIMED_SHARE
"""A budget of at most these nats gets one reading: a short way costs as much as a long one."""
LEAST_KL: Final = 0.1
"""A point is measured if its quadratic KL estimate is at least this many nats."""
UNMOVED_SHARE: Final = 0.05
"""A point that moved by at most this share of its distance from the start is not read again."""
MEASURED_EVERY: Final = 2
"""Steps after which a rule with one point and a budget measures KL, and is drawn back to it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """KL to the model's start, nats, at a share of the way."""

    share: int
    """In units of 1/256."""
    kl: float
    """Measured KL."""
    estimate: float
    """Quadratic estimate, |z|²/2 in whitened units."""


@dataclass(frozen=True, slots=True)
class KlMeasurement:
    """The readings of a proposed point, and the share of the way that was recorded."""

    limit: float
    """The budget, nats."""
    readings: tuple[Reading, ...]
    """In the order in which they were made; at least one."""
    share: int
    """The recorded share of the way, in units of 1/256."""

    @property
    def nearest(self) -> Reading:
        """The reading whose share is nearest to the recorded one."""
        return min(self.readings, key=lambda each: abs(each.share - self.share))

    @property
    def scale(self) -> float:
        """Measured KL over its quadratic estimate at `nearest`; `LEAST_KL` is added to both."""
        return (self.nearest.kl + LEAST_KL) / (self.nearest.estimate + LEAST_KL)

    @property
    def measured(self) -> float | None:
        """Measured KL of the recorded point, nats; None if the KL was not read there."""
        return self.nearest.kl if self.nearest.share == self.share else None

    @property
    def follows(self) -> bool:
        """True if every share follows from the readings before it."""
        given = [(each.share, False) for each in self.readings] + [(self.share, True)]
        rules = [
            [choose_share(self.limit, self.readings[:i], most) for i in range(len(given))]
            for most in {_most_readings(self.limit), MOST_READINGS}
        ]
        return given in rules

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> KlMeasurement:
        """Read the measurement that a step recorded.

        Raises:
            KeyError, TypeError, ValueError: the form is wrong, or a number is out of range.
        """
        readings = tuple(Reading(**each) for each in body["readings"])
        measurement = cls(body["limit"], readings, body["share"])
        above = [measurement.limit, *(each.estimate for each in readings)]
        others = [each.kl for each in readings]
        shares = [measurement.share, *(each.share for each in readings)]
        finite = all(map(math.isfinite, above + others))
        if not readings or not finite or min(above) <= 0 or min(others) < 0:
            raise ValueError("reach")
        if not all(isinstance(each, int) for each in shares):
            raise TypeError("reach")
        return measurement


def estimate(start: Theta, theta: Theta, scale: float) -> float:
    """KL of θ to the start by its quadratic estimate |θ − θ₀|²/(2 scale²), nats."""
    moved = sum(float(((theta[n].astype(float) - start[n]) ** 2).sum()) for n in start)
    return moved / (2 * scale * scale)


def draw_back(start: Theta, theta: Theta, reach: KlMeasurement | None) -> Theta:
    """What a measurement leaves of the way from the start to θ; None leaves all of it."""
    if reach is None or reach.share == SHARE_PARTS:
        return theta
    return parameters.between(start, theta, reach.share / SHARE_PARTS)


def measure_share(limit: float, read: Callable[[int], Reading]) -> KlMeasurement:
    """Measure a proposed point and find how much of the way to it fits the budget.

    ``limit``: the budget, nats. ``read`` measures KL at a share of the way, in units of 1/256.
    """
    readings: tuple[Reading, ...] = ()
    most = _most_readings(limit)
    while True:
        share, settled = choose_share(limit, readings, most)
        if settled:
            return KlMeasurement(limit, readings, share)
        readings += (read(share),)


def _most_readings(limit: float) -> int:
    return MOST_READINGS if limit > ONE_READING else 1


def choose_share(
    limit: float, readings: tuple[Reading, ...], most: int = MOST_READINGS
) -> tuple[int, bool]:
    """The share that follows from the readings, and whether to record it (True) or to measure it.

    At most ``most`` readings are made.

    >>> choose_share(3.0, (Reading(256, 12.0, 2.7),))
    (121, False)
    """
    if not readings:
        return SHARE_PARTS, False
    fits = [each for each in readings if each.kl <= limit]
    above = [each for each in readings if each.kl > limit]
    low = max(fits, key=lambda each: each.share, default=Reading(0, 0.0, 0.0))
    if not above or (fits and low.kl >= CLOSE_ENOUGH_SHARE * limit):
        return low.share, True
    high = min(above, key=lambda each: each.share)
    full = len(readings) >= most
    if full and fits:
        return low.share, True
    bottom, top, aim = Fraction(low.kl), Fraction(high.kl), Fraction(AIMED_SHARE) * Fraction(limit)
    if aim <= bottom:
        return low.share, True
    along = (aim - bottom) / (top - bottom)
    share = math.isqrt(math.floor(low.share**2 + along * (high.share**2 - low.share**2)))
    return share, full or share <= low.share
