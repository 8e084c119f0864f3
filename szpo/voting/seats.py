"""Seats at comparisons: panelists, their orders, and which policy stands on side A.

A seat is a comparison reserved for a panelist (table `assignments`). `szpo.voting.counting`
decides which comparison of the open step is served next.

Which policy stands on side A: plus or minus, balanced over a step's votes or drawn. Final
comparisons are balanced in `szpo.voting.blind`.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from szpo import seeds
from szpo.config import optimizer
from szpo.errors import UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger, Record
from szpo.types import Assignment

PanelistKind = Literal["person", "simulated", "judge"]
PRESENT_US: Final = 15 * 60_000_000
"""A panelist is present if they began a session, or were served a seat, within this time, µs."""

Letter = Literal["A", "B"]
LETTERS: Final[tuple[Letter, ...]] = ("A", "B")
MOVING_EVENTS: Final = ("unpause", "revoke", "erase")
"""Events that change expiry times: callers of `postpone` and `give_back` record one of them."""
Balance: TypeAlias = Literal["direction", "step"]
"""The comparisons over which plus is on side A in half of the counted votes."""


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


def find_present(ledger: Ledger, now: int) -> set[str]:
    """The ids of the panelists who are present at ``now``."""
    found = ledger.query(
        "SELECT panelist FROM credentials WHERE credential >= 'session:' "
        "AND credential < 'session;' AND panelist IS NOT NULL AND revoked_us IS NULL "
        "AND created_us > ? UNION SELECT panelist FROM assignments WHERE served_us > ?",
        (now - PRESENT_US, now - PRESENT_US),
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


def planned_sides(
    root_seed: int, asked: Iterable[Record], m: int, balance: Balance = "direction"
) -> dict[str, tuple[Letter, ...]]:
    """The M planned sides of plus for each of a step's `comparisons_asked`, by comparison id.

    They are in a drawn order. Where M is odd, one side has one more; which one alternates.
    """
    found, ranks = {}, Counter[int]()
    for head in asked:
        step, k = head["step"], head["k"]
        among = k if balance == "direction" else 0
        odd = side_in_step(root_seed, step, ranks[among], among)
        ranks[among] += 1
        pool = [*LETTERS * (m // 2), odd]  # the last one is beyond an even M
        key = seeds.derive(root_seed, "seats", step=step, k=k, name=str(head["n"]))
        found[head["comparison"]] = tuple(pool[i] for i in seeds.permutation(key, m))
    return found


def balance_of(ledger: Ledger) -> Balance:
    """The run's `Balance`: sides are balanced within each direction, or over a whole step.

    A rule that asks about many directions once each can be balanced over a step only.
    """
    rule = optimizer.find_rule(ledger.spec.get("optimizer", {}).get("rule", ""))
    return "step" if rule is not None and rule.two_points else "direction"


def side_in_step(root_seed: int, step: int, rank: int, k: int = 0) -> Letter:
    """The side of plus that gets one more vote where M is odd; sides alternate over the ranks.

    ``rank``: how many comparisons that are asked come before, in the step or in direction ``k``.
    """
    first = seeds.integer(seeds.derive(root_seed, "sides", step=step, k=k), 0, 2)
    return LETTERS[(first + rank) % 2]
