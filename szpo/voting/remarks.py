"""What decided, in a panelist's words: a line beside the record, offered as a feature.

A line changes no fit of its run, whose features are fixed before its first vote. The operator may
begin a later run with the feature; only verdicts given from then on can be about it. Being beside
the record, lines are erased with the person who wrote them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Final

from szpo.features.reading import words
from szpo.features.said import is_idle
from szpo.ledger.database import Ledger
from szpo.visible_text import visible

LONGEST: Final = 300
"""Characters of a line."""
MOST: Final = 100
"""Lines of one panelist."""


def record(ledger: Ledger, panelist: str, text: str) -> None:
    """Store a line; one without a word, said before, or beyond `MOST` is not kept."""
    line = visible(" ".join(text.encode(errors="replace").decode().split()))[:LONGEST]
    if words(line):
        with ledger.transaction(panelist):
            ledger.execute(
                "INSERT OR IGNORE INTO remarks SELECT ?1, ?2, ?3 "
                "WHERE (SELECT count(*) FROM remarks WHERE panelist = ?1) < ?4",
                (panelist, line, ledger.clock(), MOST),
            )


def read(
    ledger: Ledger, panelist: str | None = None, *, live: bool = True
) -> Iterator[tuple[str, str]]:
    """Pseudonym and line of all panelists, or of one, the earliest first.

    Without ``live`` not of an open round, whose verdicts a line may tell.
    """
    opened = (row["opened_us"] for row in ledger.steps() if row["state"] == "open" and not live)
    for row in ledger.query(
        "SELECT pseudonym, text FROM remarks r JOIN panelists USING (panelist) "
        "WHERE panelist = coalesce(?, panelist) AND at_us < ? ORDER BY at_us, r.rowid",
        (panelist, min(opened, default=2**62)),
    ):
        yield row["pseudonym"], row["text"]


def erase(ledger: Ledger, panelist: str | None) -> int:
    """Delete a panelist's lines within the caller's transaction; returns how many."""
    return ledger.execute("DELETE FROM remarks WHERE panelist = ?", (panelist,)).rowcount


def offer(text: str) -> tuple[str, ...]:
    r"""The options that make a line a feature of a later run, safe to paste into a shell.

    >>> print(*offer("the warm, funny ones"), sep="\n")
    --set 'features.add=["keyword:warm+funny+ones"]'
    --set 'features.add=["judge: the warm, funny ones"]'
    """
    named = "+".join(dict.fromkeys(word for word in words(text) if not is_idle(word)))
    forms = [*([f"keyword:{named}"] if named else []), f"judge: {text}"]
    added = (f"features.add={json.dumps([form], ensure_ascii=False)}" for form in forms)
    return tuple(f"--set {shlex.quote(each)}" for each in added)
