"""The runs of a folder as rows of the home page, each read again only when its file has changed.

A file that cannot be read is a row with one line, so that one damaged run hides no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from szpo.analysis import improvement
from szpo.analysis.improvement import Improvement
from szpo.config.schema import Config
from szpo.errors import SzpoError
from szpo.ledger.connection import beside
from szpo.ledger.database import Clock, Ledger, now_us
from szpo.ledger.run_spec import recorded_config
from szpo.reports.charts import draw_share, gain_series
from szpo.training import budget, held_out
from szpo.training.status import RoundStatus, round_status
from szpo.voting import lease, steps
from szpo.voting.pauses import describe_pause
from szpo_ui.operator.charts import spark

State = Literal["running", "paused", "stopped", "finished", "unreadable"]
LOG: Final = logging.getLogger("szpo.folder")
LONG_S: Final = 0.05
"""Seconds of processor time from which on a reading counts as long."""
PAUSE: Final = 100
"""A file that takes long is read again after this multiple of its reading time at the earliest.

The panelists' votes wait for the same processor."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as the home page shows it; times are µs since 1970."""

    name: str
    state: State
    detail: str
    """What the state means here: who paused the run, what it waits for, why it is unreadable."""
    panel: str = ""
    model: str = ""
    rounds: int = 0
    """Applied."""
    votes: int = 0
    """Counted, those of the open round included."""
    budget: int | None = None
    short: str = "–"
    """The share of held-out comparisons that the tuned policy won, with its interval."""
    verdict: str = "unknown"
    sentence: str = ""
    """Whether the run helped; the same sentence as everywhere."""
    guards: str = ""
    """Which guards failed on held-out prompts at the last measurement; "" where none did."""
    kl: float | None = None
    """KL to the base, nats."""
    share: float = -1.0
    """What ``short`` says, to sort by; −1 where nobody compared."""
    bar: str = ""
    """The share between 0 and 100 %, as SVG."""
    curve: str = ""
    """The share over votes as a small curve, SVG; empty before the second measurement."""
    person_hours: float | None = None
    """Of reading so far, at 238 words a minute; None where no people vote."""
    money: float | None = None
    currency: str = ""
    last_vote_us: int | None = None
    created_us: int = 0
    begun: bool = False
    """The first round was opened."""
    more: int = 0
    """Votes that are offered on top of the budget."""
    driven: bool = False
    """A process holds the model."""


@dataclass(slots=True)
class _Reading:
    """What is remembered of a run's file between two looks."""

    stamp: tuple[int, ...]
    row: RunRow
    holder: str | None = None
    expires_us: int = 0
    hours: budget.Reading = field(default_factory=budget.Reading)
    helped: tuple[int, Improvement] | None = None
    fresh_until: float = 0.0
    """`time.monotonic` until which the row may stay as it is."""


class FolderReader:
    """Reads the rows of a folder again and again."""

    def __init__(self, folder: Path, clock: Clock = now_us):
        self._folder: Final = folder
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._seen: dict[str, _Reading] = {}
        self.reads = 0
        """Files that were opened so far."""

    def rows(self) -> tuple[RunRow, ...]:
        """One row per run, the newest run first, files that cannot be read at the end."""
        with self._lock:
            found = {path.stem: self._look(path) for path in sorted(self._folder.glob("*.db"))}
            self._seen = found
        made = [self._as_of_now(reading) for reading in found.values()]
        return tuple(sorted(made, key=lambda row: (row.state == "unreadable", -row.created_us)))

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
        return _Reading(stamp, RunRow(path.stem, "unreadable", line))

    def _as_of_now(self, reading: _Reading) -> RunRow:
        """The row, whose state depends on whether its controller still lives."""
        driven = lease.is_driven(reading.holder, reading.expires_us, self._clock())
        row = replace(reading.row, driven=driven)
        if row.state != "running" or driven:
            return row
        open_ = " Votes are taken." if row.detail == "collecting votes" else ""
        return replace(row, state="stopped", detail=f"no process holds its model.{open_}")


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with every commit: times and sizes of the file and of its log.

    An empty log stands for none: whoever only reads makes one, and takes it away.
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
        helped = _read_improvement(ledger, last)
        row = _row(ledger, helped[1], hours)
        control = lease.controller(ledger)
    return _Reading(stamp, row, control["lease"], control["expires_us"] or 0, hours, helped)


def _read_improvement(ledger: Ledger, last: _Reading | None) -> tuple[int, Improvement]:
    """Whether the run helped, read again when something was decided, not with every vote."""
    decided = ledger.query("SELECT max(event) AS event FROM events WHERE kind <> 'rows'")
    key = int(decided[0]["event"] or 0)
    if last is not None and last.helped is not None and last.helped[0] == key:
        return last.helped
    return key, improvement.read(ledger)


def _row(ledger: Ledger, helped: Improvement, reading: budget.Reading) -> RunRow:
    config = recorded_config(ledger)
    status = round_status(ledger)
    state, detail = _state(status)
    applied = ledger.query("SELECT sum(n_votes) AS votes, max(step) AS step FROM updates")[0]
    votes = int(applied["votes"] or 0) + status.votes_in
    people = config is not None and config.panel.kind == "people"
    hours = reading.hours(ledger) if people else None
    panel = None if config is None else config.panel
    measured = held_out.read(ledger)
    return RunRow(
        name=ledger.path.stem,
        state=state,
        detail=detail,
        panel="–" if panel is None else "people" if people else panel.kind,
        model="–" if config is None else Path(config.model.name).name,
        rounds=0 if applied["step"] is None else applied["step"] + 1,
        votes=votes,
        budget=None if config is None else _budget(config),
        short=helped.short,
        verdict=helped.verdict,
        sentence=helped.sentence,
        guards="" if measured is None else measured.failure,
        kl=helped.kl,
        share=-1.0 if helped.share is None else helped.share.value or 0.0,
        bar=draw_share(helped.share),
        curve=_curve(helped),
        person_hours=hours,
        money=None
        if panel is None or hours is None
        else budget.pay(votes, hours, panel.pay_per_vote, panel.pay_per_hour),
        currency="" if panel is None else panel.currency,
        last_vote_us=ledger.query("SELECT max(received_us) AS at_us FROM votes")[0]["at_us"],
        created_us=ledger.row["created_us"],
        more=0 if config is None else budget.usual_more(config),
        begun=steps.has_opened(ledger),
    )


def _curve(helped: Improvement) -> str:
    series = gain_series(helped)
    if series is None:
        return ""
    points = [(round(x), y) for x, y in zip(series.x, series.y, strict=True)]
    return str(spark(points, name="Pairs won against the base, over votes"))


def _budget(config: Config) -> int | None:
    """The votes at which the run ends, by its own limits of votes and rounds."""
    if config.run.steps is None:
        return config.run.votes
    most = config.run.steps * config.votes_per_step
    return most if config.run.votes is None else min(most, config.run.votes)


_RUNNING: Final = {
    "none": "preparing the first round",
    "generating": "writing answers",
    "open": "collecting votes",
    "closed": "updating",
}


def _state(status: RoundStatus) -> tuple[State, str]:
    if status.state == "finished":
        return "finished", "all its rounds are done"
    if status.paused_by is not None:
        return "paused", f"by {describe_pause(status.paused_by, status.pause_reason or '')}"
    return "running", _RUNNING[status.state]


def find(rows: Iterable[RunRow], name: str) -> RunRow | None:
    """The row of that name; None where there is none."""
    return next((row for row in rows if row.name == name), None)
