"""An open link: whoever comes by it becomes a panelist, while places are left.

An id that comes with it, such as Prolific's, gives its owner the same place again. It is stored
as the contact, which can be erased and which no export reads.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.training.status import StatusReader
from szpo_ui.web import credentials
from szpo_ui.web.credentials import Identity

OPENED, JOINED = "open link", "joined"
"""Events: an open link's places, votes and code; a first arrival, whose actor is the panelist."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A panelist's votes, of those asked, and the completion code to show when they finished."""

    votes: int
    needed: int
    finished: bool
    code: str | None


def make(ledger: Ledger, places: int, votes: int, code: str | None, days: float) -> str:
    """Make an open link and return its token. Earlier ones stay valid, on these terms."""
    credentials.check_days(days)
    for option, number in (("open", places), ("votes", votes)):
        if not 1 <= number <= 100_000:
            raise UsageError(f"--{option} {number}: give 1 to 100,000")
    token, who, now = secrets.token_urlsafe(32), Identity("panelist", "open", None), ledger.clock()
    with ledger.transaction("access"):
        credentials.add(ledger, "open", who, token, now, now + round(days * 86_400e6))
        ledger.record_event(OPENED, "access", {"places": places, "votes": votes, "code": code})
    return token


def arrive(ledger: Ledger, token: str, participant: str) -> tuple[str, Identity]:
    """Let a person in, for the first time or again; returns the session's secret and owner."""
    contact = f"Prolific {participant}" if participant else None
    with ledger.transaction("access"):
        link, now = credentials.find_link(ledger, token, ("open",)), ledger.clock()
        known = ledger.query(
            "SELECT pseudonym FROM contacts c JOIN panelists p USING (panelist) "
            "JOIN events e ON e.kind = ? AND e.actor = p.panelist WHERE c.name = ?",
            (JOINED, contact),
        )
        if known:
            right = credentials.of_name(ledger, known[0]["pseudonym"], "used")[0]
            if fault := credentials.fault_of(right, now):
                raise credentials.AccessError(fault, f"your access is {fault}")
            return credentials.begin(ledger, right)
        taken = ledger.query("SELECT count(*) AS n FROM events WHERE kind = ?", (JOINED,))
        if taken[0]["n"] >= _terms(ledger)["places"]:
            raise credentials.AccessError("full", "all places are taken")
        days = (link["expires_us"] - now) / 86_400e6
        made = credentials.invite(ledger, "panelist", days=days, contact=contact)
        ledger.record_event(JOINED, str(made.panelist), {})
        return credentials.redeem(ledger, made.token)


def standing(ledger: Ledger, panelist: str, status: StatusReader) -> Standing | None:
    """The progress of a panelist; None for one who did not come by an open link."""
    if not ledger.query("SELECT 1 FROM events WHERE kind = ? AND actor = ?", (JOINED, panelist)):
        return None
    found = ledger.query(
        "SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison) "
        "JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        "WHERE a.panelist = ? AND c.kind = 'train'",
        (panelist,),
    )
    terms, votes = _terms(ledger), found[0]["n"]
    finished = votes >= terms["votes"] or status.read().state == "finished"
    return Standing(votes, terms["votes"], finished, terms["code"])


def _terms(ledger: Ledger) -> dict[str, Any]:
    return dict([*ledger.events(OPENED)][-1]["body"])
