"""Write a file or a folder whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from szpo.errors import StorageError
from szpo.failpoints import failpoint

_DRAFT: Final = re.compile(r"\.(.+)\.[0-9a-f]{8}(-wal|-shm|-journal)?")


WINDOWS = os.name == "nt"


def private(name: str, flags: int) -> int:
    """For the ``opener`` of `open`: a new file is its owner's alone to read and to write."""
    return os.open(name, flags, 0o600)


def new_draft(path: Path) -> Path:
    """A hidden name beside ``path`` for what shall have that name once it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def drafts(path: Path) -> list[Path]:
    """The hidden drafts in the folder of ``path``: of writers at work, or of killed ones."""
    return sorted(
        each for each in path.absolute().parent.glob(".*") if _DRAFT.fullmatch(each.name)
    )


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Write a new file or folder: yields a draft's path, which gets the name ``path`` at the end.

    A process that dies leaves at most a hidden draft, never half of what was asked for.

    Raises:
        StorageError: Something of that name exists, or the place cannot be written.
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
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def replace_whole(path: Path) -> Iterator[Path]:
    """Write a file anew: yields a draft's path, which replaces ``path`` at the end, if it exists.

    A process that dies leaves the file as it was, and at most a hidden draft. Errors of the
    system come as they are.
    """
    draft = new_draft(path)
    try:
        yield draft
        flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all files in it, has reached the disk."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    for each in [*inside, path]:
        _sync(each)


def _sync(path: Path) -> None:
    if WINDOWS and path.is_dir():  # which it cannot sync
        return
    place = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # it syncs what is written only
    try:
        os.fsync(place)
    finally:
        os.close(place)


def publish(draft: Path, path: Path) -> None:
    """Give a finished file or folder its name, never over another file, and keep the name.

    Raises:
        FileExistsError: somebody was faster.
    """
    _rename(draft, path)
    with contextlib.suppress(OSError):  # some systems cannot sync a folder
        _sync(path.parent)


def _rename(draft: Path, path: Path) -> None:
    if draft.is_dir():  # replaces an empty folder, and nothing else
        if WINDOWS and path.is_dir():  # which renames onto nothing that is there
            path.rmdir()
        os.rename(draft, path)
        return
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        # exFAT and some mounts have no hard links: take the name, then fill it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(draft, path)
