"""Draw a policy back towards its start until fresh answers keep its budget of nats and its guards.

What chose a policy, among many steps or lengths, were a few answers: on these it looks nearer to
the start, and better kept, than it is. So it is read again by answers that chose nothing. Where
these tell it beyond the budget, it goes back as far as they say, and a standard error farther; it
is then read by answers drawn anew, so that no reading is of those by which its scale was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

MOST_DRAWN: Final = 4
"""After so many times it is left where it is."""
R = TypeVar("R", bound="Reading")


class Reading(Protocol):
    """A policy as fresh answers tell it."""

    @property
    def nats(self) -> float:
        """KL to the start, nats an answer."""

    @property
    def stderr(self) -> float:
        """Of the KL."""


def draw_back(
    read: Callable[[float, int], R], guard: Callable[[R], tuple[R, bool]], nats: float
) -> R:
    """Read a policy at shares of its way from the start, until budget and guards are kept.

    Args:
        read: Reads it at a share in (0, 1] of its way; the number of the reading, from 0, is for
            the seed of its answers.
        guard: Adds the guards to a reading within the budget, and says whether all hold.
        nats: The budget.

    Returns:
        The last reading. After `MOST_DRAWN` times it may be beyond the budget, or break a guard.
    """
    share, number = 1.0, 0
    while True:
        found, kept = read(share, number), False
        if fits := found.nats <= nats:
            found, kept = guard(found)
        if kept or number == MOST_DRAWN:
            return found
        share *= math.sqrt(0.5 if fits else nats / (found.nats + found.stderr))
        number += 1
