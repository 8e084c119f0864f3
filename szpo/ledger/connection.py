"""Connections to a ledger's file, and the errors of SQLite in szpo's words."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NoReturn

from szpo.errors import IntegrityError, LeaseError, StorageError, UsageError
from szpo.files import quoted

BUSY_MS = 10_000
"""How long a statement waits for another program's lock, milliseconds."""
_PRAGMAS = (
    f"PRAGMA busy_timeout={BUSY_MS}",
    "PRAGMA synchronous=FULL",
    "PRAGMA fullfsync=ON",  # on macOS a plain sync leaves the disk's own cache unwritten
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",  # else REPLACE would delete without firing triggers
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
    # SQLite's own checkpoints take no write lock; up to 3.51.2 a commit at that instant may lose
    # pages. `Ledger.transaction` asks for one that takes it.
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA journal_size_limit=0",  # a log that starts again gives its space back
)


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection to an existing file, usable from any thread, with every pragma set."""
    if not readonly:
        return _open(path, "mode=rw")
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError:
        # SQLite makes files beside a run even to read it. A folder without room for them is read
        # all the same, unless there is a log, which holds commits that the file lacks.
        if log_bytes(path):
            raise
        return _open(path, "mode=ro&immutable=1")


def _open(path: Path, how: str) -> sqlite3.Connection:
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for pragma in _PRAGMAS:  # the last one reads the file, so that a bad one fails here
            conn.execute(pragma)
    except BaseException:
        conn.close()
        raise
    return conn


def beside(path: Path, suffix: str) -> Path:
    """The file with that suffix beside a ledger's; for a link, beside its target.

    SQLite puts its own files there, so all links to a run share them.
    """
    file = path.resolve() if path.is_symlink() else path
    return file.with_name(file.name + suffix)


def log_bytes(path: Path) -> int:
    """Size of the log (WAL) beside a ledger's file, 0 where there is none."""
    try:
        return beside(path, "-wal").stat().st_size
    except OSError:
        return 0


def check_place(path: Path, *, new: bool) -> None:
    """Raise StorageError unless a ledger can be made (``new``) or opened there."""
    if not new and path.is_file():
        return
    if not new:
        raise StorageError(
            f"{path}: no such ledger; list the runs of a folder with: szpo show --all"
        )
    if path.exists():
        raise StorageError(f"{path} already exists; choose another name")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} is not a folder; create it first")
    for suffix in ("-wal", "-journal"):  # SQLite would apply its pages to the new file
        left = beside(path, suffix)
        if left.exists() and left.stat().st_size:
            raise StorageError(
                f"{left} belongs to a run whose file is gone; put that file back, choose another "
                f"name, or remove {left.name} first"
            )


def translate(path: Path, error: sqlite3.Error) -> NoReturn:
    """Raise the szpo error for an SQLite error: storage, integrity or a lost lease."""
    text = str(error)
    if "stale controller" in text:
        raise LeaseError(
            f"{path.name}: another controller has taken this run over; this one stops"
        ) from error
    if "closed database" in text:
        raise UsageError(f"{path.name} was closed; open the run again") from error
    if "locked" in text or "busy" in text:
        raise StorageError(
            f"{path}: locked by another program for 10 s; close it and try again"
        ) from error
    if "unable to open" in text:
        why = "SQLite needs files in its folder, which cannot be written"
        try:
            path.open("rb").close()
        except PermissionError:
            why = "you have no right to read it"
        raise StorageError(f"{path}: {why}; nothing was stored") from error
    if "not a database" in text:
        raise StorageError(f"{path} is not a szpo ledger (not an SQLite file)") from error
    if "decode to UTF-8" in text:  # the rest of the message quotes the bytes
        what = text.partition(" with text")[0]
        raise IntegrityError(f"{path}: the file is damaged ({what}); restore a copy") from None
    if "malformed" in text or "corrupt" in text:
        raise IntegrityError(f"{path}: the file is damaged ({text}); restore a copy") from error
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        raise IntegrityError(f"{path.name}: refused by the ledger's rules: {text}") from error
    raise StorageError(f"{path}: {text}; nothing was stored") from error


def salvage(path: Path) -> str:
    """What to do about a damaged file, in words."""
    return (
        f"restore a copy, or write what is left to a new file: sqlite3 {quoted(path)} .recover | "
        "sqlite3 NEW.db"
    )
