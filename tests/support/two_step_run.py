"""A run of two small steps: driven, taken up by another process, compared with the undisturbed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from szpo.ledger.database import Ledger, now_us
from szpo.replay import verification
from szpo.training import step_report
from tests.support.quadratic import (
    Clock,
    QuadraticPolicy,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)

SETTINGS = settings_of(N=1, D=1, M=2)
STEPS = 2


def live(ledger: Ledger, until: int = STEPS) -> step_report.Outcome:
    """One life of the run's process, to its end."""
    return go(SETTINGS, ledger, QuadraticPolicy(SETTINGS), panel_of(ledger), until_step=until)


def opened(path: Path, clock: Callable[[], int] = now_us) -> Ledger:
    """Without fsync: a process's death loses nothing that was written, and this is much faster."""
    ledger = Ledger.open(path, clock=clock)
    ledger.execute("PRAGMA synchronous=OFF")
    return ledger


def take_up(path: Path, expected: Any) -> None:
    """Go on, later than any lease: one that could not be given back has run out."""
    with opened(path, Clock(now_us() + 10**9)) as ledger:
        live(ledger)
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert history(ledger) == expected
        remaining = [(v["assignment"], v["revision"]) for v in ledger.votes()]
        assert len(set(remaining)) == len(remaining)


def undisturbed(folder: Path) -> tuple[bytes, Any]:
    """A file before its first step, and the history of the run that nothing disturbs."""
    new_ledger(folder / "run.db", SETTINGS).close()
    content = (folder / "run.db").read_bytes()
    with opened(folder / "run.db") as ledger:
        live(ledger)
        return content, history(ledger)
