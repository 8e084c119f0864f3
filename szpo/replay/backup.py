"""Copies of a run: a verified backup during the run, and recovery from a damaged file."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from szpo.errors import IntegrityError
from szpo.failpoints import failpoint
from szpo.ledger import canonical, connection, witness
from szpo.ledger.creation import check_version, new_file, schema
from szpo.ledger.database import Ledger
from szpo.replay.checks import Report
from szpo.replay.verification import verify

Row = dict[str, Any]
MAX_LOOKUPS: Final = 100_000
"""Most row ids that are looked up one by one where a scan cannot pass a damaged page."""


def backup(path: Path, out: Path) -> Report:
    """Copy a run as it is at one moment, while others keep writing; no file is overwritten.

    The copy gets its name only after SQLite's integrity check and `verify` have passed.
    """
    Ledger.open(path, readonly=True).close()  # refuses what is no run of this version
    if lacks := witness.problem(path):
        raise IntegrityError(f"{path}: no copy was made: {lacks}; {witness.remedy(path)}")
    with new_file(out) as draft:
        with (
            contextlib.closing(connection.connect(path, readonly=True)) as source,
            contextlib.closing(connection.connect(draft, readonly=False)) as copy,
        ):
            source.backup(copy)  # in one step, without later commits
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise IntegrityError(f"{path}: {found}; see: szpo backup {path} --recover --out NEW")
        with Ledger.open(draft, readonly=True) as ledger:
            report = verify(ledger)
        if not report.ok:
            raise IntegrityError(f"{path}: no copy was made: {report}")
        failpoint("cp14")
    return report


def recover(path: Path, out: Path) -> tuple[dict[str, int], dict[str, tuple[str, ...]], Report]:
    """Write all rows that can still be read into a new file, and list what is lost.

    The damaged file is not changed: a copy of it and of its log is read. Rows are copied
    unchanged.

    Returns by table how many rows were copied, and the keys of rows that an event recorded but
    that are missing or changed; and the report of `verify` on the new file.
    """
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".szpo-") as folder,
        new_file(out) as new,
    ):
        damaged = Path(folder) / "damaged.db"
        for suffix in ("", "-wal"):
            if (part := connection.beside(path, suffix)).exists():
                shutil.copyfile(part, f"{damaged}{suffix}")
        rows: dict[str, list[Row]] = {}
        with contextlib.closing(_open_leniently(damaged, path)) as old:
            for table in _tables():
                rows[table] = _read_rows(old, table)
        if not rows["runs"]:
            raise IntegrityError(f"{path}: the table runs cannot be read; restore a copy")
        with contextlib.closing(connection.connect(new, readonly=False)) as conn:
            _write(conn, rows)
        with Ledger.open(new, readonly=True) as ledger:
            report = verify(ledger)
        failpoint("cp14")
    counts = {table: len(found) for table, found in rows.items()}
    return counts, _list_lost(rows, _read_acknowledged(path, rows)), report


def list_recovered(
    rows: Mapping[str, int], lost: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """A line of text for each table of `recover`."""
    lines = []
    for table, count in rows.items():
        missing = lost.get(table, ())
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        lines.append(f"{table}: {count} rows" + (f"; lost: {shown}" if missing else ""))
    return tuple(lines)


def _tables() -> list[str]:
    """All tables of the schema; a table comes before those that refer to it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(schema())
        found = fresh.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in found if not name.startswith("sqlite_")]


