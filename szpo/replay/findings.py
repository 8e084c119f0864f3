"""The result of a verification: steps that agree, and the first row that does not; its checks."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Final, Literal

from szpo.ledger.database import Ledger

Promise = Literal["exact", "1e-9", "void", "not recomputed"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a ledger first disagrees with itself: a table, the row's key, and what is wrong."""

    table: str
    row: str
    problem: str

    def __str__(self) -> str:
        return f"{self.table} row {self.row}: {self.problem}"


@dataclass(frozen=True, slots=True)
class StepCheck:
    """One step that agrees: which promise its update met.

    ``exact``: recomputed from the votes to the last bit; ``1e-9``: to that relative difference
    (rules whose arithmetic other machines may round otherwise). The weights are always exact.
    """

    step: int
    promise: Promise
    votes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found: steps that agree, and the first failure if there is one."""

    steps: tuple[StepCheck, ...]
    failure: Failure | None
    rows: int
    """Append-only rows whose hashes were recomputed."""
    head: str = ""
    """The hash of the last event, which covers everything before it."""
    note: str = ""
    """What could not be checked; '' where all was."""

    @property
    def ok(self) -> bool:
        """Nothing disagrees."""
        return self.failure is None

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per step: what was recomputed; none where there are more than 100."""
        return tuple(
            f"step {check.step}: {check.votes} votes, update {_PROMISES[check.promise]}"
            for check in (self.steps if len(self.steps) <= 100 else ())
        )

    def __str__(self) -> str:
        if self.failure is not None:
            return f"does not verify: {self.failure}"
        counts = {p: sum(check.promise == p for check in self.steps) for p in _PROMISES}
        found = ", ".join(f"{n} {_PROMISES[p]}" for p, n in counts.items() if n)
        return f"verified: {self.rows} rows, {len(self.steps)} steps ({found or 'none yet'})"


_PROMISES: Final[dict[Promise, str]] = {
    "exact": "exact from the votes",
    "1e-9": "from the votes to 1e-9",
    "void": "void",
    "not recomputed": "not recomputed",
}


class Broken(Exception):  # noqa: N818
    """A check that failed: control flow inside a verification, never raised to callers."""

    def __init__(self, table: str, row: object, problem: str):
        super().__init__(problem)
        self.failure = Failure(table, str(row), problem)


@dataclass(slots=True)
class Examination:
    """A verification while it runs: what is examined, and what was found so far."""

    ledger: Ledger
    hashes: sqlite3.Connection
    """A scratch database: per table, the hash that an event recorded of each row."""
    deep: bool = True
    """Recompute updates and weights too."""
    noted_head: str | None = None
    """The hash of an event as noted elsewhere; None where nobody noted one."""
    steps: list[StepCheck] = field(default_factory=list)
    rows: int = 0
    head: str = ""
    notes: list[str] = field(default_factory=list)

    def report(self, failure: Failure | None = None) -> Report:
        """The report with what was found so far; the note only where nothing failed."""
        note = "; ".join(self.notes) if failure is None else ""
        return Report(tuple(self.steps), failure, self.rows, self.head, note)
