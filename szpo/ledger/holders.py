"""Which other programs have a ledger's file open, and which of them are reading it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from szpo.files import drafts
from szpo.ledger.connection import beside

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
