"""Checks of one run's file: permissions, disk, log, lease, versions, its last record."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from szpo.errors import SzpoError
from szpo.ledger import checkpoint, connection, witness
from szpo.ledger.database import Ledger
from szpo.ledger.holders import describe_processes, holders, left_drafts
from szpo.policies import teachable
from szpo.runs.machine_check import Check, versions
from szpo.voting import lease

SPARE: Final = 64 * 2**20
"""A disk with less free space than this (bytes), or than the run's own size, is called small."""


def examine(path: Path) -> list[Check]:
    """Run every check on one run's file, without writing."""
    checks = [check for look in (_private, _disk, _log, _drafts) for check in look(path)]
    try:
        with Ledger.open(path, readonly=True) as ledger:
            checks += [check for look in RUN_CHECKS for check in look(ledger)]
    except SzpoError as error:
        checks.append(Check("file", "fail", str(error)))
    return checks


def _private(path: Path) -> Iterator[Check]:
    for place, wanted in ((path, 0o600), (path.absolute().parent, 0o700)):
        found = stat.S_IMODE(place.stat().st_mode)
        if found & ~wanted & 0o077:
            text = f"{place} is open to others ({found:04o}); close it: chmod {wanted:o} {place}"
            yield Check("permissions", "warn", text)
            return
    yield Check("permissions", "ok", "only you can read the file and its folder")


def _disk(path: Path) -> Iterator[Check]:
    free, size = shutil.disk_usage(path.absolute().parent).free, path.stat().st_size
    text = f"run {size / 1e6:.1f} MB, {free / 1e6:.0f} MB free"
    small = free < max(SPARE, size)
    yield Check("disk", "warn" if small else "ok", text + ("; make room" if small else ""))
    kind = connection.filesystem(path.absolute().resolve().parent)
    yield Check("file system", "ok", kind or "unknown")  # opening refuses network file systems


def _log(path: Path) -> Iterator[Check]:
    size, others = connection.log_bytes(path), holders(path)
    text = f"{size / 1e6:.1f} MB"
    if others:
        text += f", open in {describe_processes(others)}"
    if size < checkpoint.LOG_ALARM:
        yield Check("log", "ok", text)
    else:
        text += "; it cannot be written into the file: end the process that only reads"
        yield Check("log", "warn", text)


def _drafts(path: Path) -> Iterator[Check]:
    if names := ", ".join(str(each) for each in left_drafts(path)):
        text = "left by a program that was killed, votes and people's names may be in it"
        yield Check("drafts", "warn", f"{text}; remove {names}")
    else:
        yield Check("drafts", "ok", "nothing half written lies beside the run")


def _pages(ledger: Ledger) -> Iterator[Check]:
    damage = ledger.find_damage()
    if damage is None:
        yield Check("pages", "ok", "whole; szpo verify checks what they say")
    else:
        yield Check(
            "pages", "fail", f"{damage}; see: szpo backup {ledger.path} --recover --out NEW"
        )


def _last_record(ledger: Ledger) -> Iterator[Check]:
    problem, doubt = ledger.check_end()
    if problem:
        text = f"{problem}; {witness.remedy(ledger.path)}"
        yield Check("end", "fail", text)
    elif doubt:
        yield Check("end", "ok", doubt)
    else:
        yield Check("end", "ok", "nothing that was acknowledged is missing")


def _made_with(ledger: Ledger) -> Iterator[Check]:
    recorded, here = ledger.spec.get("versions"), versions()
    if not isinstance(recorded, dict):
        yield Check("versions", "ok", f"szpo {ledger.spec.get('szpo', '?')}; no others recorded")
        return
    other = [
        f"{name} {was} → {here.get(name, 'missing')}"
        for name, was in recorded.items()
        if here.get(name) != was
    ]
    if other:
        text = ", ".join(other) + "; weights stay exact, new texts and estimates may differ"
        yield Check("versions", "warn", text)
    else:
        yield Check("versions", "ok", f"as recorded ({len(recorded)} libraries)")


def _lease(ledger: Ledger) -> Iterator[Check]:
    row = lease.controller(ledger)
    if row["lease"] is None:
        yield Check("lease", "ok", "nobody drives this run")
        return
    left, again = (row["expires_us"] - ledger.clock()) / 1e6, f"szpo run --resume {ledger.path}"
    if lease.is_gone(row["lease"]):
        text = f"left by {row['lease']}, which is gone; continue with: {again}"
        yield Check("lease", "warn", text)
    elif left <= 0:
        text = f"that of {row['lease']} ran out {-left:.0f} s ago; continue with: {again}"
        yield Check("lease", "warn", text)
    else:
        yield Check("lease", "ok", f"driven by {row['lease']}, {left:.0f} s left")


def _times(ledger: Ledger) -> Iterator[Check]:
    rows = ledger.query("SELECT at_us FROM events ORDER BY event DESC LIMIT 1")
    ahead = (rows[0]["at_us"] - ledger.clock()) / 1e6 if rows else 0.0
    if ahead > 60:
        text = f"the last record is {ahead:.0f} s in the future; a clock was set back"
        yield Check("times", "warn", f"{text} (counting does not depend on it)")


def _rows(ledger: Ledger) -> int:
    return int(ledger.spec.get("optimizer", {}).get("D", 1))


def _teachable(ledger: Ledger) -> Iterator[Check]:
    for what, text in teachable.describe(teachable.of_spec(ledger.spec), _rows(ledger)).items():
        yield Check(what, "ok", text)


def _questions(ledger: Ledger) -> Iterator[Check]:
    return check_questions(teachable.foretell(ledger.spec.get("panel"), _rows(ledger)))


def check_questions(foretold: tuple[bool, str]) -> Iterator[Check]:
    """The result of `teachable.foretell` as a check; nothing if its text is empty."""
    half, text = foretold
    if text:
        yield Check("questions", "warn" if half else "ok", text)


RUN_CHECKS: tuple[Callable[[Ledger], Iterator[Check]], ...] = (
    _pages,
    _last_record,
    _made_with,
    _lease,
    _times,
    _teachable,
    _questions,
)
