"""Checkpoints of the log (WAL) of a ledger's file, made only under the write lock.

SQLite up to 3.51.2 may lose pages when one connection commits while another checkpoints, and a
panel's web process and the controller write to one file. So no connection checkpoints by itself:
whoever has just committed calls `Checkpointer.checkpoint`, which takes the write lock first.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from szpo.errors import StorageError, UsageError
from szpo.ledger.connection import beside, connect, log_bytes
from szpo.ledger.holders import describe_processes, readers

CHECKPOINT_BYTES: Final = 4 * 2**20
"""How much the log grows before it is copied into the file, bytes."""
LOG_ALARM: Final = 256 * 2**20
"""Size of the log at which a warning is logged: some program has been reading for too long."""


class Checkpointer:
    """Copies the log (WAL) of a ledger's file into the file, and starts the log again."""

    def __init__(self, path: Path):
        self.path = path
        self._seen = 0
        self._alarm = LOG_ALARM

    def checkpoint(self, writer: sqlite3.Connection, *, always: bool = False) -> bool:
        """Checkpoint if the log has grown by `CHECKPOINT_BYTES`, or ``always``.

        ``writer`` must be outside a transaction. Does not wait for readers: pages that they still
        need stay in the log until a later call. Returns whether a checkpoint was tried. Raises
        nothing, since a failure here does not undo the commit before it.
        """
        size = log_bytes(self.path)
        if size < self._seen:  # the log was restarted
            self._seen, self._alarm = 0, LOG_ALARM
        if size < self._seen + CHECKPOINT_BYTES and not always:
            return False
        self._seen = size
        try:
            self._copy(writer)
        except sqlite3.Error as error:
            logging.getLogger("szpo").warning(
                "%s: its log could not be checkpointed (%s); nothing is lost, it is tried again",
                self.path,
                error,
            )
        if size >= self._alarm:
            self._alarm = 2 * size
            logging.getLogger("szpo").warning(
                "%s: its log has %d MB, because some program holds it open for reading; find "
                "it with: szpo doctor %s", self.path, size // 10**6, self.path,
            )  # fmt: skip
        return True

    def empty(
        self, writer: sqlite3.Connection, lock: AbstractContextManager[object], wait_s: float
    ) -> None:
        """Remove all old pages from the file and its log as soon as nobody reads them.

        ``lock`` guards ``writer``. It is held only during a try, so that others can write.
        """
        end = time.monotonic() + wait_s
        while True:
            with lock:
                if writer.in_transaction:
                    raise UsageError("empty the log: leave the transaction or snapshot first")
                if self.restart(writer):
                    return
            if time.monotonic() >= end:
                break
            time.sleep(0.05)
        who = describe_processes(readers(self.path)) or "an unidentified program"
        raise StorageError(
            f"{self.path}: deleted, but the bytes are still in the file or its log, because a "
            f"program is reading it: {who}; wait for it or stop it, then repeat this"
        )

    def restart(self, writer: sqlite3.Connection) -> bool:
        """Try once to remove all old pages from the log; False if somebody still reads one.

        Copies the whole log into the file and makes an empty commit, at which SQLite restarts and
        truncates the log. ``writer`` must be outside a transaction.
        """
        if not self._copy(writer):
            return False
        before = _log_header(self.path)
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        writer.execute("BEGIN IMMEDIATE")
        try:
            writer.execute(f"PRAGMA user_version = {version}")
            writer.execute("COMMIT")
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        return _log_header(self.path) != before and _is_of_one_generation(self.path)

    def _copy(self, writer: sqlite3.Connection) -> bool:
        """Copy the pages that no reader needs, under the write lock; True if none is left."""
        try:
            writer.execute("BEGIN IMMEDIATE")
            other = connect(self.path, readonly=False)
            try:
                answer = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                other.close()
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        busy, pages, copied = answer
        return not busy and pages == copied


def _log_header(path: Path) -> bytes:
    """The header of the log; it gets new salts each time the log restarts."""
    try:
        with beside(path, "-wal").open("rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _is_of_one_generation(path: Path) -> bool:
    """Whether every page in the log was written since its last restart, by the header's salts."""
    content = beside(path, "-wal").read_bytes()
    step = 24 + int.from_bytes(content[8:12], "big")
    return all(content[at + 8 : at + 16] == content[16:24] for at in range(32, len(content), step))
