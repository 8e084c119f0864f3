"""Who answers the blind final comparisons: panelists who did not tune the policy come first.

Each panelist may answer each comparison of an open order once; those with the fewest answers are
shown first, so that a small panel covers an order before anything is answered twice.
"""

from __future__ import annotations

from typing import Final

from szpo import calibration, orders, seeds
from szpo.ledger import Ledger
from szpo.orders import Order
from szpo.seats import LETTERS, Letter

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
        found = _of_order(ledger, order, panelist, now)
        if found is not None:
            tuned = calibration.tuned(ledger)
            if panelist in tuned and _fresh_ones(ledger, order, tuned, now):
                return None
            return found
    return None


def planned(root_seed: int, order: int, rank: int, place: int) -> Letter:
    """Where plus stands for the ``place``-th seat of an order's ``rank``-th comparison.

    It alternates over both, so that each round through an order of even length is balanced.

    >>> [planned(0, 7, rank, 0) for rank in range(4)].count("A")
    2
    """
    first = seeds.integer(seeds.derive(root_seed, "final sides", name=str(order)), 0, 2)
    return LETTERS[(first + rank + place) % 2]


def _of_order(ledger: Ledger, order: Order, panelist: str, now: int) -> tuple[str, Letter] | None:
    best: tuple[int, str, int, list[str]] | None = None
    for rank, (comparison, in_use, shown) in enumerate(_seats(ledger, order, panelist, now)):
        if not shown and (best is None or len(in_use) < best[0]):
            best = len(in_use), comparison, rank, in_use
    if best is None:
        return None
    taken, comparison, rank, in_use = best
    side = planned(ledger.root_seed, order.id, rank, taken)
    a, b = in_use.count("A"), in_use.count("B")
    # A seat that was given up leaves its side to the next.
    return comparison, side if a == b else "A" if a < b else "B"


def _seats(
    ledger: Ledger, order: Order, panelist: str, now: int
) -> list[tuple[str, list[str], bool]]:
    """Per comparison that is shown: sides answered or held, and whether the panelist saw it."""
    found: dict[str, tuple[str, list[str], bool]] = {}
    wanted = set(orders.comparisons(order))
    for row in ledger.query(
        "SELECT c.comparison, a.panelist, a.plus_side, a.expires_us, a.released_us, l.choice "
        "FROM comparisons c LEFT JOIN assignments a USING (comparison) "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE c.run = ? AND c.kind = 'final' AND c.identical = 0 ORDER BY c.rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in wanted:
            continue
        name, in_use, shown = found.get(row["comparison"], (row["comparison"], [], False))
        held = row["choice"] is None and row["panelist"] is not None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            in_use.append(row["plus_side"])
        found[name] = name, in_use, shown or row["panelist"] == panelist
    return list(found.values())


def _fresh_ones(ledger: Ledger, order: Order, tuned: set[str], now: int) -> bool:
    """Somebody is there who did not vote in training and has comparisons of the order left."""
    since = now - AROUND_US
    there = ledger.query(
        "SELECT panelist FROM credentials WHERE credential >= 'session:' "
        "AND credential < 'session;' AND panelist IS NOT NULL AND revoked_us IS NULL "
        "AND created_us > ? UNION SELECT panelist FROM assignments WHERE served_us > ?",
        (since, since),
    )
    return any(
        not shown
        for row in there
        if row["panelist"] not in tuned
        for _, _, shown in _seats(ledger, order, row["panelist"], now)
    )
