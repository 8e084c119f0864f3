"""What a verification finds: steps that agree, and the first row that does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

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
    """What could not be looked at; '' where all was."""

    @property
    def ok(self) -> bool:
        """Nothing disagrees."""
        return self.failure is None

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per step: what was recomputed."""
        return tuple(
            f"step {check.step}: {check.votes} votes, update {_TOLD[check.promise]}"
            for check in self.steps
        )

    def __str__(self) -> str:
        if self.failure is not None:
            return f"does not verify: {self.failure}"
        counts = {p: sum(check.promise == p for check in self.steps) for p in _TOLD}
        told = ", ".join(f"{n} {_TOLD[p]}" for p, n in counts.items() if n)
        return f"verified: {self.rows} rows, {len(self.steps)} steps ({told or 'none yet'})"


_TOLD: Final[dict[Promise, str]] = {
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
