"""Connections to a ledger's file: who has it open, and checkpoints of its log.

Checkpoints of the log (WAL) of a ledger's file, made only under the write lock. SQLite up to
3.51.2 may lose pages when one connection commits while another checkpoints, and a panel's web
process and the controller write to one file. So no connection checkpoints by itself: whoever has
just committed calls `Checkpointer.checkpoint`, which takes the write lock first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NoReturn

from szpo import files
from szpo.errors import IntegrityError, LeaseError, StorageError, UsageError
from szpo.files import drafts

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
    "PRAGMA wal_autocheckpoint=0",  # see szpo.ledger.connection
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
    if "closed database" in text:
        raise UsageError(f"{path.name} was closed; open the run again") from error
    if "locked" in text or "busy" in text:
        raise StorageError(
            f"{path}: locked by another program for 10 s; close it and try again"
        ) from error
    if "unable to open" in text:
        why = "SQLite needs files in its folder, which cannot be written"
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


_READ_MARKS = (123, 127)
"""First and last byte of the -shm file that SQLite locks for readers (see its WAL format)."""


def holders(path: Path) -> dict[int, str]:
    """Other processes that have the file open, with their names; empty without /proc."""
    found: dict[int, str] = {}
    target = str(path.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            if any(os.readlink(fd) == target for fd in (process / "fd").iterdir()):
                found[int(process.name)] = (process / "comm").read_text(encoding="utf-8").strip()
    return found


def readers(path: Path) -> dict[int, str]:
    """Processes that are reading the file now, with their names; may include this one.

    Where the system does not list locks: all processes that have the file open, if it lists those.
    """
    processes = {**holders(path), os.getpid(): "this program itself"}
    marked: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        shared = beside(path, "-shm").stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()  # 7: POSIX ADVISORY READ process major:minor:inode first last
            if len(words) != 8 or int(words[5].rpartition(":")[2]) != shared:
                continue
            low, high = _READ_MARKS
            if words[7] != "EOF" and int(words[6]) <= high and int(words[7]) >= low:
                marked.add(int(words[4]))
    exact = {process: name for process, name in processes.items() if process in marked}
    return exact or holders(path)


def left_drafts(path: Path) -> list[Path]:
    """Half-written copies and exports beside a run, abandoned by their process."""
    return [each for each in drafts(path) if each.is_dir() or not holders(each)]


def describe_processes(processes: Mapping[int, str]) -> str:
    """Processes in words.

    >>> describe_processes({12: "szpo", 14: "python"})
    'process 12 (szpo), process 14 (python)'
    """
    return ", ".join(f"process {number} ({name})" for number, name in processes.items())


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
