"""A panelist's own seats, as rows of the ledger with the answer that stands."""

from __future__ import annotations

from szpo.ledger.database import Record
from szpo.voting import second_seats
from szpo_ui.web.site import Site

_SEAT = (
    "SELECT a.*, c.kind, c.step, c.expected, v.choice, v.details, v.received_us, v.revision "
    "FROM {source} LEFT JOIN votes v ON v.assignment = a.assignment AND v.revision = "
    "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
)
_ONE_SEAT = _SEAT.format(source="assignments a JOIN comparisons c USING (comparison)")
_OF_STEP = _SEAT.format(
    source="comparisons c CROSS JOIN assignments a ON a.comparison = c.comparison"
)


def seat_row(site: Site, panelist: str, seat: str) -> Record | None:
    """A seat of this panelist with its last answer; None for anybody else's."""
    found = site.ledger.query(
        f"{_ONE_SEAT} WHERE a.assignment = ? AND a.panelist = ?", (seat, panelist)
    )
    return found[0] if found else None


def find_held_seat(site: Site, panelist: str, step: int | None) -> Record | None:
    """The unanswered seat that the panelist holds: one outside training first."""
    ledger = site.ledger
    rows = ledger.query(
        f"{_OF_STEP} WHERE c.run = ? AND (c.kind <> 'train' OR c.step = ?) AND a.panelist = ? "
        "AND v.vote IS NULL AND a.released_us IS NULL AND a.expires_us > ? "
        "ORDER BY c.kind = 'train', a.rowid",
        (ledger.run, step, panelist, site.clock()),
    )
    return rows[0] if rows else None


def find_second(site: Site, panelist: str) -> Record | None:
    """The second seat that the panelist holds, as a kind of its own."""
    seat = second_seats.find_held(site.ledger, panelist, site.clock())
    row = None if seat is None else seat_row(site, panelist, seat)
    return None if row is None else {**row, "kind": "second"}


def answers(site: Site, panelist: str, step: int) -> list[Record]:
    """The panelist's answered seats of a round, in the order of their first showing."""
    return site.ledger.query(
        f"{_OF_STEP} WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND a.panelist = ? "
        "AND v.vote IS NOT NULL ORDER BY a.rowid",
        (site.ledger.run, step, panelist),
    )


def last_round(site: Site, panelist: str) -> list[Record]:
    """The answers of the last round in which the panelist voted, at most two rounds ago."""
    last = site.status.read().step or 0
    for step in (last, last - 1):
        found = answers(site, panelist, step)
        if found:
            return found
    return []
