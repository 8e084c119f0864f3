"""Blind final comparisons of the tuned policy with the base: stored, shown, counted.

Panelists who did not tune the policy come first. Each may answer each comparison of an open order
once; those with the fewest answers are shown first, so that a small panel covers an order before
anything is answered twice. `szpo.runs.samples` draws the answers of the two policies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from szpo import seeds
from szpo.aggregation import win_rates
from szpo.aggregation.win_rates import PolicyVote, Preferences
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.voting import calibration, seats
from szpo.voting.seats import LETTERS, Letter

PRESENT_US: Final = 15 * 60_000_000
"""A panelist is present who used a session, or was shown something, within this time, µs."""


class FinalVote(PolicyVote, Protocol):
    """A vote on a final comparison."""

    @property
    def k(self) -> int | None:
        """The place of the comparison's order among the orders of this kind."""


def is_open(ledger: Ledger, comparison: str) -> bool:
    """A final comparison takes votes until its order is closed."""
    order = orders.of_comparison(ledger, comparison)
    return order is None or order.closed_us is None


def choose(ledger: Ledger, panelist: str, now: int) -> tuple[str, Letter] | None:
    """A final comparison that the panelist has not been shown, and the side of plus.

    None where none is left, and for a panelist who voted in training while one who did not is
    present and has comparisons left.
    """
    found = _find_left(ledger, panelist, now)
    if not found:
        return None
    order, uses, left = found[0]
    name = f"final {order.id}/{panelist}"
    walk = seats.panelist_order(ledger.root_seed, None, name, len(uses))
    rank, chosen = min(left, key=lambda each: (len(each[1].sides), walk[each[0]]))
    a, b = chosen.sides.count("A"), chosen.sides.count("B")
    if a == b:
        seat = len(chosen.sides)
        return chosen.comparison, planned_sides(ledger.root_seed, order.id, len(uses), seat)[rank]
    # A seat that was given up leaves its side to the next.
    return chosen.comparison, "A" if a < b else "B"


def count_left(ledger: Ledger, panelist: str, now: int) -> int:
    """How many the panelist has not been shown; 0 where `choose` has none for them now."""
    return sum(len(left) for _, _, left in _find_left(ledger, panelist, now))


def _find_left(
    ledger: Ledger, panelist: str, now: int
) -> list[tuple[Order, list[_SeatsAt], list[tuple[int, _SeatsAt]]]]:
    """Open orders with the seats at each comparison, and those the panelist was not shown.

    Only orders in which some are left; none for a panelist who has to wait for others.
    """
    found = []
    for order in orders.results(ledger, "final"):
        if order.closed_us is None:
            uses = _read_uses(ledger, order, now)
            if left := [(i, use) for i, use in enumerate(uses) if panelist not in use.shown]:
                found.append((order, uses, left))
    waits = found and _must_wait(ledger, found[0][0], panelist, found[0][1], now)
    return [] if waits else found


def results(
    votes: Sequence[FinalVote], tuners: Collection[str], weights: Sequence[str | None] = ()
) -> tuple[int, Preferences] | None:
    """Count the standing votes on the latest order: its place among the orders, and the counts.

    ``votes``: on the comparisons of any orders. ``tuners``: panelists who voted in training.
    ``weights``: the digest that each order compared; orders of the same weights count together.
    None without a vote.
    """
    if not votes:
        return None
    last = max(vote.k or 0 for vote in votes)
    alike = {k for k, digest in enumerate(weights) if digest == weights[last]} | {last}
    return last, win_rates.count([vote for vote in votes if vote.k in alike], tuners)


def planned_sides(root_seed: int, order: int, size: int, seat: int) -> list[Letter]:
    """Where plus stands for the ``seat``-th seat at each of an order's ``size`` comparisons.

    Half of them on A, in a drawn order, so that no side follows from others; at every second seat
    all change sides, so that each comparison is balanced as well.

    >>> planned_sides(0, 7, 4, 0), planned_sides(0, 7, 4, 1)
    (['A', 'A', 'B', 'B'], ['B', 'B', 'A', 'A'])
    """
    key = seeds.derive(root_seed, "final sides", step=seat // 2, name=str(order))
    first = seeds.integer(key, size, 2)  # the words after those of the permutation
    return [LETTERS[(first + int(place) + seat) % 2] for place in seeds.permutation(key, size)]


@dataclass(frozen=True, slots=True)
class _SeatsAt:
    """The seats at a comparison of an order: sides answered or held, and who was shown it."""

    comparison: str
    sides: list[str]
    shown: set[str]


def _read_uses(ledger: Ledger, order: Order, now: int) -> list[_SeatsAt]:
    """The comparisons of an order that differ in some row, in their order, with their seats."""
    found: dict[str, _SeatsAt] = {}
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
        use = found.setdefault(row["comparison"], _SeatsAt(row["comparison"], [], set()))
        if row["panelist"] is None:
            continue
        use.shown.add(row["panelist"])
        held = row["choice"] is None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            use.sides.append(row["plus_side"])
    return list(found.values())


def _must_wait(
    ledger: Ledger, order: Order, panelist: str, uses: list[_SeatsAt], now: int
) -> bool:
    """A tuner waits for somebody who is present, did not tune, and has comparisons left.

    Somebody who has a page open and answers nothing is waited for only while the order is new.
    """
    tuners = calibration.find_tuners(ledger)
    if panelist not in tuners:
        return False
    since = now - PRESENT_US
    present = ledger.query(
        "SELECT panelist FROM credentials WHERE credential >= 'session:' "
        "AND credential < 'session;' AND panelist IS NOT NULL AND revoked_us IS NULL "
        "AND created_us > ? AND ? UNION SELECT panelist FROM assignments WHERE served_us > ?",
        (since, (order.done_us or 0) > since, since),
    )
    others = {row["panelist"] for row in present} - tuners
    return any(other not in use.shown for other in others for use in uses)
