"""Blind final comparisons of the tuned policy with the base, which no update counts.

An operator orders them (`szpo.ledger.orders`), and `szpo.runs.samples` draws the answers. Each
panelist may answer each comparison of an open order once; those who did not vote in training come
first. Comparisons with the fewest answers are shown first: none gets a second before all have one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from szpo import seeds
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.metrics import Share, share
from szpo.voting import seats
from szpo.voting.seats import LETTERS, Letter

PAIRS: Final = 64
"""Pairs on which a run's last line rests, where verdicts are on pairs."""

_SeatsAt: TypeAlias = tuple[str, list[str], set[str]]
"""A comparison, the sides of plus at its answered or held seats, and who was shown it."""


class FinalVote(Protocol):
    """A standing vote on a final comparison."""

    @property
    def k(self) -> int | None:
        """The index of the comparison's order among the final orders."""

    @property
    def panelist(self) -> str:
        """Who cast the vote."""

    @property
    def verdict(self) -> str:
        """Plus (tuned), minus (base), tie or skip."""


@dataclass(frozen=True, slots=True)
class FinalCount:
    """The votes on an order. Ties are in neither share; votes are taken as independent."""

    order: int
    """The order's index among the final orders."""
    tuned: Share
    """Votes for the tuned policy, of those for either."""
    untuned: Share
    """The same of panelists who did not vote in training."""
    ties: int


def find_tuners(ledger: Ledger) -> set[str]:
    """Find the panelists who answered a training comparison; a skip is no answer."""
    rows = ledger.query(
        "SELECT DISTINCT a.panelist FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE c.kind = 'train' AND v.choice <> 'skip'"
    )
    return {row["panelist"] for row in rows}


def is_open(ledger: Ledger, comparison: str) -> bool:
    """Whether a final comparison takes votes, as it does until its order is closed."""
    order = orders.of_comparison(ledger, comparison)
    return order is None or order.closed_us is None


def choose_final(ledger: Ledger, panelist: str, now: int) -> tuple[str, Letter] | None:
    """Choose a final comparison that the panelist has not been shown, and the side of plus.

    None where none is left. None too for a panelist who voted in training, while somebody who
    did not is present and has comparisons left.
    """
    found = _find_left(ledger, panelist, now)
    if not found:
        return None
    order, places, left = found[0]
    name = f"final {order.id}/{panelist}"
    walk = seats.panelist_order(ledger.root_seed, None, name, len(places))
    rank, (comparison, sides, _) = min(left, key=lambda at: (len(at[1][1]), walk[at[0]]))
    a, b = sides.count("A"), sides.count("B")
    if a == b:
        seat, size = len(sides), len(places)
        return comparison, planned_sides(ledger.root_seed, order.id, size, seat)[rank]
    # A seat that was given up leaves its side to the next.
    return comparison, "A" if a < b else "B"


def count_left(ledger: Ledger, panelist: str, now: int) -> int:
    """How many final comparisons are left for a panelist; 0 where `choose_final` returns None."""
    return sum(len(left) for _, _, left in _find_left(ledger, panelist, now))


def _find_left(
    ledger: Ledger, panelist: str, now: int
) -> list[tuple[Order, list[_SeatsAt], list[tuple[int, _SeatsAt]]]]:
    """Open orders, each with all its comparisons and with those that the panelist was not shown.

    Only orders in which some are left; empty for a panelist who has to wait for others.
    """
    found = []
    for order in orders.results(ledger, "final"):
        if order.closed_us is None:
            places = _read_seats_at(ledger, order, now)
            if left := [(i, at) for i, at in enumerate(places) if panelist not in at[2]]:
                found.append((order, places, left))
    waits = found and _must_wait(ledger, found[0][0], panelist, found[0][1], now)
    return [] if waits else found


def final_results(
    votes: Sequence[FinalVote], tuners: Collection[str], weights: Sequence[str | None] = ()
) -> FinalCount | None:
    """Count the standing votes on the latest order.

    ``votes``: on the comparisons of any orders. ``tuners``: panelists who voted in training.
    ``weights``: the digest of the weights that each order compared; orders of the same weights
    are counted together. None without a vote.
    """
    if not votes:
        return None
    last = max(vote.k or 0 for vote in votes)
    alike = {k for k, digest in enumerate(weights) if digest == weights[last]} | {last}
    counted = [vote for vote in votes if vote.k in alike]
    others = [vote for vote in counted if vote.panelist not in tuners]
    ties = sum(vote.verdict == "tie" for vote in counted)
    return FinalCount(last, _share_of_tuned(counted), _share_of_tuned(others), ties)


def _share_of_tuned(votes: Sequence[FinalVote]) -> Share:
    wins, losses = (sum(v.verdict == side for v in votes) for side in ("plus", "minus"))
    return share(wins, wins + losses)


def planned_sides(root_seed: int, order: int, size: int, seat: int) -> list[Letter]:
    """The side of plus for the ``seat``-th seat at each of an order's ``size`` comparisons.

    Half of the sides are A, in a drawn order, so that no side can be inferred from the others.
    Every second seat swaps all sides, so that each comparison is balanced as well.

    >>> planned_sides(0, 7, 4, 0), planned_sides(0, 7, 4, 1)
    (['A', 'A', 'B', 'B'], ['B', 'B', 'A', 'A'])
    """
    key = seeds.derive(root_seed, "final sides", step=seat // 2, name=str(order))
    first = seeds.integer(key, size, 2)  # a random word beyond those of the permutation
    return [LETTERS[(first + int(place) + seat) % 2] for place in seeds.permutation(key, size)]


def _read_seats_at(ledger: Ledger, order: Order, now: int) -> list[_SeatsAt]:
    """The comparisons of an order that differ in some row, as stored, with their seats."""
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
        _, sides, shown = found.setdefault(row["comparison"], (row["comparison"], [], set()))
        if row["panelist"] is None:
            continue
        shown.add(row["panelist"])
        held = row["choice"] is None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            sides.append(row["plus_side"])
    return list(found.values())


def _must_wait(
    ledger: Ledger, order: Order, panelist: str, places: list[_SeatsAt], now: int
) -> bool:
    """Whether a panelist who tuned waits for one who did not, is present, and has some left."""
    tuners = find_tuners(ledger)
    if panelist not in tuners:
        return False
    is_new = (order.done_us or 0) > now - seats.PRESENT_US
    others = seats.find_present(ledger, now, sessions=is_new) - tuners
    return any(other not in shown for other in others for _, _, shown in places)
