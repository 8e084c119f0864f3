"""A panelist's own counts and seats, read from the ledger; each seat has its latest answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from szpo.ledger.database import Record
from szpo.voting import casting
from szpo_ui.web.site import Site

SPENT_S: Final = (
    "max(0, min(coalesce(v.dwell_ms, 1e15), (v.received_us - a.served_us) / 1e3)) / 1e3"
)
"""Seconds a vote took: the page's own measure, at most the time since the texts were served."""
_OWN: Final = f"""
SELECT own.*, seat.* FROM (
  SELECT (SELECT coalesce(sum(n_votes), 0) FROM updates) AS done,
    coalesce(sum(v.choice <> 'skip' AND v.late = 0), 0) AS given,
    coalesce(sum({SPENT_S}), 0) AS spent_s, count(DISTINCT a.sheet) AS sheets,
    EXISTS (SELECT 1 FROM events WHERE kind = 'consent' AND actor = :panelist) AS agreed
  FROM assignments a JOIN comparisons c USING (comparison)
  JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
  WHERE a.panelist = :panelist AND c.kind = 'train'
) own LEFT JOIN (
  SELECT a.*, a.rowid AS number, c.kind, c.step, c.expected, v.choice, v.skip_reason, v.details,
    v.received_us
  FROM comparisons c CROSS JOIN assignments a ON a.comparison = c.comparison
  LEFT JOIN votes v ON v.assignment = a.assignment AND v.revision =
    (SELECT max(revision) FROM votes WHERE assignment = a.assignment)
  WHERE c.run = :run AND (c.kind <> 'train' OR c.step = :step) AND a.panelist = :panelist
) seat ON 1 ORDER BY seat.number
"""


def read(site: Site, panelist: str, step: int | None) -> tuple[Record, list[Record]]:
    """A panelist's counts, and their seats in a round and outside training, oldest first."""
    rows = site.ledger.query(_OWN, {"panelist": panelist, "run": site.ledger.run, "step": step})
    return rows[0], [row for row in rows if row["assignment"] is not None]


def seat_row(site: Site, panelist: str, seat: str) -> Record | None:
    """A seat of this panelist with its latest answer; None if it is not theirs."""
    found = casting.read_seat(site.ledger, seat, panelist)
    return found[-1] if found else None


def on_sheet(row: Record, seats: Sequence[Record]) -> list[Record]:
    """The seats that were shown at once with this one; a comparison of batches is alone."""
    together = [each for each in seats if row["sheet"] and each["sheet"] == row["sheet"]]
    return together or [row]


def find_held(site: Site, panelist: str, seats: Sequence[Record]) -> Record | None:
    """The unanswered seat they hold: first one outside training, then a round's."""
    now = site.ledger.clock()
    held = (
        row
        for row in seats
        if row["choice"] is None and row["released_us"] is None and row["expires_us"] > now
    )
    return min(held, key=lambda row: row["kind"] == "train", default=None)
