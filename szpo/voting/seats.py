"""Seats at comparisons: their ids and orders, derived from the seed, and their rows.

A seat is a comparison reserved for a panelist (table `assignments`). `szpo.voting.seat_counts`
decides which comparison of the open step is served next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.types import Assignment

Letter = Literal["A", "B"]
LETTERS: Final[tuple[Letter, ...]] = ("A", "B")
MOVING_EVENTS: Final = ("unpause", "revoke", "erase")
"""Events that change expiry times: callers of `postpone` and `give_back` record one of them."""


# ---- derived from the seed ----


def seat_id(root_seed: int, head: Mapping[str, Any], panelist: str) -> str:
    """The id of a simulated panelist's or a judge's seat; ``head`` is the comparison's row."""
    return _seat_key(root_seed, "assignment", head, panelist).hex()


def prompt_order(root_seed: int, head: Mapping[str, Any], panelist: str, d: int) -> list[int]:
    """The random order in which a panelist is shown the D prompts of a comparison."""
    order = seeds.permutation(_seat_key(root_seed, "order", head, panelist), d)
    return [int(i) for i in order]


def panelist_order(root_seed: int, step: int | None, name: str, size: int) -> list[int]:
    """The random order in which a panelist is shown ``size`` comparisons with equally many seats.

    Sides alternate over the comparisons. In a fixed order, a panelist who recognises a side once
    would know it in all further comparisons.
    """
    order = seeds.permutation(seeds.derive(root_seed, "serve", step=step, name=name), size)
    return [int(i) for i in order]


def postpone(ledger: Ledger, since_us: int) -> None:
    """Extend the seats that were held at ``since_us`` by the time since then.

    Call it at the end of a pause; readers reload expiry times when they see the pause's event.
    """
    ledger.execute(
        "UPDATE assignments SET expires_us = expires_us + ? "
        "WHERE expires_us > ? AND released_us IS NULL AND comparison IN "
        "(SELECT c.comparison FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.state = 'open')",
        (ledger.clock() - since_us, since_us),
    )


def give_back(ledger: Ledger, panelist: str) -> None:
    """Release every unanswered seat of a panelist; callers record the event that ends access."""
    now = ledger.clock()
    ledger.execute(
        "UPDATE assignments SET released_us = ?, expires_us = ? WHERE panelist = ? "
        "AND expires_us > ? AND NOT EXISTS "
        "(SELECT 1 FROM votes WHERE assignment = assignments.assignment)",
        (now, now, panelist, now),
    )


def find(ledger: Ledger, seat: str) -> Assignment | None:
    """The seat of that id, or None."""
    found = ledger.query("SELECT * FROM assignments WHERE assignment = ?", (seat,))
    return assignment(found[0]) if found else None


def find_unanswered(
    ledger: Ledger, panelist: str, kinds: Sequence[str], now: int
) -> Assignment | None:
    """The panelist's held, unanswered seat at a comparison of these kinds, or None."""
    found = ledger.query(
        "SELECT a.* FROM assignments a JOIN comparisons c USING (comparison) "
        "LEFT JOIN votes v ON v.assignment = a.assignment AND v.revision = 0 "
        f"WHERE a.panelist = ? AND c.kind IN ({', '.join('?' * len(kinds))}) "
        "AND v.vote IS NULL AND a.released_us IS NULL AND a.expires_us > ? "
        "ORDER BY a.rowid DESC LIMIT 1",
        (panelist, *kinds, now),
    )
    return assignment(found[0]) if found else None


def assignment(row: Mapping[str, Any]) -> Assignment:
    """The seat that a row of `assignments` holds."""
    return Assignment(
        id=row["assignment"],
        comparison=row["comparison"],
        panelist=row["panelist"],
        plus_side=row["plus_side"],
        prompt_order=tuple(json.loads(row["prompt_order"])),
        expires_us=row["expires_us"],
    )


def _seat_key(root_seed: int, purpose: str, head: Mapping[str, Any], panelist: str) -> bytes:
    if head["step"] is None:  # outside training a comparison has no (step, k, n)
        return seeds.derive(root_seed, purpose, name=f"{head['comparison']}/{panelist}")
    name = f"{head['n']}/{panelist}"
    return seeds.derive(root_seed, purpose, step=head["step"], k=head["k"], name=name)
