"""Who answers the blind final comparisons: panelists who did not tune the policy come first.

Each panelist may answer each comparison of an open order once; those with the fewest answers are
shown first, so that a small panel covers an order before anything is answered twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from szpo import seeds
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.voting import calibration, seats
from szpo.voting.seats import LETTERS, Letter

AROUND_US: Final = 15 * 60_000_000
"""A panelist is there who used a session, or was shown something, within this time."""


def is_open(ledger: Ledger, comparison: str) -> bool:
    """A final comparison takes votes until its order is closed."""
    order = orders.of_comparison(ledger, comparison)
    return order is None or order.closed_us is None


def choose(ledger: Ledger, panelist: str, now: int) -> tuple[str, Letter] | None:
    """A final comparison that the panelist has not been shown, and the side of plus.

    None where none is left, and for a panelist who voted in training while one who did not is
    there and has comparisons left.
    """
    for order in orders.results(ledger, "final"):
        if order.closed_us is not None:
            continue
        places = _places(ledger, order, now)
        left = [(i, place) for i, place in enumerate(places) if panelist not in place.shown]
        if not left:
            continue
        if _waits(ledger, order, panelist, places, now):
            return None
        name = f"final {order.id}/{panelist}"
        walk = seats.panelist_order(ledger.root_seed, None, name, len(places))
        rank, place = min(left, key=lambda each: (len(each[1].in_use), walk[each[0]]))
        a, b = place.in_use.count("A"), place.in_use.count("B")
        if a == b:
            side = planned_side(ledger.root_seed, order.id, rank, len(place.in_use))
        else:  # a seat that was given up leaves its side to the next
            side = "A" if a < b else "B"
        return place.comparison, side
    return None


def planned_side(root_seed: int, order: int, rank: int, place: int) -> Letter:
    """Where plus stands for the ``place``-th seat of an order's ``rank``-th comparison.

    It alternates over both, so that each round through an order of even length is balanced.

    >>> [planned_side(0, 7, rank, 0) for rank in range(4)].count("A")
    2
    """
    first = seeds.integer(seeds.derive(root_seed, "final sides", name=str(order)), 0, 2)
    return LETTERS[(first + rank + place) % 2]


@dataclass(frozen=True, slots=True)
class _Place:
    """A comparison of an order: sides of plus that are answered or held, and who was shown it."""

    comparison: str
    in_use: list[str]
    shown: set[str]


def _places(ledger: Ledger, order: Order, now: int) -> list[_Place]:
    """The comparisons of an order that differ in some row, in their order."""
    found: dict[str, _Place] = {}
    wanted = set(orders.comparisons(order))
    for row in ledger.query(
        "SELECT c.comparison, a.panelist, a.plus_side, a.expires_us, l.choice "
        "FROM comparisons c LEFT JOIN assignments a USING (comparison) "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE c.run = ? AND c.kind = 'final' AND c.identical = 0 ORDER BY c.rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in wanted:
            continue
        place = found.setdefault(row["comparison"], _Place(row["comparison"], [], set()))
        if row["panelist"] is None:
            continue
        place.shown.add(row["panelist"])
        held = row["choice"] is None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            place.in_use.append(row["plus_side"])
    return list(found.values())


def _waits(ledger: Ledger, order: Order, panelist: str, places: list[_Place], now: int) -> bool:
    """A tuner waits for somebody who is there, did not tune, and has comparisons left.

    Whoever leaves a page open and begins nothing is waited for once: while the order is new.
    """
    tuned = calibration.tuned(ledger)
    if panelist not in tuned:
        return False
    since = now - AROUND_US
    there = ledger.query(
        "SELECT panelist FROM credentials WHERE credential >= 'session:' "
        "AND credential < 'session;' AND panelist IS NOT NULL AND revoked_us IS NULL "
        "AND created_us > ? AND ? UNION SELECT panelist FROM assignments WHERE served_us > ?",
        (since, (order.done_us or 0) > since, since),
    )
    others = {row["panelist"] for row in there} - tuned
    return any(other not in place.shown for other in others for place in places)
