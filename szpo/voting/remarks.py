"""What decided, in a panelist's words: a line on the record, offered to the operator as a feature.

A line changes no fit of its run, whose features are fixed before its first vote. The operator may
begin a later run with the feature; only verdicts given from then on can be about it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from szpo.features.reading import words
from szpo.features.said import is_idle
from szpo.ledger.database import Ledger
from szpo.visible_text import visible
from szpo.voting import withdrawals

KIND: Final = "decided"
LONGEST: Final = 300
"""Characters of a line."""
MOST: Final = 100
"""Lines of one panelist; each stays in the record."""


def record(ledger: Ledger, panelist: str, text: str) -> None:
    """Record a line; one without a word, said before, or beyond `MOST` is not kept."""
    line = visible(" ".join(text.encode(errors="replace").decode().split()))[:LONGEST]
    said = [each["body"]["text"] for each in ledger.events(KIND) if each["actor"] == panelist]
    if words(line) and line not in said and len(said) < MOST:
        ledger.record_event(KIND, panelist, {"text": line})


def read(
    ledger: Ledger, panelist: str | None = None, *, live: bool = True
) -> Iterator[tuple[str, str]]:
    """Pseudonym and line of all panelists, or of one, the earliest first.

    Not of those whose verdicts are withdrawn; without ``live`` not of an open round, whose
    verdicts a line may tell.
    """
    names = {row["panelist"]: row["pseudonym"] for row in ledger.query("SELECT * FROM panelists")}
    out = {each.panelist for each in withdrawals.withdrawals(ledger)}
    opened = (row["opened_us"] for row in ledger.steps() if row["state"] == "open" and not live)
    until = min(opened, default=2**63)
    for event in ledger.events(KIND):
        who = event["actor"]
        if panelist in (None, who) and who not in out and event["at_us"] < until:
            yield str(names.get(who, who)), str(event["body"]["text"])


def offer(text: str) -> tuple[str, ...]:
    """The settings that make a line a feature of a later run.

    >>> offer("the warm, funny ones")
    ('features.add=["keyword:warm+funny+ones"]', 'features.add=["judge: the warm, funny ones"]')
    """
    named = "+".join(dict.fromkeys(word for word in words(text) if not is_idle(word)))
    forms = [*([f"keyword:{named}"] if named else []), f"judge: {text}"]
    return tuple(f"features.add={json.dumps([form], ensure_ascii=False)}" for form in forms)
