"""Who votes: persons, simulated raters and judges, each enrolled once under a pseudonym."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, Literal, get_args

from szpo import seeds
from szpo.errors import UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger

PanelistKind = Literal["person", "simulated", "judge"]
PRESENT_US: Final = 15 * 60_000_000
"""A panelist is present if they began a session, or were served a seat, within this time, µs."""


def panelist_id(root_seed: int, kind: str, pseudonym: str) -> str:
    """The id of a simulated panelist or a judge, from the seed; ids of persons are random."""
    return seeds.derive(root_seed, "panelist", name=f"{kind}/{pseudonym}")[:8].hex()


def enroll(ledger: Ledger, kind: PanelistKind, pseudonym: str, at_us: int) -> str:
    """Enroll a panelist at the first call with this pseudonym; return the panelist's id."""
    if kind not in get_args(PanelistKind):
        raise UsageError(f"panelist {pseudonym!r}: kind {kind!r} is unknown")
    if not 1 <= len(pseudonym) <= 64:
        raise UsageError("panelist: a pseudonym has 1 to 64 characters")
    with ledger.transaction("votes"):
        found = ledger.query("SELECT * FROM panelists WHERE pseudonym = ?", (pseudonym,))
        if found:
            if found[0]["kind"] != kind:
                raise UsageError(
                    f"panelist {pseudonym!r} is enrolled as {found[0]['kind']}; give another name"
                )
            return str(found[0]["panelist"])
        if kind == "person":
            panelist = secrets.token_hex(8)
        else:
            panelist = panelist_id(ledger.root_seed, kind, pseudonym)
        ledger.execute(
            "INSERT INTO panelists VALUES (?, ?, ?, ?)", (panelist, kind, pseudonym, at_us)
        )
        return panelist


def find_present(ledger: Ledger, now: int, *, sessions: bool = True) -> set[str]:
    """The ids of the panelists who are present at ``now``; without ``sessions`` by seats alone."""
    found = ledger.query(
        "SELECT panelist FROM credentials WHERE credential >= 'session:' "
        "AND credential < 'session;' AND panelist IS NOT NULL AND revoked_us IS NULL "
        "AND created_us > ? AND ? UNION SELECT panelist FROM assignments WHERE served_us > ?",
        (now - PRESENT_US, sessions, now - PRESENT_US),
    )
    return {row["panelist"] for row in found}


def has_agreed(ledger: Ledger, panelist: str) -> bool:
    """Whether a person has agreed to take part."""
    sql = "SELECT 1 FROM events WHERE kind = 'consent' AND actor = ?"
    return bool(ledger.query(sql, (panelist,)))


def record_consent(ledger: Ledger, panelist: str, wording: Sequence[str], own: str | None) -> None:
    """Record once that a person agreed, with hashes of the wording and of the operator's text."""
    if not has_agreed(ledger, panelist):
        body = {"panelist": panelist, "text": sha256(canonical(list(wording)))}
        if own is not None:
            body["own"] = sha256(canonical(own))
        ledger.record_event("consent", panelist, body)
