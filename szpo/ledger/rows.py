"""Convert values to and from rows of a ledger's file: tensors, events, updates, comparisons."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo.errors import RunError
from szpo.ledger import canonical as canonical_form
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Comparison, Update

THETA0: Final = "theta0/"
"""Prefix of the tensors that hold θ₀; without any, θ₀ is zero."""
BASIS: Final = "basis/"
"""Prefix of the tensors that hold a subspace's basis; `runs.basis_sha256` covers them."""


def tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """A row of `tensors`: little-endian bytes, named by their hash."""
    little = np.ascontiguousarray(array, dtype=np.asarray(array).dtype.newbyteorder("<"))
    content = little.tobytes()
    return {
        "sha256": sha256(content),
        "name": name,
        "dtype": little.dtype.str,
        "shape": canonical(list(little.shape)),
        "bytes": content,
    }


def array(row: Mapping[str, Any]) -> NDArray[Any]:
    """The array that a row of `tensors` holds."""
    values = np.frombuffer(row["bytes"], dtype=row["dtype"])
    return values.reshape(json.loads(row["shape"])).copy()


def event(
    run: Mapping[str, Any],
    last: Mapping[str, Any] | None,
    at_us: int,
    actor: str,
    kind: str,
    body: Mapping[str, Any],
) -> dict[str, Any]:
    """A row of `events` that follows ``last``; the first one follows the run's spec."""
    made = {
        "event": 1 if last is None else last["event"] + 1,
        "run": run["run"],
        "at_us": at_us,
        "actor": actor,
        "kind": kind,
        "body": canonical(body),
        "prev_sha256": run["spec_sha256"] if last is None else last["row_sha256"],
    }
    return {**made, "row_sha256": canonical_form.event_sha256(made)}


def plain(table: str, column: str, value: Any) -> Any:
    """A value as SQLite stores it."""
    if isinstance(value, (bool, np.bool_, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            raise RunError(f"{table}.{column} is {value}; nothing was recorded")
        return float(value) + 0.0  # SQLite stores no −0.0, and the hash must match what it stores
    if isinstance(value, str):  # engines may emit lone surrogates
        return canonical_form.utf8(value)
    return value


def update_of(row: Mapping[str, Any]) -> Update:
    """The update that a row of `updates` holds."""
    if row["vector"] is None:
        return Update(row["step"], row["k"], coef=row["coef"])
    values = np.frombuffer(row["vector"], dtype="<f4")
    return Update(row["step"], row["k"], vector=tuple(float(value) for value in values))


def comparison_row(run: str, comparison: Comparison) -> dict[str, Any]:
    """The row of `comparisons` for a comparison; its answers are rows of their own."""
    return {
        "comparison": comparison.id,
        "run": run,
        "step": None if comparison.step < 0 else comparison.step,
        "kind": comparison.kind,
        "k": comparison.k,
        "n": comparison.n,
        "repeats": comparison.repeats,
        "expected": comparison.expected,
        "identical": comparison.identical,
        "rows_sha256": canonical_form.rows_sha256(comparison.rows),
    }


def comparison_of(head: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]) -> Comparison:
    """The comparison in a row of `comparisons` and its rows of `answers` (in order)."""
    return Comparison(
        id=head["comparison"],
        step=-1 if head["step"] is None else head["step"],
        k=head["k"] or 0,
        n=head["n"] or 0,
        rows=tuple(canonical_form.row_of(answer) for answer in answers),
        kind=head["kind"],
        repeats=head["repeats"],
        expected=head["expected"],
    )


def insert_sql(table: str, columns: tuple[str, ...]) -> str:
    """The statement that inserts a row of these columns."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def insert(conn: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert a row through a bare connection."""
    conn.execute(insert_sql(table, tuple(row)), list(row.values()))
