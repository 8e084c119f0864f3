"""The witness: a small file beside a ledger's that holds its acknowledged head.

SQLite reads a cut or damaged log as one that ends sooner, without an error. So the number and
hash of the last event are stored a second time, outside that log, in ``RUN.db-head``. The
witness is written after the commit and before it is acknowledged. So a record that is longer is
sound (a process died in between), and one that is shorter has lost acknowledged events.

The file has two slots of 128 bytes, each with a checksum, written in turn: a torn write leaves
the previous head intact. A lock on the file lets one process write at a time.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from szpo.files import try_lock
from szpo.ledger.canonical import sha256
from szpo.ledger.connection import beside, connect

SLOT: Final = 128
LOCK_S: Final = 2.0
"""How long a writer waits for the lock, seconds; a write takes a fraction of a millisecond."""
_MARK: Final = "szpo-head-1"
SUFFIX: Final = "-head"
"""The end of a witness's name."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a run: its number and hash."""

    run: str
    """The run as `mark_of` gives it."""
    event: int
    sha256: str


def forget(path: Path) -> None:
    """Remove the witness of a deleted file, so that it is not taken for a new one's."""
    beside(path, SUFFIX).unlink(missing_ok=True)


def mark_of(run: str) -> str:
    """A run's mark in its witness: the beginning of its id's hash."""
    return sha256(run)[:16]


def attest(path: Path, run: str, event: Mapping[str, Any]) -> None:
    """Write an event, committed but not yet acknowledged, unless the file has a later one.

    The write survives a killed process. It is not synced, which would double the time of a vote;
    after a power failure the witness may be older than the record, which is sound. A failed write
    is logged as a warning.
    """
    mark = mark_of(run)
    text = f"{_MARK} {mark} {event['event']:012} {event['row_sha256']}"
    line = f"{text} {sha256(text)[:16]}".ljust(SLOT - 1).encode("ascii", "replace") + b"\n"
    try:
        file = _open_plain(beside(path, SUFFIX), os.O_RDWR | os.O_CREAT)
        try:
            _lock(file)
            slots = _parse_slots(os.read(file, 2 * SLOT))
            own = [each for each in slots if each is not None and each.run == mark]
            newest = max(own, key=attrgetter("event"), default=None)
            if newest is None or newest.event < event["event"]:
                at = SLOT if newest is not None and slots[0] == newest else 0
                os.lseek(file, at, os.SEEK_SET)
                os.write(file, line + (b" " * SLOT if newest is None else b""))
        finally:
            os.close(file)
    except OSError as error:
        logging.getLogger("szpo").warning(
            "%s cannot be written (%s); meanwhile, events lost at the record's end go unnoticed",
            beside(path, SUFFIX), error.strerror or error,
        )  # fmt: skip


def _open_plain(file: Path, flags: int) -> int:
    """Open a regular file; refuse a link, a pipe or a device."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each where the system has it
        flags |= getattr(os, name, 0)
    opened = os.open(file, flags, 0o600)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return opened


def _lock(file: int) -> None:
    """Take the lock on the file; give up after `LOCK_S` seconds."""
    end = time.monotonic() + LOCK_S
    while not try_lock(file):
        if time.monotonic() >= end:
            raise OSError(errno.EAGAIN, "locked by another program")
        time.sleep(0.002)


def read(path: Path) -> Head | str:
    """The head in a witness, or why there is none; call it before reading the growing record."""
    try:
        with os.fdopen(_open_plain(beside(path, SUFFIX), os.O_RDONLY), "rb") as file:
            content = file.read(2 * SLOT)
    except FileNotFoundError:
        return "there is none"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    found = [each for each in _parse_slots(content) if each is not None]
    if not found:
        return "it is damaged"
    return max(found, key=attrgetter("event"))


def compare(path: Path, noted: Head | str, conn: sqlite3.Connection) -> tuple[str, str]:
    """Compare a witness, read before, with the record that a connection sees.

    Returns why events are missing, and why they may be; '' where they are not.
    """
    name = beside(path, SUFFIX).name
    if isinstance(noted, str):
        return "", _describe_doubt(f"its witness, {name}: {noted}")
    (run,) = conn.execute("SELECT run FROM runs ORDER BY created_us LIMIT 1").fetchone()
    if noted.run != mark_of(run):
        return "", _describe_doubt(f"its witness, {name}: it belongs to another run")
    event = noted.event
    last = conn.execute("SELECT max(event) FROM events").fetchone()[0] or 0
    if last < event:
        missing = f"{event - last} acknowledged event{'s are' if event - last > 1 else ' is'}"
        return (
            f"{missing} missing at its end (it ends with event {last}; {name} says {event}): its "
            "log was cut or damaged, or this is an older copy, or one made while the run went on",
            "",
        )
    found = conn.execute("SELECT row_sha256 FROM events WHERE event = ?", (event,)).fetchone()
    if found is not None and found[0] != noted.sha256:
        return f"event {event} is not the one that was acknowledged ({name} has its hash)", ""
    return "", ""


def problem(path: Path) -> str:
    """What is missing from the record, read without changing its log; '' if nothing is."""
    noted = read(path)
    if isinstance(noted, str):
        return ""
    try:
        with closing(connect(path, readonly=True)) as conn:
            return compare(path, noted, conn)[0]
    except sqlite3.Error:  # opening it gives the better message
        return ""


def remedy(path: Path) -> str:
    """What to do about a record from which events are missing."""
    return (
        f"restore a copy, or write what is left to a new file: szpo backup {path} --recover --out "
        f"NEW; if you put this copy here yourself, remove {beside(path, SUFFIX).name}"
    )


def _describe_doubt(why: str) -> str:
    return f"cannot check whether the newest events are all there: {why}"


def _parse_slots(content: bytes) -> list[Head | None]:
    """The head in each of the two slots, None where there is none or it is damaged."""
    found: list[Head | None] = []
    for line in (content[:SLOT], content[SLOT:]):
        text, _, check = line.decode("ascii", "replace").strip().rpartition(" ")
        words = text.split(" ")
        bad = len(words) != 4 or words[0] != _MARK or sha256(text)[:16] != check
        found.append(None if bad else Head(words[1], int(words[2]), words[3]))
    return found
