"""The ledger: one SQLite file that holds a run, append-only, hash-chained, safe to kill.

WAL with synchronous=FULL, STRICT tables, every write inside BEGIN IMMEDIATE. Each appended row's
hash goes into an event of the same transaction, and each event covers the hash of the one before.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from szpo.errors import IntegrityError, StorageError, SzpoError, UsageError
from szpo.failpoints import failpoint
from szpo.ledger import canonical as canonical_form
from szpo.ledger import creation, witness
from szpo.ledger.connection import BUSY_MS, check_place, connect, log_bytes, translate
from szpo.ledger.creation import NewRun, check_kind
from szpo.types import Comparison, Layout, Update

LOG_BYTES: Final = 4 * 2**20
"""Size of the log (WAL) from which a commit asks for its checkpoint, bytes."""
STREAM_ROWS: Final = 32
"""Rows that `Ledger.stream` holds in memory at once."""
Clock = Callable[[], int]
"""Returns microseconds since 1970; injected everywhere, so that tests need not wait."""
Record = dict[str, Any]
Parameters = Sequence[Any] | dict[str, Any]
_BEGUN: Final = (
    "SELECT data_version, event, row_sha256 FROM pragma_data_version LEFT JOIN "
    "(SELECT event, row_sha256 FROM events ORDER BY event DESC LIMIT 1)"
)
"""Read when a transaction begins: SQLite's counter of others' commits, and the last event."""


def open_connection(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection to a run's file, in WAL mode unless it only reads."""
    check_place(path, new=False)
    # Checked before opening for writing: closing a writable connection checkpoints the log.
    if not readonly and (lacks := witness.problem(path)):
        raise IntegrityError(f"{path}: {lacks}; {witness.remedy(path)}")
    conn = None
    try:
        conn = connect(path, readonly=readonly)
        check_kind(path, conn)
        if not readonly:
            conn.execute("PRAGMA journal_mode=WAL")
        return conn
    except BaseException as error:
        if conn is not None:
            conn.close()
        if isinstance(error, sqlite3.Error):
            translate(path, error)
        if isinstance(error, UnicodeDecodeError):  # SQLite's message quotes the damaged schema
            text = f"{path}: the file is damaged (schema); restore a copy"
            raise IntegrityError(text) from None
        raise


def now_us() -> int:
    """The wall clock, in microseconds; the algorithm never uses it."""
    return time.time_ns() // 1000


