"""Write files and folders atomically: whole, or not at all; and lock them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from szpo.errors import StorageError
from szpo.failpoints import failpoint

_DRAFT: Final = re.compile(r"\.(.+)\.[0-9a-f]{8}(-wal|-shm|-journal)?")

WINDOWS = os.name == "nt"

LOCK_BYTE: Final = 2**40
"""Windows locks bytes, which others then cannot read; so the lock is on a byte past any file."""
POLL_S: Final = 0.5


def private(name: str, flags: int) -> int:
    """An ``opener`` for `open`: only its owner can read and write a new file."""
    return os.open(name, flags, 0o600)


def new_draft(path: Path) -> Path:
    """A hidden name beside ``path`` for a draft that gets the name ``path`` when complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def drafts(path: Path) -> list[Path]:
    """The hidden drafts in the folder of ``path``, of active or killed writers."""
    return sorted(
        each for each in path.absolute().parent.glob(".*") if _DRAFT.fullmatch(each.name)
    )


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Write a new file or folder: yields a draft's path, which is renamed to ``path`` at the end.

    A process that dies leaves at most a hidden draft, never half a file.

    Raises:
        StorageError: ``path`` exists and is no empty folder, or cannot be written.
    """
    draft = new_draft(path)
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise StorageError(f"{path} exists; choose another name, or remove it first")
        yield draft
        flush(draft)
        failpoint("cp14")
        publish(draft, path)
    except FileExistsError:
        raise StorageError(f"{path} exists; choose another name, or remove it first") from None
    except OSError as error:
        more = "" if path.absolute().parent.exists() else "; make its folder first"
        why = f"{path} cannot be written ({error.strerror or error}){more}"
        raise StorageError(why) from None
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """Write or replace a file: yields a draft's path, which is renamed to ``path`` at the end.

    A process that dies leaves the file unchanged, and at most a hidden draft. An OSError is not
    converted.
    """
    draft = new_draft(path)
    try:
        yield draft
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all its files, is on the disk."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    for each in [*inside, path]:
        _sync(each)


def _sync(path: Path) -> None:
    if WINDOWS and path.is_dir():  # Windows cannot sync a folder
        return
    place = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # needs a writable file
    try:
        os.fsync(place)
    finally:
        os.close(place)


def publish(draft: Path, path: Path) -> None:
    """Rename a finished draft to ``path``, never over another file, and sync the folder.

    Raises:
        FileExistsError: another writer was faster.
    """
    _rename(draft, path)
    with contextlib.suppress(OSError):  # some systems cannot sync a folder
        _sync(path.parent)


def _rename(draft: Path, path: Path) -> None:
    if draft.is_dir():  # can only replace an empty folder
        if WINDOWS and path.is_dir():  # Windows cannot replace it by renaming
            path.rmdir()
        os.rename(draft, path)
        return
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        # exFAT and some mounts have no hard links: create the name, then replace it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(draft, path)


def expand(path: str | Path) -> Path:
    """The path with ~ replaced by a home folder, where there is one."""
    return Path(os.path.expanduser(path))


def quoted(path: str | Path) -> str:
    """A path as a word of a command that people copy; quoted where a shell would split it."""
    return shlex.quote(str(path))


if sys.platform == "win32":
    import msvcrt

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file (its descriptor); False while somebody else has it.

        With ``shared`` others may share it, where the system knows shared locks.
        """
        place = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, place, os.SEEK_SET)
        return True

else:
    try:
        import fcntl
    except ImportError:  # then nothing is locked; records have their own checksums
        fcntl = None  # type: ignore[assignment]

    def try_lock(file: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file (its descriptor); False while somebody else has it.

        With ``shared`` others may share it, where the system knows shared locks.
        """
        if fcntl is None:
            return True
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def claim(lock: Path, *, wait: bool = False) -> Iterator[IO[str] | None]:
    """Hold a file's lock until the block or the process ends.

    None if another process has it, unless ``wait``.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as file:
        while not (held := try_lock(file.fileno())) and wait:
            time.sleep(POLL_S)
        yield file if held else None
