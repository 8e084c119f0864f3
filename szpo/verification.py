"""Re-derive a run from its raw rows and name the first row that disagrees.

Reads only the file: no model, no torch, no clock. In this order: tables and triggers, the chain
of events, every append-only row against the hash its event recorded, what the rows say of each
other, then per step the votes behind the update, and the updates behind the weights.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from szpo import coordinates, optimizer, records, votes
from szpo.errors import SzpoError
from szpo.ledger import Ledger, Record, schema, update_of
from szpo.records import sha256
from szpo.settings import Settings, settings_from_json
from szpo.types import Comparison, Info, Theta, Update

Promise = Literal["exact", "1e-9", "void", "not recomputed"]
TOLERANCE: Final = 1e-9
"""Relative: what another machine's rounding may change in an estimate that is not exact."""
ROUNDINGS: Final = {"coef": 2.0**-12, "vector": 2.0**-23}
"""Relative: one unit of the last place that is recorded (13 bits; fp32)."""


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


class _Broken(Exception):  # noqa: N818 (control flow, not an error for callers)
    def __init__(self, table: str, row: object, problem: str):
        super().__init__(problem)
        self.failure = Failure(table, str(row), problem)


def verify(ledger: Ledger, *, deep: bool = True) -> Report:
    """Check a whole ledger; ``deep`` also recomputes every update and all weights.

    >>> Failure("votes", "3", "differs from what was recorded")
    Failure(table='votes', row='3', problem='differs from what was recorded')
    """
    checks: list[StepCheck] = []
    rows = 0
    try:
        _schema(ledger)
        recorded = _chain(ledger)
        rows = _hashes(ledger, recorded)
        _pages(ledger)  # after the hashes: they name the row where this names the file
        _header(ledger)
        _votes(ledger)
        for row in ledger.steps():
            _questions(ledger, row)
        checks += _steps(ledger, deep=deep)
    except _Broken as found:
        return Report(tuple(checks), found.failure, rows)
    except (SzpoError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        return Report(tuple(checks), Failure("file", ledger.path.name, str(error)), rows)
    return Report(tuple(checks), None, rows)


# ---- the file, the chain, the rows ----


def _pages(ledger: Ledger) -> None:
    for row in ledger.query("PRAGMA quick_check(1)"):
        if row["quick_check"] != "ok":
            raise _Broken("file", ledger.path.name, row["quick_check"])


def _schema(ledger: Ledger) -> None:
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.executescript(schema())
        # Indexes may come and go with versions; tables and triggers are the promise.
        sql = "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'trigger')"
        wanted = dict(fresh.execute(sql).fetchall())
    finally:
        fresh.close()
    found = {row["name"]: row["sql"] for row in ledger.query(sql)}
    for name, text in wanted.items():
        if _words(found.get(name)) != _words(text):
            raise _Broken("sqlite_master", name, "is missing or was changed")


def _words(sql: str | None) -> list[str]:
    """A definition without comments and spacing, which may change between versions."""
    return re.sub(r"--[^\n]*", "", sql or "").split()


def _chain(ledger: Ledger) -> dict[str, dict[str, str]]:
    """Check every event; returns table → row key → recorded hash."""
    recorded: dict[str, dict[str, str]] = {table: {} for table in records.CHAINED}
    before: Record | None = None
    for event in ledger.query("SELECT * FROM events ORDER BY event"):
        number = 1 if before is None else before["event"] + 1
        if event["event"] != number:
            raise _Broken("events", number, f"is missing; the next is {event['event']}")
        if records.event_sha256(event) != event["row_sha256"]:
            raise _Broken("events", number, "differs from its own hash")
        if before is not None and event["prev_sha256"] != before["row_sha256"]:
            raise _Broken("events", number, "does not follow from the event before it")
        before = event
        if event["kind"] == "rows":
            for table, key, digest in json.loads(event["body"])["rows"]:
                recorded[table][key] = digest
    given = ledger.query("SELECT seq FROM sqlite_sequence WHERE name = 'events'")[0]["seq"]
    if before is not None and given != before["event"]:
        raise _Broken("events", given, f"is missing; the last is {before['event']}")
    return recorded


def _hashes(ledger: Ledger, recorded: dict[str, dict[str, str]]) -> int:
    count = 0
    for table, known in recorded.items():
        unseen = dict(known)
        for row in ledger.query(f"SELECT * FROM {table}"):
            key = records.row_key(table, row)
            digest = unseen.pop(key, None)
            if digest is None:
                raise _Broken(table, key, "no event recorded it (added, or its key was changed)")
            if records.row_sha256(table, row) != digest:
                raise _Broken(table, key, "differs from what was recorded")
            count += 1
        for key in unseen:
            raise _Broken(table, key, "was recorded and is gone")
    return count


def _header(ledger: Ledger) -> None:
    row = ledger.row
    first = ledger.query("SELECT prev_sha256 FROM events ORDER BY event LIMIT 1")[0]
    if sha256(row["spec"]) != row["spec_sha256"] or first["prev_sha256"] != row["spec_sha256"]:
        raise _Broken("runs", ledger.run, "spec_sha256 is not the hash of the spec")
    if coordinates.layout_sha256(ledger.layout) != row["layout_sha256"]:
        raise _Broken("runs", ledger.run, "layout_sha256 is not the hash of the layout")
    for tensor in ledger.query("SELECT * FROM tensors"):
        if sha256(tensor["bytes"]) != tensor["sha256"]:
            raise _Broken("tensors", tensor["name"], "sha256 is not the hash of the bytes")


# ---- what the rows say of each other ----


def _questions(ledger: Ledger, row: Record) -> None:
    comparisons = ledger.comparisons(row["step"], kind=None)
    heads = {
        head["comparison"]: head
        for head in ledger.query("SELECT * FROM comparisons WHERE step = ?", (row["step"],))
    }
    for comparison in comparisons:
        head = heads[comparison.id]
        if records.rows_sha256(comparison.rows) != head["rows_sha256"]:
            raise _Broken("comparisons", comparison.id, "rows_sha256 is not that of its answers")
        if comparison.identical != bool(head["identical"]):
            raise _Broken("comparisons", comparison.id, "identical does not fit its answers")
    train = [c for c in comparisons if c.kind == "train"]
    if row["state"] in ("open", "closed", "applied"):
        places = [(c.k, c.n) for c in train]
        if places != [(k, n) for k in range(row["k"]) for n in range(row["n"])]:
            raise _Broken("steps", row["step"], "does not have K·N training comparisons")
    if row["closed_by"] == "rule":
        _rule_met(ledger, row, train)


def _rule_met(ledger: Ledger, row: Record, train: Sequence[Comparison]) -> None:
    have: dict[str, int] = {}
    for vote in votes.counted(ledger, row["step"]):
        have[vote.comparison] = have.get(vote.comparison, 0) + 1
    for comparison in train:
        if not comparison.identical and have.get(comparison.id, 0) != row["m"]:
            raise _Broken(
                "steps",
                row["step"],
                f"was closed by its rule, yet comparison {comparison.id} has "
                f"{have.get(comparison.id, 0)} of {row['m']} votes",
            )


def _votes(ledger: Ledger) -> None:
    closes = {row["step"]: row["last_vote"] for row in ledger.steps()}
    revisions: dict[str, int] = {}
    for vote in ledger.votes():
        if vote["revision"] != revisions.get(vote["assignment"], -1) + 1:
            raise _Broken("votes", vote["vote"], "its revisions have a gap")
        revisions[vote["assignment"]] = vote["revision"]
        last = closes.get(vote["step"])
        if last is not None and bool(vote["late"]) != (vote["vote"] > last):
            raise _Broken("votes", vote["vote"], "late does not fit the close of its step")


# ---- votes → updates → weights ----


def _steps(ledger: Ledger, *, deep: bool) -> Iterator[StepCheck]:
    rows_of: dict[int, list[Record]] = {}
    prev = ledger.row["spec_sha256"]
    for row in ledger.update_rows():
        key = records.row_key("updates", row)
        if row["prev_sha256"] != prev or records.update_sha256(row) != row["row_sha256"]:
            raise _Broken("updates", key, "breaks the chain of updates")
        prev = row["row_sha256"]
        rows_of.setdefault(row["step"], []).append(row)
    folding = _Folding(ledger) if deep else None
    heads = ledger.heads()
    done = 0
    for number, step in enumerate(ledger.steps()):
        if step["step"] != number:
            raise _Broken("steps", number, "is missing")
        if (step["state"] == "applied") != (number in rows_of):
            raise _Broken("steps", number, f"is {step['state']}, which its updates deny")
        # With lag 1 a step starts from the head before the last one; later heads cannot be.
        if step["head_sha256"] not in heads[max(0, done - 1) : done + 1]:
            raise _Broken("steps", number, "head_sha256 is not the head it was planned from")
        if step["state"] == "void":
            if folding is not None:
                folding.skip()
            yield StepCheck(number, "void", 0)
        elif step["state"] == "applied":
            counted = votes.counted(ledger, number)
            digest = records.votes_sha256(counted)
            for row in rows_of[number]:
                if row["votes_sha256"] != digest:
                    key = records.row_key("updates", row)
                    raise _Broken("updates", key, "votes_sha256 is not that of the counted votes")
            promise: Promise = "not recomputed"
            if folding is not None:
                promise = folding.check(step, rows_of[number])
            done += 1
            yield StepCheck(number, promise, len(counted))


class _Folding:
    """State and weights, step by step, as votes and updates give them."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.settings: Settings = settings_from_json(ledger.spec["optimizer"])
        self.state = optimizer.init(self.settings)
        self.theta: Theta = ledger.start()
        self.past: list[Update] = []
        self.exact = is_exact(self.settings)

    def skip(self) -> None:
        self.state = replace(self.state, step=self.state.step + 1)

    def check(self, step: Record, rows: Sequence[Record]) -> Promise:
        ledger, settings, number = self.ledger, self.settings, step["step"]
        query = optimizer.query(settings, number, step["mu"])
        tally = votes.tally(ledger, number, settings.K, settings.N)
        self.state, told, info = optimizer.tell(self.state, query, tally)
        recorded = [update_of(row) for row in rows]
        if [u.k for u in told] != [u.k for u in recorded]:
            key = records.row_key("updates", rows[0])
            raise _Broken("updates", key, "the votes give another number of updates")
        for row, mine, stored in zip(rows, told, recorded, strict=True):
            self._compare(row, mine, stored, info)
        reach = settings.momentum_terms if settings.momentum else 0
        self.past = [u for u in (*self.past, *recorded) if u.step >= number - reach]
        for update in optimizer.fold(settings, self.past, number):
            self.theta = coordinates.applied(settings.space, self.theta, update)
        digest = coordinates.digest(self.theta, ledger.layout, ledger.basis_sha256)
        for row in rows:
            if row["theta_sha256"] != digest:
                key = records.row_key("updates", row)
                raise _Broken("updates", key, "theta_sha256 is not what the updates add up to")
        return "exact" if self.exact else "1e-9"

    def _compare(self, row: Record, mine: Update, stored: Update, info: Info) -> None:
        key = records.row_key("updates", row)
        if row["rule"] != self.settings.rule:
            raise _Broken("updates", key, f"rule is {row['rule']}, the run's {self.settings.rule}")
        for name, value in (("estimate", info.delta[mine.k]), ("stderr", info.stderr[mine.k])):
            found = row[name]
            if found is None or not np.isfinite(value):
                if found is not None or np.isfinite(value):
                    raise _Broken("updates", key, f"{name} is {found}, the votes give {value}")
            elif abs(found - value) > TOLERANCE * max(abs(found), abs(value), 1e-3):
                raise _Broken("updates", key, f"{name} is {found}, the votes give {value}")
        kind = "coef" if stored.vector is None else "vector"
        own, given = _values(mine), _values(stored)
        slack = 0.0 if self.exact else ROUNDINGS[kind] * float(np.abs(given).max(initial=0.0))
        if own.shape != given.shape or np.abs(own - given).max(initial=0.0) > slack:
            raise _Broken("updates", key, f"{kind} is not what the votes give")


def is_exact(settings: Settings) -> bool:
    """The update is recomputed to the last bit on any machine.

    Counting rules always; `known` with the logistic link, log-ratio smoothing and half-vote ties.
    Not Adam, nor momentum kept as a vector, nor `bayes`.
    """
    if settings.vectored or settings.ties != "half":
        return False
    if settings.rule in ("sign", "margin"):
        return True
    return settings.link == "logistic" and settings.smoothing in ("haldane", "pooled")


def _values(update: Update) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = [update.coef or 0.0] if update.vector is None else list(update.vector)
    return np.asarray(found, dtype=np.float64)
