"""The witness: a small file beside a ledger's that holds its acknowledged head.

SQLite reads a cut or damaged log as one that ends sooner, without an error. So the number and
hash of the last event are stored a second time, outside that log, in ``RUN.db-head``: one line
with a checksum. It is written after the commit and before that is acknowledged. So a record that
is longer is sound (a process died in between, or two wrote at once), and one that is shorter has
lost acknowledged events.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from szpo.ledger.canonical import sha256
from szpo.ledger.connection import beside, connect, salvage

SUFFIX: Final = "-head"
"""The end of a witness's name."""
LENGTH: Final = 128
_MARK: Final = "szpo-head-1"


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
    text = f"{_MARK} {mark_of(run)} {event['event']:012} {event['row_sha256']}"
    line = f"{text} {sha256(text)[:16]}".ljust(LENGTH - 1).encode("ascii", "replace") + b"\n"
    try:
        file = _open(beside(path, SUFFIX), os.O_RDWR | os.O_CREAT)
        try:
            noted = _parse(os.read(file, LENGTH))
            if noted is None or noted.run != mark_of(run) or noted.event < event["event"]:
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, line)
        finally:
            os.close(file)
    except OSError as error:
        logging.getLogger("szpo").warning(
            "%s cannot be written (%s); meanwhile, events lost at the record's end go unnoticed",
            beside(path, SUFFIX), error.strerror or error,
        )  # fmt: skip


def _open(file: Path, flags: int) -> int:
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each where the system has it
        flags |= getattr(os, name, 0)
    return os.open(file, flags, 0o600)


def _parse(content: bytes) -> Head | None:
    text, _, check = content.decode("ascii", "replace").strip().rpartition(" ")
    words = text.split(" ")
    if len(words) != 4 or words[0] != _MARK or sha256(text)[:16] != check:
        return None
    return Head(words[1], int(words[2]), words[3])


def read_head(path: Path) -> Head | str:
    """The head in a witness, or why there is none; call it before reading the growing record."""
    try:
        with os.fdopen(_open(beside(path, SUFFIX), os.O_RDONLY), "rb") as file:
            return _parse(file.read(LENGTH)) or "it is damaged"
    except FileNotFoundError:
        return "there is none"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def compare(path: Path, noted: Head | str, conn: sqlite3.Connection) -> tuple[str, str]:
    """Compare a witness, read before, with the record that a connection sees.

    Returns why events are missing, and why they may be; '' where they are not.
    """
    name = beside(path, SUFFIX).name
    doubt = f"cannot check whether the newest events are all there: its witness, {name}: "
    if isinstance(noted, str):
        return "", doubt + noted
    (run,) = conn.execute("SELECT run FROM runs ORDER BY created_us LIMIT 1").fetchone()
    if noted.run != mark_of(run):
        return "", f"{doubt}it belongs to another run"
    event = noted.event
    last = conn.execute("SELECT max(event) FROM events").fetchone()[0] or 0
    if last < event:
        missing = f"{event - last} acknowledged event{'s are' if event - last > 1 else ' is'}"
        return (
            f"{missing} missing at its end (it ends with event {last}; {name} says {event}): its "
            "log was cut or damaged, or this is an older copy, or one made while the run went on",
            "",
        )
    row = conn.execute("SELECT row_sha256 FROM events WHERE event = ?", (event,)).fetchone()
    if row is not None and row[0] != noted.sha256:
        return f"event {event} is not the one that was acknowledged ({name} has its hash)", ""
    return "", ""


def problem(path: Path) -> str:
    """What is missing from the record, read without changing its log; '' if nothing is."""
    noted = read_head(path)
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
        f"{salvage(path)}; if you put this copy here yourself, remove {beside(path, SUFFIX).name}"
    )
