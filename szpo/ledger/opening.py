"""Open the file of a run: what kind of file it is, and whether its record is complete."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from szpo.errors import IntegrityError
from szpo.ledger import witness
from szpo.ledger.connection import check_kind, check_place, connect, translate

APPLICATION_ID: Final = 0x535A504F
SCHEMA_VERSION: Final = 1


def open_connection(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection to a run's file, in WAL mode unless it only reads.

    Raises:
        StorageError: no such file, not a ledger, or a network file system.
        UsageError: the file's schema is newer than this szpo.
        IntegrityError: the file is damaged, or (not ``readonly``) acknowledged events are
            missing at its end.
    """
    check_place(path, new=False)
    # Looked at before anything may write: closing a connection that may write checkpoints the log.
    if not readonly and (lacks := witness.problem(path)):
        raise IntegrityError(f"{path}: {lacks}; {witness.remedy(path)}")
    conn = None
    try:
        conn = connect(path, readonly=readonly)
        check_kind(path, conn, APPLICATION_ID, SCHEMA_VERSION)
        if not readonly:
            conn.execute("PRAGMA journal_mode=WAL")
        return conn
    except BaseException as error:
        if conn is not None:
            conn.close()
        if isinstance(error, sqlite3.Error):
            translate(path, error)
        if isinstance(error, UnicodeDecodeError):  # SQLite quotes a damaged schema
            text = f"{path}: the file is damaged (schema); restore a copy"
            raise IntegrityError(text) from None
        raise
