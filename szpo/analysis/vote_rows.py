"""The stored votes of a run as rows: the one form that reports, exports and tables are made of.

Panelists are named by pseudonym. Rows are read part by part, so that a run of a million votes
takes little more memory than a short one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from szpo.errors import UsageError
from szpo.ledger.database import Ledger, Record
from szpo.types import Comparison, Floats, Ints, Kind
from szpo.voting import counting, withdrawals

_APART: Final[tuple[Kind, ...]] = ("gold", "aa", "final")
"""Kinds of comparisons that belong to no step."""
_STANDING: Final = 1
_COUNTED: Final = 2
_VOTES: Final = (
    "SELECT v.*, a.comparison, a.plus_side, a.served_us, c.kind, c.step, c.k, c.n, c.expected, "
    "c.repeats, p.pseudonym FROM votes v CROSS JOIN assignments a USING (assignment) "
    "CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p USING (panelist) "
    "WHERE v.vote <= ? ORDER BY v.vote"
)


@dataclass(frozen=True, slots=True)
class VoteRow:
    """One stored vote; each revision is a row of its own, with the same seat."""

    vote: int
    seat: str
    revision: int
    comparison: str
    kind: Kind
    step: int | None
    k: int | None
    n: int | None
    panelist: str
    """Pseudonym."""
    plus_side: str
    choice: str
    verdict: str
    expected: str | None
    """The right verdict, where it is known: plus, minus or tie."""
    repeats: str | None
    """The comparison that this one shows again."""
    standing: bool
    """The seat's last answer, in time and not excluded."""
    counted: bool
    """Of a training comparison, and used by its step's update."""
    late: bool
    skip_reason: str | None
    dwell_ms: int | None
    served_us: int
    received_us: int
    words: int
    """Words in the prompts and both answers of rows that differ."""
    words_plus: int
    words_minus: int
    fast: bool
    """Cast sooner than a quarter of the reading time."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Row number → A, tie or B: a panelist's own notes."""

    @property
    def seconds(self) -> float:
        """Time on the page, s: as the page measured it, else from serving to the answer."""
        if self.dwell_ms is None:
            return max(0, self.received_us - self.served_us) / 1e6
        return self.dwell_ms / 1e3


class VoteRows:
    """The votes that a ledger holds now, in order; each iteration reads them again, part by part.

    Memory holds one byte per vote and the word counts of each comparison. Votes on comparisons in
    ``without`` are left out.
    """

    def __init__(self, ledger: Ledger, without: Collection[str] = ()):
        self._ledger = ledger
        self._without = without
        last = ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"]
        self._marks = _mark_votes(ledger, last)
        self._words = _count_words(ledger)

    def __iter__(self) -> Iterator[VoteRow]:
        for row in self._ledger.stream(_VOTES, (len(self._marks) - 1,)):
            if row["comparison"] not in self._without:
                yield self._row(row)

    def _row(self, row: Record) -> VoteRow:
        details = json.loads(row["details"]) if row["details"] else {}
        prompt, plus, minus = self._words.get(row["comparison"], (0, 0, 0))
        marks = self._marks[row["vote"]]
        return VoteRow(
            vote=row["vote"], seat=row["assignment"], revision=row["revision"],
            comparison=row["comparison"], kind=row["kind"], step=row["step"], k=row["k"],
            n=row["n"], panelist=row["pseudonym"], plus_side=row["plus_side"],
            choice=row["choice"], verdict=counting.verdict(row["choice"], row["plus_side"]),
            expected=row["expected"], repeats=row["repeats"],
            standing=bool(marks & _STANDING), counted=bool(marks & _COUNTED),
            late=bool(row["late"]), skip_reason=row["skip_reason"],
            dwell_ms=row["dwell_ms"],
            served_us=row["served_us"], received_us=row["received_us"],
            words=prompt + plus + minus, words_plus=plus, words_minus=minus,
            fast=details.get("fast") is True,
            notes=_notes(details.get("notes")),
        )  # fmt: skip


def _mark_votes(ledger: Ledger, last: int) -> bytearray:
    """Which votes up to ``last`` stand and which count, one byte for each id."""
    marks = bytearray(last + 1)
    for cast in counting.standing_votes(ledger, *_APART, last_vote=last):
        marks[cast.number] |= _STANDING
    for step in ledger.steps():
        standing, counted = counting.StepVotes(ledger, step["step"]).ids()
        for found, mark in ((standing, _STANDING), (counted, _COUNTED)):
            for vote in found:
                if vote <= last:  # else cast since then
                    marks[vote] |= mark
    return marks


def _count_words(ledger: Ledger) -> dict[str, tuple[int, int, int]]:
    """(prompt, plus, minus) words in the rows that differ, of the comparisons voted on."""
    found: dict[str, tuple[int, int, int]] = {}
    for row in ledger.stream(
        "SELECT comparison, prompt, plus, minus FROM answers WHERE plus <> minus "
        "AND comparison IN (SELECT comparison FROM assignments)"
    ):
        prompt, plus, minus = found.get(row["comparison"], (0, 0, 0))
        question = json.loads(row["prompt"])[-1][1]
        found[row["comparison"]] = (
            prompt + len(question.split()),
            plus + len(row["plus"].split()),
            minus + len(row["minus"].split()),
        )
    return found


def _notes(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {str(row): note for row, note in value.items() if note in ("A", "tie", "B")}


# ---- with texts ----

WORTH = {"plus": 1.0, "tie": 0.5, "minus": 0.0}


@dataclass(frozen=True)
class Judged:
    """n votes on the comparisons of closed rounds."""

    comparisons: tuple[Comparison, ...]
    which: Ints
    """(n,) the comparison of each vote, as an index."""
    y: Floats
    """(n,) 1 plus, 0 minus, ½ tie."""
    panelist: tuple[str, ...]
    """(n,) pseudonyms."""


def read_judged(ledger: Ledger, until: int | None = None, before: int = 2**62) -> Judged:
    """The counted votes of every closed round, in order of step, direction and comparison.

    Without those that were withdrawn since. ``until``: of the first so many rounds; ``before``:
    by what was withdrawn before this event.

    Raises:
        UsageError: there are none.
    """
    held = withdrawals.withdrawals(ledger, before)
    rows = [
        row
        for row in ledger.query(
            "SELECT * FROM counted_votes JOIN panelists USING (panelist) WHERE step < ? "
            "ORDER BY step, k, n, place",
            (2**62 if until is None else until,),
        )
        if not any(each.holds(row["panelist"], row["step"]) for each in held)
    ]
    if not rows:
        raise UsageError(
            f"{ledger.path.name} has no votes on a closed round yet; let its panel vote first"
        )
    place = {name: i for i, name in enumerate(dict.fromkeys(row["comparison"] for row in rows))}
    return Judged(
        tuple(filter(None, map(ledger.comparison, place))),
        np.array([place[row["comparison"]] for row in rows], dtype=np.int64),
        np.array([WORTH[row["verdict"]] for row in rows]),
        tuple(row["pseudonym"] for row in rows),
    )