class Ledger:
    """An open run. Safe to use from several threads; one write transaction at a time.

    Make one with `Ledger.create` or `Ledger.open`; close it, or use it in a `with` block.
    """

    def __init__(self, path: Path, conn: sqlite3.Connection, clock: Clock, readonly: bool):
        self.path = path
        self.clock = clock
        self.readonly = readonly
        self._conn = conn
        self._lock = threading.RLock()
        self.alone: Final[AbstractContextManager[bool]] = self._lock
        """Hold it to keep other threads of this process from using this ledger."""
        self._pid = os.getpid()
        self._depth = 0
        self._undone = 0
        self._foreign = 0
        self._last: Record | None = None
        self._pending: list[list[str]] = []
        self._noted = witness.read_head(path)  # before the record, which only grows
        self._head: Record | None = None
        try:
            rows = self.query("SELECT * FROM runs ORDER BY created_us LIMIT 1")
        except IntegrityError as error:
            raise IntegrityError(f"{path}: the table runs cannot be read: {error}") from None
        if not rows:
            raise IntegrityError(f"{path}: the table runs is empty; restore the file from a copy")
        self.row: Final[Record] = rows[0]
        self.run: Final[str] = self.row["run"]
        self.root_seed: Final[int] = self.row["root_seed"]
        self.basis_sha256: Final[str | None] = self.row["basis_sha256"]
        try:
            self.spec: Final[Record] = dict(json.loads(self.row["spec"]))
        except (ValueError, TypeError, RecursionError):
            problem = "the spec is not a JSON object"
            raise IntegrityError(f"{path}: runs row {self.run}: {problem}") from None
        self.checked: Final[dict[str, Any]] = {}
        """What `run_spec` has read and checked; neither the spec nor drawn features change."""

    # ---- making and opening ----

    @classmethod
    def create(cls, path: str | Path, new: NewRun, *, clock: Clock = now_us) -> Ledger:
        """Write the file of a new run, whole or not at all (mode 0600), and open it."""
        creation.write(Path(path), new, clock)
        return cls.open(path, clock=clock)

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = False, clock: Clock = now_us) -> Ledger:
        """Open a run's file.

        Raises:
            StorageError: no such file, or not a ledger.
            UsageError: the file's schema is newer than this szpo.
            IntegrityError: the file is damaged, or (not ``readonly``) acknowledged events are
                missing at its end; `check_end` reports that of a file that is only read.
        """
        path = Path(path)
        conn = open_connection(path, readonly=readonly)
        try:
            ledger = cls(path, conn, clock, readonly)
            with suppress(SzpoError):  # a damaged page is reported when it is read
                if not readonly and (last := ledger.last_event()) is not None:
                    witness.attest(path, ledger.run, last)
            return ledger
        except BaseException:
            conn.close()
            raise

    def close(self) -> None:
        """Close the file; an open transaction is rolled back."""
        with self._lock:
            self._conn.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- writing ----

    @contextmanager
    def transaction(self, actor: str = "szpo") -> Iterator[None]:
        """A block in one BEGIN IMMEDIATE … COMMIT; nested blocks join it, exceptions roll back."""
        with self._lock:
            if self._depth:
                yield
                return
            try:
                before = self._conn.total_changes
            except sqlite3.Error as error:
                translate(self.path, error)
            self._depth, self._pending, self._head = 1, [], None
            try:  # from here on, so that an interrupt anywhere leaves no lock behind
                self.execute("BEGIN IMMEDIATE")
                begun = self.query(_BEGUN)[0]
                self._foreign, self._last = (
                    begun["data_version"],
                    begun if begun["event"] else None,
                )
                yield
                if self._pending:
                    rows, self._pending = self._pending, []
                    self._add_event("rows", actor, {"rows": rows})
                self.execute("COMMIT")
            except BaseException:
                self._undone += self._conn.total_changes != before
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
                raise
            finally:
                self._depth, self._pending = 0, []
            if self._head is not None:
                failpoint("cp15")
                witness.attest(self.path, self.run, self._head)
            if log_bytes(self.path) > LOG_BYTES:
                with suppress(SzpoError):  # the commit stands; the next one tries again
                    self._truncate_log()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block in an open transaction; if it raises, only this block is rolled back."""
        with self._lock:
            if not self._depth:
                raise UsageError("savepoint: open a transaction first")
            pending, before = len(self._pending), self._conn.total_changes
            head, last = self._head, self._last
            self.execute("SAVEPOINT part")
            try:
                yield
            except BaseException:
                del self._pending[pending:]
                self._head, self._last = head, last
                self._undone += self._conn.total_changes != before
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK TO part")
                    self._conn.execute("RELEASE part")
                raise
            self.execute("RELEASE part")

    def attest_head(self) -> None:
        """Let this transaction write the current head to the witness, even if it adds nothing.

        For acknowledging a row that is already stored: its writer may have died before that.
        """
        self._head = self._last

    def check_end(self) -> tuple[str, str]:
        """Compare the end of the record with the witness beside it; see `witness.compare`.

        Uses the witness as it was when the file was opened, or when the last snapshot began.
        """
        with self._lock:
            try:
                return witness.compare(self.path, self._noted, self._conn)
            except sqlite3.Error as error:
                translate(self.path, error)

    def empty_log(self, wait_s: float) -> None:
        """Copy the log (WAL) into the file and truncate it, so that deleted rows are really gone.

        Waits up to ``wait_s`` seconds for readers; others can write meanwhile.

        Raises:
            StorageError: a program is still reading the file.
        """
        end = time.monotonic() + wait_s
        while not self._truncate_log():
            if time.monotonic() >= end:
                raise StorageError(
                    f"{self.path}: deleted, but the bytes are still in the file or its log, "
                    "because a program is reading it; wait for it or stop it, then repeat this"
                )
            time.sleep(0.05)

    def _truncate_log(self) -> bool:
        """Try once, without waiting, to empty the log; False while somebody reads or writes."""
        with self._lock:
            if self._conn.in_transaction:
                raise UsageError("empty the log: leave the transaction or snapshot first")
            self.execute("PRAGMA busy_timeout=0")
            try:
                return not self.query("PRAGMA wal_checkpoint(TRUNCATE)")[0]["busy"]
            finally:
                self.execute(f"PRAGMA busy_timeout={BUSY_MS}")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A block that sees the file as it was at one moment, whatever others commit meanwhile.

        It must not write. Inside a transaction, which sees one moment anyway, it has no effect.
        """
        with self._lock:
            if self._conn.in_transaction:
                yield
                return
            self._noted = witness.read_head(self.path)
            try:
                self.execute("BEGIN")
                yield
            finally:
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")

    def execute(self, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run one statement; SQLite's errors are raised as szpo's (`connection.translate`)."""
        with self._lock:
            if os.getpid() != self._pid:
                raise UsageError(f"{self.path}: opened before a fork; open it again in the child")
            try:
                return self._conn.execute(sql, parameters)
            except sqlite3.Error as error:
                translate(self.path, error)

    def append(self, table: str, row: Mapping[str, Any]) -> Record:
        """Insert a row into an append-only table and note its hash for the transaction's event.

        Returns the row as stored, with the id that SQLite assigned.
        """
        if not self._depth:
            raise UsageError(f"append to {table}: open a transaction first")
        stored = {
            column: canonical_form.plain_value(table, column, value)
            for column, value in row.items()
        }
        cursor = self.execute(
            canonical_form.insert_sql(table, tuple(stored)), list(stored.values())
        )
        key = canonical_form.KEYS[table][0]
        stored.setdefault(key, cursor.lastrowid)
        whole = {column: stored.get(column) for column in canonical_form.CHAINED[table]}
        self._pending.append(
            [table, canonical_form.row_key(table, whole), canonical_form.row_sha256(table, whole)]
        )
        return stored

    def append_comparison(self, comparison: Comparison) -> None:
        """Append a comparison and its answers, within the caller's transaction.

        A comparison with a negative step belongs to no step and is counted in none.
        """
        self.append("comparisons", canonical_form.comparison_row(self.run, comparison))
        for answer in canonical_form.answer_rows(comparison.id, comparison.rows):
            self.append("answers", answer)

    def record_event(self, kind: str, actor: str, body: Mapping[str, Any]) -> None:
        """Append an event; inside an open transaction it becomes part of it."""
        if kind == "rows":
            raise UsageError("events of kind 'rows' are written by the ledger itself")
        with self.transaction(actor):
            self._add_event(kind, actor, body)

    def _add_event(self, kind: str, actor: str, body: Mapping[str, Any]) -> None:
        event = canonical_form.event_row(self.row, self._last, self.clock(), actor, kind, body)
        self.execute(canonical_form.insert_sql("events", tuple(event)), list(event.values()))
        self._head = self._last = event

    def last_event(self) -> Record | None:
        """Number and hash ("event", "row_sha256") of the chain's last event; None without any."""
        last = self.query("SELECT event, row_sha256 FROM events ORDER BY event DESC LIMIT 1")
        return last[0] if last else None

    # ---- reading ----

    def query(self, sql: str, parameters: Parameters = ()) -> list[Record]:
        """All rows of a SELECT as dictionaries."""
        with self._lock:
            return list(self.stream(sql, parameters))

    def stream(self, sql: str, parameters: Parameters = ()) -> Iterator[Record]:
        """The rows of a SELECT one after the other, however many there are.

        Use it inside `snapshot` or `transaction`: else what is written meanwhile may show in it.
        """
        cursor = self.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        while True:
            with self._lock:
                try:
                    part = cursor.fetchmany(STREAM_ROWS)
                except sqlite3.Error as error:
                    translate(self.path, error)
            yield from (dict(zip(names, values, strict=True)) for values in part)
            if len(part) < STREAM_ROWS:
                return

    def find_damage(self) -> str | None:
        """What SQLite finds wrong with the file, its indexes included; None where it is whole."""
        answer: str = self.query("PRAGMA integrity_check(1)")[0]["integrity_check"]
        return None if answer == "ok" else answer

    def changes(self) -> tuple[int, int, int]:
        """Counters: commits of other connections, rows changed by this one, and its rollbacks.

        While they stay equal, the file has not changed.
        """
        with self._lock:
            if not self._depth:  # in a transaction nobody else commits
                self._foreign = self.execute("PRAGMA data_version").fetchone()[0]
            return self._foreign, self._conn.total_changes, self._undone

    @property
    def layout(self) -> Layout:
        """Names and shapes of the master coordinates."""
        return tuple((name, tuple(shape)) for name, shape in self.spec["space"]["layout"])

    def steps(self) -> list[Record]:
        """The rows of `steps`, in order."""
        return self.query("SELECT * FROM steps WHERE run = ? ORDER BY step", (self.run,))

    def step(self, step: int) -> Record | None:
        """The row of one step, or None."""
        rows = self.query("SELECT * FROM steps WHERE run = ? AND step = ?", (self.run, step))
        return rows[0] if rows else None

    def last_applied(self) -> int | None:
        """The last step whose update is in the ledger."""
        sql = "SELECT max(step) AS step FROM updates WHERE run = ?"
        step: int | None = self.query(sql, (self.run,))[0]["step"]
        return step

    def votes_applied(self) -> float:
        """Counted votes of all applied updates."""
        sql = "SELECT coalesce(sum(n_votes), 0) AS votes FROM updates"
        votes: float = self.query(sql)[0]["votes"]
        return votes

    def updates(self, until: int | None = None) -> tuple[Update, ...]:
        """Recorded updates in order, those of steps < ``until`` if it is given."""
        end = 2**62 if until is None else until
        return tuple(
            canonical_form.update_of(row) for row in self.update_rows() if row["step"] < end
        )

    def update_rows(self) -> list[Record]:
        """The rows of `updates`, in order."""
        return self.query("SELECT * FROM updates WHERE run = ? ORDER BY step, k", (self.run,))

    def comparisons(self, step: int, kind: str | None = "train") -> tuple[Comparison, ...]:
        """The comparisons of a step with their rows, ordered by (k, n); kind None gives all."""
        heads = self.query(
            "SELECT * FROM comparisons WHERE run = ? AND step = ? AND (? IS NULL OR kind = ?) "
            "ORDER BY k, n, comparison",
            (self.run, step, kind, kind),
        )
        return tuple(self._comparison(head) for head in heads)

    def comparison(self, comparison: str) -> Comparison | None:
        """One comparison with its rows, or None."""
        rows = self.query(
            "SELECT * FROM comparisons c LEFT JOIN answers USING (comparison) "
            "WHERE c.comparison = ? ORDER BY i",
            (comparison,),
        )
        answers = [row for row in rows if row["i"] is not None]
        return canonical_form.comparison_of(rows[0], answers) if rows else None

    def _comparison(self, head: Record) -> Comparison:
        answers = self.query(
            "SELECT * FROM answers WHERE comparison = ? ORDER BY i", (head["comparison"],)
        )
        return canonical_form.comparison_of(head, answers)

    def votes(self, step: int | None = None) -> list[Record]:
        """Every stored vote with its comparison, panelist and side; of one step or of all."""
        sql = (
            "SELECT v.*, a.comparison, a.panelist, a.plus_side, c.step, c.k, c.n, c.kind "
            "FROM comparisons c JOIN assignments a USING (comparison) "
            "JOIN votes v USING (assignment) "
        )
        if step is None:
            return self.query(sql + "ORDER BY v.vote")
        return self.query(sql + "WHERE c.run = ? AND c.step = ? ORDER BY v.vote", (self.run, step))

    def next_event(self) -> int:
        """The number of the event that is recorded next."""
        return int(self.query("SELECT max(event) + 1 AS next FROM events")[0]["next"])

    def events(self, kind: str | None = None) -> Iterator[Record]:
        """Events in order, with their body read from JSON."""
        one = "" if kind is None else "WHERE kind = ?"  # uses the index on kind
        sql = f"SELECT * FROM events {one} ORDER BY event"
        for row in self.query(sql, () if kind is None else (kind,)):
            yield {**row, "body": json.loads(row["body"])}
