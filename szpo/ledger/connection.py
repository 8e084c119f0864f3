"""Connections to a ledger's file: pragmas, file systems, SQLite's errors translated."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from szpo import files
from szpo.errors import IntegrityError, LeaseError, StorageError

_NETWORK_FILESYSTEMS = (
    "nfs", "cifs", "smb", "afs", "ncp", "9p", "ceph", "lustre", "virtiofs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.s3fs",
)  # fmt: skip
_NO_FILES_BESIDE = ("disk I/O error", "unable to open database file", "disk is full")
_PRAGMAS = (
    "PRAGMA busy_timeout=10000",
    "PRAGMA synchronous=FULL",
    "PRAGMA fullfsync=ON",  # on macOS a plain sync leaves the disk's own cache unwritten
    "PRAGMA foreign_keys=ON",
    "PRAGMA recursive_triggers=ON",  # else REPLACE would delete without firing triggers
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
    "PRAGMA mmap_size=0",
    "PRAGMA wal_autocheckpoint=0",  # see szpo.ledger.checkpoint
    "PRAGMA journal_size_limit=0",  # a log that starts again gives its space back
)


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection to an existing file, usable from any thread, with every pragma set."""
    if not readonly:
        return _open(path, "mode=rw")
    if _is_immutable(path):
        return _open(path, "mode=ro&immutable=1")
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if not any(words in str(error) for words in _NO_FILES_BESIDE):
            raise
        return _without_files_beside(path)


def _open(
    path: Path, how: str, kind: type[sqlite3.Connection] | None = None
) -> sqlite3.Connection:
    own: dict[str, Any] = {} if kind is None else {"factory": kind}
    conn: sqlite3.Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        **own,
    )
    try:
        for pragma in _PRAGMAS:  # the last one reads the file, so that a bad one fails here
            conn.execute(pragma)
    except BaseException:
        conn.close()
        raise
    return conn


class _Copied(sqlite3.Connection):
    """A connection to a copy in a temporary folder, removed at the latest on close."""

    folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        super().close()
        if self.folder is not None:
            self.folder.cleanup()


def _without_files_beside(path: Path) -> sqlite3.Connection:
    """A read-only connection for a disk too full for the files that SQLite itself creates.

    Without a log, the file is read in place. With one, both are copied to the system's temporary
    folder and read there, since the log holds commits that the file lacks.
    """
    if not log_bytes(path):
        return _open(path, "mode=ro&immutable=1")
    folder = tempfile.TemporaryDirectory(prefix="szpo-")
    try:
        target = Path(folder.name) / path.name
        for suffix in ("", "-wal"):
            with (
                beside(path, suffix).open("rb") as file,
                open(f"{target}{suffix}", "xb", opener=files.private) as copy,
            ):
                shutil.copyfileobj(file, copy)
        copied = _open(target, "mode=ro", _Copied)
        if os.name == "posix":  # open files need no name: a killed process leaves nothing
            folder.cleanup()
    except (OSError, sqlite3.Error) as error:
        folder.cleanup()
        raise StorageError(
            f"{path}: its disk is full, and {tempfile.gettempdir()} has no room for a copy to "
            f"read ({error}); free some space, or set TMPDIR to a folder with room"
        ) from None
    assert isinstance(copied, _Copied)
    copied.folder = folder
    return copied


def _is_immutable(path: Path) -> bool:
    """Whether the file is in a read-only folder (a mounted copy) and has no log beside it.

    SQLite creates files beside it even to read, and would refuse to open it there.
    """
    own = (beside(path, suffix) for suffix in ("-wal", "-shm"))
    folder = beside(path, "").absolute().parent
    return not os.access(folder, os.W_OK) and not any(each.exists() for each in own)


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
    if new and path.exists():
        raise StorageError(f"{path} already exists; choose another name")
    if new and not path.parent.is_dir():
        raise StorageError(f"{path.parent} is not a folder; create it first")
    if new:
        _check_nothing_left(path)
    if not new and not path.is_file():
        raise StorageError(f"{path}: no such ledger; list the runs of a folder with: szpo runs")
    kind = filesystem(path.parent.resolve())
    if kind.startswith(_NETWORK_FILESYSTEMS):
        raise StorageError(
            f"{path} is on {kind}, where file locks are unreliable; use a local folder"
        )


def _check_nothing_left(path: Path) -> None:
    """Raise StorageError if a log is there: SQLite would apply its pages to the new file."""
    for suffix in ("-wal", "-journal"):
        left = beside(path, suffix)
        if left.exists() and left.stat().st_size:
            raise StorageError(
                f"{left} belongs to a run whose file is gone; put that file back, choose another "
                f"name, or remove {left.name} first"
            )


def filesystem(folder: Path) -> str:
    """The kind of file system that holds a folder, '' if unknown."""
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
    """Raise the szpo error for an SQLite error: storage, integrity or a lost lease."""
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
    if "decode to UTF-8" in text:  # the rest of the message quotes the bytes
        what = text.partition(" with text")[0]
        raise IntegrityError(f"{path}: the file is damaged ({what}); restore a copy") from None
    if "malformed" in text or "corrupt" in text:
        raise IntegrityError(f"{path}: the file is damaged ({text}); restore a copy") from error
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        raise IntegrityError(f"{path.name}: refused by the ledger's rules: {text}") from error
    raise StorageError(f"{path}: {text}; nothing was stored") from error
