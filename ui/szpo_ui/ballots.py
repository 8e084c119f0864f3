"""The ballot that answers what a panelist sees, and what else a page or API asks of a seat.

Page and API store a vote, extend a seat and answer a poller in one way.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field

from szpo.errors import UsageError
from szpo.ledger.database import Record
from szpo.runs.status import RoundStatus, redact_for_panelists
from szpo.voting import casting
from szpo.voting.casting import Receipt, VoteConflictError, VoteRequest
from szpo_ui.request_rules import Body, Seat, Tab
from szpo_ui.sheets import gate_s, to_read
from szpo_ui.site import Site

Letter = Literal["A", "B", "tie"]
Plain = str | bool | int | Annotated[float, Field(allow_inf_nan=False)] | None


class Ballot(VoteRequest):
    """A vote as a page or a program sends it; it holds nothing that the server knows itself."""

    assignment: Seat
    tab: Tab
    skip_reason: str | None = Field(None, min_length=1, max_length=200)
    details: dict[str, Plain | dict[str, Letter]] = Field(default_factory=dict, max_length=32)
    """Further facts; the page sends ``notes`` on single rows, and how many rows were ``seen``."""


class At(Body):
    """A page's tab, and the seat that the page shows."""

    tab: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    seat: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")


def cast(site: Site, panelist: str, ballot: Ballot) -> tuple[Record, Receipt | VoteConflictError]:
    """Store a vote within the caller's transaction.

    Returns the seat's row, and the vote's receipt or why it was refused. The server adds how much
    there was to read, and whether the vote was too fast for that.
    """
    rows = casting.read_seat(site.ledger, ballot.assignment, panelist)
    if not rows:
        raise UsageError("vote: there is no such comparison for this panelist")
    seat = rows[-1]
    read = site.comparison(seat["comparison"])
    assert read is not None, seat["comparison"]
    differ, words = [i for i, row in enumerate(read.rows) if not row.identical], to_read(read)
    # The client's reading time is not trusted: the time since the texts were served is its upper
    # bound. If that time is negative, the clock was set back and the bound is unknown.
    had_ms = (site.ledger.clock() - seat["served_us"]) / 1000
    read_ms: float | None = ballot.dwell_ms
    if had_ms >= 0:
        read_ms = had_ms if read_ms is None else min(read_ms, had_ms)
    fast = ballot.choice != "skip" and read_ms is not None and read_ms < 1000 * gate_s(words)
    noted: dict[str, Any] = {"rows": len(differ), "words": words, "fast": fast}
    details = {name: value for name, value in ballot.details.items() if value is not None}
    if isinstance(notes := details.get("notes"), dict):
        details["notes"] = {i: notes[i] for i in map(str, differ) if i in notes}
    if isinstance(seen := details.get("seen"), int):
        details["seen"] = min(seen, len(differ))
    request = ballot.model_copy(update={"details": details or None})
    version, now = site.service.rubric_version, site.ledger.clock()
    try:
        return seat, casting.store(
            site.ledger, request, rows, noted=noted, rubric_version=version, at_us=now
        )
    except VoteConflictError as refusal:
        return seat, refusal


def extend(site: Site, panelist: str, seat: str, tab: str | None = None) -> int | None:
    """Hold a seat, and those on its sheet, for another full term.

    Returns the seat's end, or None if others may have the seat. With a ``tab``, only an
    unanswered seat of that tab (or of none) is extended.
    """
    rows = casting.read_seat(site.ledger, seat, panelist)
    if not rows:
        raise UsageError("extend: there is no such comparison for this panelist")
    if tab and (rows[-1]["choice"] or rows[-1]["tab"] not in (None, tab)):
        return None
    if (sheet := rows[-1]["sheet"]) is not None:
        for row in site.ledger.query(
            "SELECT a.assignment FROM assignments a LEFT JOIN votes v USING (assignment) "
            "WHERE a.panelist = ? AND a.sheet = ? AND v.vote IS NULL AND a.assignment <> ?",
            (panelist, sheet, seat),
        ):
            site.service.extend(row["assignment"])
    return site.service.extend(seat)


def poll(site: Site, panelist: str, at: At | None = None) -> tuple[dict[str, Any], str]:
    """The status for a poller, and a tag that changes with it; this reserves no seat.

    A page also gets the key of its screen, and the seconds for which its seat is still held.
    """
    status = redact_for_panelists(site.status.read())
    if at is None:
        return asdict(status), status.version
    site.tabs.note(panelist, at.tab)
    rows = casting.read_seat(site.ledger, at.seat, panelist) if at.seat else []
    seat = rows[-1] if rows and rows[-1]["choice"] is None else None
    elsewhere = seat is not None and is_elsewhere(site, seat, at.tab)
    until = None if seat is None else seat["expires_us"]
    found = {
        **asdict(status),
        "key": key(status, elsewhere=elsewhere),
        "lease_s": None if until is None else lease_s(site, until),
    }
    return found, f"{status.version}-{elsewhere:d}-{until}"


def key(status: RoundStatus, *, elsewhere: bool = False) -> str:
    """The key that the poller compares while a panelist reads.

    It has no counts, so other people's votes do not redraw the page.
    """
    return "elsewhere" if elsewhere else f"{status.state}.{status.step}"


def is_elsewhere(site: Site, seat: Record, tab: str) -> bool:
    """Whether a panelist's seat is open in another tab that still sends requests."""
    other = seat["tab"]
    return other not in (None, tab) and site.tabs.is_alive(seat["panelist"], other)


def lease_s(site: Site, expires_us: int) -> float:
    """Seconds for which a seat is still held, at least 0."""
    return round(max(0, expires_us - site.ledger.clock()) / 1e6, 1)