def _open_leniently(copy: Path, path: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(copy, isolation_level=None)
    conn.row_factory = sqlite3.Row
    conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        conn.execute("PRAGMA writable_schema=ON")  # skips broken definitions
        conn.execute("PRAGMA cell_size_check=ON")
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
        check_version(path, conn)
    except sqlite3.Error as error:
        conn.close()
        raise IntegrityError(f"{path}: nothing can be read ({error}); restore a copy") from None
    return conn


def _read_rows(conn: sqlite3.Connection, table: str) -> list[Row]:
    """Read the rows of a table before, after and, by row id, between its damaged pages."""
    key = ", ".join(canonical.KEYS.get(table, ())) or "1"
    rows, whole = _scan(conn, f"SELECT * FROM {table} NOT INDEXED")
    if whole:
        return rows
    number = "rowid" if _has_rowid(conn, table) else None
    order = number or key
    rows, _ = _scan(conn, f"SELECT * FROM {table} NOT INDEXED ORDER BY {order}")
    back = ", ".join(f"{column} DESC" for column in order.split(", "))
    behind, _ = _scan(conn, f"SELECT * FROM {table} NOT INDEXED ORDER BY {back}")
    found = [*rows, *reversed(behind)]
    if number is not None:
        found += _look_up_rows(conn, table)
    return list({tuple(row.values()): row for row in found}.values())


def _scan(conn: sqlite3.Connection, sql: str) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    try:
        for row in conn.execute(sql):
            rows.append(dict(row))
    except sqlite3.Error:
        return rows, False
    return rows, True


def _look_up_rows(conn: sqlite3.Connection, table: str) -> list[Row]:
    """Look up rows one by one by row id, up to the last one or `MAX_LOOKUPS`."""
    try:
        last = conn.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
    except sqlite3.Error:
        last = MAX_LOOKUPS
    rows: list[Row] = []
    for number in range(1, min(last, MAX_LOOKUPS) + 1):
        rows += _scan(conn, f"SELECT * FROM {table} NOT INDEXED WHERE rowid = {number}")[0]
    return rows


def _has_rowid(conn: sqlite3.Connection, table: str) -> bool:
    try:
        conn.execute(f"SELECT rowid FROM {table} LIMIT 0")
    except sqlite3.OperationalError:
        return False
    except sqlite3.Error:
        return True
    return True


def _write(conn: sqlite3.Connection, rows: Mapping[str, list[Row]]) -> None:
    conn.executescript(f"BEGIN IMMEDIATE;\n{schema()}\nCOMMIT;")
    conn.execute("PRAGMA foreign_keys=OFF")
    conn.execute("BEGIN IMMEDIATE")
    stored = conn.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    triggers = stored.fetchall()
    for name, _ in triggers:  # they check new rows, and these are copies
        conn.execute(f"DROP TRIGGER {name}")
    for table, found in rows.items():
        for row in found:
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            # A row that breaks the table's constraints is damaged too, and counts as lost.
            with contextlib.suppress(sqlite3.IntegrityError):
                conn.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    for _, sql in triggers:
        conn.execute(sql)
    conn.execute("COMMIT")


def _read_acknowledged(path: Path, rows: Mapping[str, list[Row]]) -> int:
    """The number of the last acknowledged event, from the file's witness; 0 without one."""
    head, mark = witness.read(path), witness.mark_of(rows["runs"][0]["run"])
    return head.event if isinstance(head, witness.Head) and head.run == mark else 0


def _list_lost(rows: Mapping[str, list[Row]], acknowledged: int) -> dict[str, tuple[str, ...]]:
    """List missing rows that an event recorded, and missing events up to the acknowledged one."""
    recorded: dict[str, dict[str, str]] = {table: {} for table in canonical.CHAINED}
    lost: dict[str, tuple[str, ...]] = {}
    numbers = sorted(row["event"] for row in rows["events"])
    if gone := set(range(1, max([acknowledged, *numbers]) + 1)) - set(numbers):
        lost["events"] = tuple(str(number) for number in sorted(gone))
    for event in rows["events"]:
        if event["kind"] == "rows":
            with contextlib.suppress(ValueError, KeyError, TypeError):
                for table, key, digest in json.loads(event["body"])["rows"]:
                    recorded[table][key] = digest
    for table, hashes in recorded.items():
        left = dict(hashes)
        for row in rows[table]:
            key = canonical.row_key(table, row)
            if left.get(key) == canonical.row_sha256(table, row):
                del left[key]
        if left:
            lost[table] = tuple(left)
    return lost
