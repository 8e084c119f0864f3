"""Copies of a run, verified, made while it goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from szpo.errors import IntegrityError
from szpo.failpoints import failpoint
from szpo.ledger import connection, witness
from szpo.ledger.creation import new_file
from szpo.ledger.database import Ledger
from szpo.replay.record_checks import Report
from szpo.replay.verification import verify


def backup(path: Path, out: Path) -> Report:
    """Copy a run as it is at one moment, while others keep writing; no file is overwritten.

    The copy gets its name only after SQLite's integrity check and `verify` have passed.
    """
    Ledger.open(path, readonly=True).close()  # refuses what is no run of this version
    if lacks := witness.problem(path):
        raise IntegrityError(f"{path}: no copy was made: {lacks}; {witness.remedy(path)}")
    with new_file(out) as draft:
        with (
            contextlib.closing(connection.connect(path, readonly=True)) as source,
            contextlib.closing(connection.connect(draft, readonly=False)) as copy,
        ):
            source.backup(copy)  # in one step, without later commits
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        with Ledger.open(draft, readonly=True) as ledger:
            report = verify(ledger)
        if not report.ok:
            raise IntegrityError(f"{path}: no copy was made: {report}")
        failpoint("cp14")
    return report
