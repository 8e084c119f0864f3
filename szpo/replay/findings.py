"""The result of a verification: steps that agree, and the first row that does not."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Final, Literal

from szpo.ledger.database import Ledger

Promise = Literal["exact", "1e-9", "not recomputed"]


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
    """One step that agrees with the record, and how exactly its update does.

    ``exact``: recomputed from the votes to the last bit. ``1e-9``: to that relative difference,
    for rules whose arithmetic may round differently on other machines. Weights are always exact.
    """

    step: int
    promise: Promise
    votes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `verify`: steps that agree, and the first failure if there is one."""

    steps: tuple[StepCheck, ...]
    failure: Failure | None
    rows: int
    """Append-only rows whose hashes were recomputed."""
    head: str = ""
    """The hash of the last event, which covers everything before it."""
    note: str = ""
    """What could not be checked, and what else the reader should know; '' if nothing."""

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees."""
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
    "not recomputed": "not recomputed",
}


class Broken(Exception):  # noqa: N818
    """A failed check: control flow within a verification, never raised to callers."""

    def __init__(self, table: str, row: object, problem: str):
        super().__init__(problem)
        self.failure = Failure(table, str(row), problem)


@dataclass(slots=True)
class Examination:
    """The state of a verification: its input, and what was found so far."""

    ledger: Ledger
    hashes: sqlite3.Connection
    """A scratch database: per table, the hash that an event recorded for each row."""
    deep: bool = True
    """Whether to recompute updates and weights too."""
    noted_head: str | None = None
    """The hash of an event that the user noted elsewhere; None without one."""
    steps: list[StepCheck] = field(default_factory=list)
    rows: int = 0
    head: str = ""
    notes: list[str] = field(default_factory=list)

    def report(self, failure: Failure | None = None) -> Report:
        """A report of what was found so far; its note is empty if a check failed."""
        note = "; ".join(self.notes) if failure is None else ""
        return Report(tuple(self.steps), failure, self.rows, self.head, note)
