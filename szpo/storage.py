"""Where a ledger's file lies and how it is opened: pragmas, places, SQLite's errors in words."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import NoReturn

from szpo.errors import IntegrityError, LeaseError, StorageError

_NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "afs", "ncp")
_PRAGMAS = (
    "PRAGMA busy_timeout=10000",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",  # else REPLACE would delete without firing triggers
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
)


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection to an existing file, usable from any thread, with every pragma set."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}"
    conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    for pragma in _PRAGMAS:
        conn.execute(pragma)
    return conn


def check_place(path: Path, *, new: bool) -> None:
    """Raise StorageError unless a ledger can be made (``new``) or opened there."""
    if new and path.exists():
        raise StorageError(f"{path} already exists; choose another name")
    if new and not path.parent.is_dir():
        raise StorageError(f"{path.parent} is not a folder; create it first")
    if not new and not path.is_file():
        raise StorageError(f"{path}: no such ledger")
    kind = filesystem(path.parent.resolve())
    if kind.startswith(_NETWORK_FILESYSTEMS):
        raise StorageError(
            f"{path} lies on {kind}, where file locks do not hold; use a local folder"
        )


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all files in it, has reached the disk."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    for each in [*inside, path]:
        place = os.open(each, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def publish(draft: Path, path: Path) -> None:
    """Give a finished file or folder its name, never over another file.

    Raises:
        FileExistsError: somebody was faster.
    """
    if draft.is_dir():  # replaces an empty folder, and nothing else
        os.rename(draft, path)
        return
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT and some mounts have no hard links: take the name, then fill it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(draft, path)


def filesystem(folder: Path) -> str:
    """The kind of file system that holds a folder, '' where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        parts = line.split()
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def translate(path: Path, error: sqlite3.Error) -> NoReturn:
    """Raise what an SQLite error means here: storage, integrity or a lost lease."""
    text = str(error)
    if "stale controller" in text:
        raise LeaseError(
            f"{path.name}: another controller has taken this run over; this one stops"
        ) from error
    if "locked" in text or "busy" in text:
        raise StorageError(
            f"{path}: locked by another program for 10 s; close it and try again"
        ) from error
    if "not a database" in text:
        raise StorageError(f"{path} is not a szpo ledger (not an SQLite file)") from error
    if "malformed" in text or "corrupt" in text:
        raise IntegrityError(f"{path}: the file is damaged ({text}); restore a copy") from error
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        raise IntegrityError(f"{path.name}: refused by the ledger's rules: {text}") from error
    raise StorageError(f"{path}: {text}; nothing was stored") from error
