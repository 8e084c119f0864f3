"""Canonical forms of what a ledger holds: their SHA-256, and their rows.

A row's canonical form is the JSON list of its hashed columns in schema order. Bytes become
{"sha256": …}; numbers are written as Python's repr (the shortest form that gives the same bits).
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from szpo.errors import RunError
from szpo.types import Answer, Comparison, Prompt, Row, Update, Vote

CHAINED: Final[Mapping[str, tuple[str, ...]]] = {
    "runs": (
        "run", "root_seed", "spec", "spec_sha256", "base_sha256", "basis_sha256",
        "layout_sha256", "created_us",
    ),
    "comparisons": (
        "comparison", "run", "step", "kind", "k", "n", "repeats", "expected", "identical",
        "rows_sha256",
    ),
    "answers": ("comparison", "i", "prompt", "plus", "minus", "plus_end", "minus_end"),
    "assignments": (
        "assignment", "comparison", "panelist", "plus_side", "prompt_order", "sheet",
    ),
    "votes": (
        "vote", "assignment", "revision", "choice", "skip_reason", "rubric_version", "dwell_ms",
        "details", "late", "idem", "payload_sha256", "received_us",
    ),
    "amendments": ("amendment", "vote", "action", "reason", "actor", "at_us"),
    "updates": (
        "run", "step", "k", "coef", "vector", "rule", "estimate", "stderr", "n_votes",
        "votes_sha256", "theta_sha256", "prev_sha256", "row_sha256", "epoch", "applied_us",
    ),
    "tensors": ("sha256", "name", "dtype", "shape", "bytes"),
}  # fmt: skip
"""Append-only tables whose row hashes go into events, and the columns that a hash covers."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "runs": ("run",),
    "comparisons": ("comparison",),
    "answers": ("comparison", "i"),
    "assignments": ("assignment",),
    "votes": ("vote",),
    "amendments": ("amendment",),
    "updates": ("run", "step", "k"),
    "tensors": ("sha256", "name"),
    "events": ("event",),
}
"""The columns that identify a row of an append-only table."""

EVENT_COLUMNS: Final = ("event", "run", "at_us", "actor", "kind", "body", "prev_sha256")
"""The columns that an event's own row_sha256 covers."""

THETA0: Final = "theta0/"
"""Prefix of the tensors that hold θ₀; without any, θ₀ is zero."""
BASIS: Final = "basis/"
"""Prefix of the tensors that hold a subspace's basis; `runs.basis_sha256` covers them."""


def canonical(value: Any) -> str:
    """The canonical JSON of a value: sorted keys, no spaces, Unicode unescaped, no NaN.

    >>> canonical({"b": 1, "a": [0.1, None]})
    '{"a":[0.1,null],"b":1}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def utf8(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot encode, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def sha256(content: str | bytes) -> str:
    """Hex SHA-256 of bytes, or of a text's UTF-8 form (lone surrogates pass through)."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


def row_sha256(table: str, row: Mapping[str, Any]) -> str:
    """The hash of a row of an append-only table, over its chained columns and the table's name."""
    cells = [_cell(row[column]) for column in CHAINED[table]]
    return sha256(canonical([table, *cells]))


def row_key(table: str, row: Mapping[str, Any]) -> str:
    """The key by which an event names the row: its key columns, joined by ':'."""
    return ":".join(str(row[column]) for column in KEYS[table])


def event_sha256(row: Mapping[str, Any]) -> str:
    """The hash of an event, which covers the hash of the event before it."""
    return sha256(canonical([row[column] for column in EVENT_COLUMNS]))


def update_sha256(row: Mapping[str, Any]) -> str:
    """The hash of an update, over all columns except the hash itself."""
    columns = [column for column in CHAINED["updates"] if column != "row_sha256"]
    return sha256(canonical([_cell(row[column]) for column in columns]))


def rows_sha256(rows: Iterable[Row]) -> str:
    """The hash of a comparison's rows: prompts, both texts, and how each ended."""
    return sha256(
        canonical(
            [
                [row.prompt.turns, row.plus.text, row.minus.text, row.plus.end, row.minus.end]
                for row in rows
            ]
        )
    )


def payload_sha256(
    assignment: str,
    choice: str,
    skip_reason: str | None,
    dwell_ms: int | None,
    details: str | None,
) -> str:
    """The hash of an answer as a client sent it; a repeated `idem` must come with the same one."""
    return sha256(canonical([assignment, choice, skip_reason, dwell_ms, details]))


def votes_sha256(votes: Iterable[Vote]) -> str:
    """The hash of a step's counted votes: sorted [k, n, panelist, revision, verdict]."""
    return sha256(canonical(sorted([v.k, v.n, v.panelist, v.revision, v.verdict] for v in votes)))


def answer_rows(comparison: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A comparison's rows as the table `answers` holds them."""
    return [
        {
            "comparison": comparison,
            "i": i,
            "prompt": canonical(row.prompt.turns),
            "plus": row.plus.text,
            "minus": row.minus.text,
            "plus_end": row.plus.end,
            "minus_end": row.minus.end,
        }
        for i, row in enumerate(rows)
    ]


def row_of(answer: Mapping[str, Any]) -> Row:
    """The inverse of `answer_rows` for one stored row; token counts are not stored."""
    turns = tuple((role, text) for role, text in json.loads(answer["prompt"]))
    return Row(
        Prompt(turns),
        Answer(answer["plus"], answer["plus_end"]),
        Answer(answer["minus"], answer["minus_end"]),
    )


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"sha256": sha256(value)}
    if isinstance(value, float) and not math.isfinite(value):  # only a forged row has one
        return {"float": str(value)}
    return value


def tensor_row(name: str, array: NDArray[Any]) -> dict[str, Any]:
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


def array_of(row: Mapping[str, Any]) -> NDArray[Any]:
    """The array that a row of `tensors` holds."""
    values = np.frombuffer(row["bytes"], dtype=row["dtype"])
    return values.reshape(json.loads(row["shape"])).copy()


def event_row(
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
    return {**made, "row_sha256": event_sha256(made)}


def plain_value(table: str, column: str, value: Any) -> Any:
    """A value as SQLite stores it."""
    if isinstance(value, (bool, np.bool_, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            raise RunError(f"{table}.{column} is {value}; nothing was recorded")
        return float(value) + 0.0  # SQLite stores no −0.0, and the hash must match what it stores
    if isinstance(value, str):  # engines may emit lone surrogates
        return utf8(value)
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
        "rows_sha256": rows_sha256(comparison.rows),
    }


def comparison_of(head: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]) -> Comparison:
    """The comparison in a row of `comparisons` and its rows of `answers` (in order)."""
    return Comparison(
        id=head["comparison"],
        step=-1 if head["step"] is None else head["step"],
        k=head["k"] or 0,
        n=head["n"] or 0,
        rows=tuple(row_of(answer) for answer in answers),
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
