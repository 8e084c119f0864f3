"""A panelist's own seats, as rows of the ledger with the answer that stands."""

from __future__ import annotations

from collections.abc import Sequence

from szpo.ledger.database import Record
from szpo.voting import casting, second_seats
from szpo_ui.web.site import Site

_SEATS = (
    "SELECT a.*, c.kind, c.step, c.expected, v.choice, v.details, v.received_us, v.revision "
    "FROM comparisons c CROSS JOIN assignments a ON a.comparison = c.comparison "
    "LEFT JOIN votes v ON v.assignment = a.assignment AND v.revision = "
    "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
    "WHERE c.run = ? AND (c.kind <> 'train' OR c.step = ?) AND a.panelist = ? ORDER BY a.rowid"
)


def seat_row(site: Site, panelist: str, seat: str) -> Record | None:
    """A seat of this panelist with its last answer; None for anybody else's."""
    found = casting.read_seat(site.ledger, seat, panelist)
    return found[-1] if found else None


def read_seats(site: Site, panelist: str, step: int | None) -> list[Record]:
    """The panelist's seats of a round and outside training, in the order of showing."""
    return site.ledger.query(_SEATS, (site.ledger.run, step, panelist))


def find_held_seat(seats: Sequence[Record], now: int) -> Record | None:
    """The unanswered seat that is held: one outside training first."""
    held = (
        row
        for row in seats
        if row["choice"] is None and row["released_us"] is None and row["expires_us"] > now
    )
    return min(held, key=lambda row: row["kind"] == "train", default=None)


def find_second(site: Site, panelist: str) -> Record | None:
    """The second seat that the panelist holds, as a kind of its own."""
    if not site.config.panel.second_share:
        return None
    seat = second_seats.find_held(site.ledger, panelist, site.clock())
    row = None if seat is None else seat_row(site, panelist, seat)
    return None if row is None else {**row, "kind": "second"}


def answers(seats: Sequence[Record]) -> list[Record]:
    """Those of a round that are answered."""
    return [row for row in seats if row["kind"] == "train" and row["choice"] is not None]
