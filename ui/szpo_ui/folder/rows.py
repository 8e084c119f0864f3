"""The runs of a folder as rows of the home page, each read again only when its file has changed.

An unreadable file becomes a row with an error message, so a damaged run hides no other.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from szpo.analysis import improvement
from szpo.analysis.improvement import Improvement
from szpo.config.schema import Config
from szpo.errors import SzpoError
from szpo.ledger.connection import beside
from szpo.ledger.database import Clock, Ledger, now_us
from szpo.ledger.run_spec import recorded_config
from szpo.reports.charts import draw_share, draw_spark, gain_series
from szpo.training import budget, held_out
from szpo.training.status import RoundStatus, round_status, run_state
from szpo.voting import lease, steps

LOG: Final = logging.getLogger("szpo.folder")
LONG_S: Final = 0.05
"""Reading a file counts as long above this many seconds of processor time."""
PAUSE: Final = 100
"""After a long read, the file is not read again for this multiple of the time it took.

The panelists' votes need the same processor."""
UNREADABLE: Final = "unreadable"


@dataclass(slots=True)
class _Reading:
    """The last reading of a run's file."""

    stamp: tuple[int, ...]
    row: dict[str, Any]
    status: RoundStatus | None = None
    holder: str | None = None
    expires_us: int = 0
    hours: budget.Reading = field(default_factory=budget.Reading)
    helped: tuple[int, Improvement] | None = None
    """Whether the training helped, with the last event that was read."""
    fresh_until: float = 0.0
    """The file is not read again before this time (`time.monotonic`)."""


class FolderReader:
    """Reads the rows of a folder, and remembers them for the next time."""

    def __init__(self, folder: Path, clock: Clock = now_us):
        self._folder: Final = folder
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._seen: dict[str, _Reading] = {}
        self.reads = 0
        """How many times a file was read."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per run, the newest run first, unreadable files last.

        ``state`` is the run's or "unreadable", and ``detail`` explains it. ``votes`` include the
        open round. ``person_hours`` is reading time, None if no people vote. ``more`` is how many
        further votes the page offers. Times are µs since 1970.
        """
        with self._lock:
            self._seen = {path.stem: self._look(path) for path in self._folder.glob("*.db")}
            made = [self._as_of_now(self._seen[name]) for name in sorted(self._seen)]
        return sorted(made, key=lambda row: (row["state"] == UNREADABLE, -row["created_us"]))

    def _look(self, path: Path) -> _Reading:
        stamp, last = _stamp(path), self._seen.get(path.stem)
        if last is not None and (last.stamp == stamp or time.monotonic() < last.fresh_until):
            return last
        self.reads += 1
        began = time.thread_time()
        try:
            found = _read(path, stamp, last)
            spent = time.thread_time() - began
            if last is not None and spent > LONG_S:
                found.fresh_until = time.monotonic() + PAUSE * spent
            return found
        except SzpoError as error:
            line = str(error).replace(str(path), path.name)
        except Exception as error:  # content that no version of szpo writes
            LOG.warning("%s cannot be read", path.name, exc_info=error)
            line = f"{path.name} cannot be read ({type(error).__name__}); see: szpo verify"
        row = {"name": path.stem, "state": UNREADABLE, "detail": line, **NOTHING, "created_us": 0}
        return _Reading(stamp, row)

    def _as_of_now(self, reading: _Reading) -> dict[str, Any]:
        """The row with its current state, which depends on whether its controller still runs."""
        driven = lease.is_driven(reading.holder, reading.expires_us, self._clock())
        if reading.status is None:
            return {**reading.row, "driven": driven}
        state, detail = run_state(reading.status, driven=driven)
        return {**reading.row, "state": state, "detail": detail, "driven": driven}


NOTHING: Final[dict[str, Any]] = {
    "model": "", "panel": "", "votes": 0, "share": -1.0, "last_vote_us": None, "rounds": 0,
    "more": 0, "begun": False, "driven": False,
}  # fmt: skip
"""The row's values for a run whose file is unreadable or does not exist yet."""


def _stamp(path: Path) -> tuple[int, ...]:
    """The times and sizes of the file and of its log, which change with every commit.

    An empty log counts as none, since readers create and delete one.
    """
    found: list[int] = []
    for each in (path, beside(path, "-wal")):
        try:
            stat = each.stat()
        except OSError:
            stat = None
        found += (stat.st_mtime_ns, stat.st_size) if stat is not None and stat.st_size else (0, 0)
    return tuple(found)


def _read(path: Path, stamp: tuple[int, ...], last: _Reading | None) -> _Reading:
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        hours = budget.Reading() if last is None else last.hours
        # Whether training helped is read again after events other than votes.
        decided = ledger.query("SELECT max(event) AS event FROM events WHERE kind <> 'rows'")
        event, helped = int(decided[0]["event"] or 0), None if last is None else last.helped
        if helped is None or helped[0] != event:
            helped = event, improvement.read(ledger)
        status, control = round_status(ledger), lease.controller(ledger)
        row = _row(ledger, status, helped[1], hours)
    holder, expires_us = control["lease"], control["expires_us"] or 0
    return _Reading(stamp, row, status, holder, expires_us, hours, helped)


def _row(
    ledger: Ledger, status: RoundStatus, helped: Improvement, reading: budget.Reading
) -> dict[str, Any]:
    config = recorded_config(ledger)
    applied = ledger.query("SELECT sum(n_votes) AS votes, max(step) AS step FROM updates")[0]
    votes = int(applied["votes"] or 0) + status.votes_in
    panel = None if config is None else config.panel
    people = panel is not None and panel.kind == "people"
    hours = reading.hours(ledger) if people else None
    measured = held_out.read(ledger)
    return {
        "name": ledger.path.stem,
        "panel": "–" if panel is None else panel.kind,
        "model": "–" if config is None else Path(config.model.name).name,
        "rounds": 0 if applied["step"] is None else applied["step"] + 1,
        "votes": votes,
        "budget": None if config is None else _budget(config),
        "helped": helped,
        "guards": "" if measured is None else measured.failure,
        "share": -1.0 if helped.share is None else helped.share.value or 0.0,
        "bar": draw_share(helped.share),
        "curve": _curve(helped),
        "person_hours": hours,
        "money": None
        if panel is None or hours is None
        else budget.pay(votes, hours, panel.pay_per_vote, panel.pay_per_hour),
        "currency": "" if panel is None else panel.currency,
        "last_vote_us": ledger.query("SELECT max(received_us) AS at_us FROM votes")[0]["at_us"],
        "created_us": ledger.row["created_us"],
        "more": 0 if config is None else budget.usual_more(config),
        "begun": steps.has_opened(ledger),
    }


def _curve(helped: Improvement) -> str:
    """A small SVG curve of the share over votes; empty before the second measurement."""
    series = gain_series(helped)
    if series is None:
        return ""
    points = [(round(x), y) for x, y in zip(series.x, series.y, strict=True)]
    return draw_spark(points, title="Pairs won against the base, over votes")


def _budget(config: Config) -> int | None:
    """The number of votes at which the run ends, by its limits of votes and rounds."""
    if config.run.steps is None:
        return config.run.votes
    most = config.run.steps * config.votes_per_step
    return most if config.run.votes is None else min(most, config.run.votes)
