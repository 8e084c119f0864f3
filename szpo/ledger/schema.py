"""The tables of a ledger: the file schema.sql, triggers that keep it append-only, its version."""

from __future__ import annotations

import sqlite3
from importlib import resources
from pathlib import Path
from typing import Final

from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.ledger import canonical

APPLICATION_ID: Final = 0x535A504F
SCHEMA_VERSION: Final = 4
READ_BY: Final = {1: "szpo 0.2 (commit 2ba99d16)", 2: "commit e7b93123", 3: "commit 425201a3"}
"""The last version that reads each earlier schema."""


def schema() -> str:
    """The whole DDL: the file schema.sql and the append-only triggers of every chained table."""
    text = resources.files("szpo").joinpath("ledger", "schema.sql").read_text(encoding="utf-8")
    guards = []
    for table in [*canonical.CHAINED, "events"]:
        if table == "assignments":  # partly mutable: its triggers are in schema.sql
            continue
        for action in ("UPDATE", "DELETE"):
            guards.append(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;"
            )
    return text + "\n".join(guards)


def check_kind(path: Path, conn: sqlite3.Connection) -> None:
    """Raise StorageError for another program's file, UsageError for another version's.

    A schema number that no szpo ever had raises IntegrityError.
    """
    found = conn.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StorageError(f"{path} is not a szpo ledger (application_id {found})")
    check_version(path, conn)


def check_version(path: Path, conn: sqlite3.Connection) -> None:
    """Raise UsageError for a file of another version, naming the one that reads it."""
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema {version}; this szpo reads {SCHEMA_VERSION}; install a newer"
        )
    if version < 1:
        raise IntegrityError(f"{path}: schema {version}, which no szpo wrote; restore a copy")
    if version < SCHEMA_VERSION:
        raise UsageError(
            f"{path} was made by an earlier szpo; install {READ_BY[version]} to read it, or begin "
            "a new run from the adapter that it exports (model.adapter)"
        )
