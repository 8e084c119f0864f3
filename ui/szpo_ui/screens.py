"""Decides which screen a panelist sees and what it shows, from the ledger and the vote service.

`look` may reserve a seat for the panelist, to show them a comparison. Nothing here makes HTML.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import median
from types import MappingProxyType
from typing import Any, Final, Literal

from szpo.ledger.database import Ledger, Record
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.runs.status import RoundStatus, redact_for_panelists
from szpo.types import Assignment, Choice
from szpo.voting import blind, casting
from szpo.voting.counting import HARMFUL, StepVotes
from szpo.voting.seats import assignment
from szpo_ui import credentials
from szpo_ui.ballots import is_elsewhere, key, lease_s
from szpo_ui.credentials import Standing
from szpo_ui.sheets import Sheet, sheet
from szpo_ui.site import Site

SPENT_S: Final = (
    "max(0, min(coalesce(v.dwell_ms, 1e15), (v.received_us - a.served_us) / 1e3)) / 1e3"
)
"""Seconds a vote took: the page's own measure, at most the time since the texts were served."""
_OWN: Final = f"""
SELECT own.*, seat.* FROM (
  SELECT (SELECT coalesce(sum(n_votes), 0) FROM updates) AS done,
    coalesce(sum(v.choice <> 'skip' AND v.late = 0), 0) AS given,
    coalesce(sum({SPENT_S}), 0) AS spent_s, count(DISTINCT a.sheet) AS sheets,
    EXISTS (SELECT 1 FROM events WHERE kind = 'consent' AND actor = :panelist) AS agreed
  FROM assignments a JOIN comparisons c USING (comparison)
  JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
  WHERE a.panelist = :panelist AND c.kind = 'train'
) own LEFT JOIN (
  SELECT a.*, a.rowid AS number, c.kind, c.step, v.choice, v.skip_reason, v.details,
    v.received_us
  FROM comparisons c CROSS JOIN assignments a ON a.comparison = c.comparison
  LEFT JOIN votes v ON v.assignment = a.assignment AND v.revision =
    (SELECT max(revision) FROM votes WHERE assignment = a.assignment)
  WHERE c.run = :run AND (c.kind <> 'train' OR c.step = :step) AND a.panelist = :panelist
) seat ON 1 ORDER BY seat.number
"""
_FINALS_GIVEN: Final = """
SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison)
JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
WHERE a.panelist = ? AND c.kind = 'final'
"""
_TIMES: Final = f"""
SELECT {SPENT_S} AS spent_s
FROM assignments a JOIN comparisons c USING (comparison) JOIN panelists p USING (panelist)
JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
WHERE c.kind = 'train' AND p.kind = 'person' AND v.choice <> 'skip'
ORDER BY v.vote DESC LIMIT 500
"""
ENOUGH_TIMES: Final = 10
"""The fewest votes of people from which their median time is shown."""
PEOPLE: Final = 3
"""The fewest voters of whom agreement is shown: of two, each would learn the other's vote."""
_ROUND: Final = """
WITH ended AS (
  SELECT event, json_extract(body, '$.step') AS step, json_extract(body, '$.votes') AS votes,
    json_extract(body, '$.moved') AS moved
  FROM events WHERE kind = 'step' ORDER BY event DESC LIMIT 2
), last AS (
  SELECT comparison, panelist, verdict FROM counted_votes
  WHERE step = (SELECT step FROM ended ORDER BY event DESC LIMIT 1)
), sides AS (
  SELECT sum(verdict = 'plus') AS p, sum(verdict = 'minus') AS m FROM last GROUP BY comparison
)
SELECT step, votes, moved, (SELECT count(DISTINCT panelist) FROM last) AS people,
  (SELECT sum(p * (p - 1) + m * (m - 1)) / 2 FROM sides) AS same,
  (SELECT sum((p + m) * (p + m - 1)) / 2 FROM sides) AS pairs
FROM ended ORDER BY event DESC
"""
State = Literal[
    "welcome", "idle", "vote", "closed", "waiting", "final", "paused", "break",
    "other-tab", "finished", "complete", "error", "sheet",
]  # fmt: skip
Mode = Literal["", "break", "revise"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How many comparisons one panelist has answered, and how many the whole panel has."""

    done: int
    """Votes of the whole run that count."""
    planned: int
    """Votes that the run is planned to collect."""
    given: int = 0
    """Votes of this panelist that came in time, without skips."""
    spent_s: float = 0.0
    """Seconds that this panelist spent on comparisons."""

    @property
    def left(self) -> int:
        """Votes that the run still needs.

        >>> Progress(41, 240).left, Progress(12, 10).left
        (199, 0)
        """
        return max(0, self.planned - self.done)


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures that help a person decide whether to take part."""

    progress: Progress
    people: int
    """People enrolled so far, this one included."""
    vote_s: float
    """Seconds per comparison: the measured median, or the longest that the settings allow."""
    measured: bool = False
    """`vote_s` was measured."""
    sheet: int = 1
    """Rows that a sheet has."""
    before: int = 0
    """Earlier sheets on which this panelist has judged a row."""
    asked: int | None = None
    """Votes that a study still asks of this panelist; None outside a study."""

    @property
    def share(self) -> int:
        """This panelist's share of the votes that are left, if all people vote equally often."""
        if self.asked is not None:
            return self.asked
        return math.ceil(self.progress.left / max(1, self.people))

    @property
    def sheets(self) -> int:
        """About how many sheets this panelist is shown, earlier ones included.

        >>> Facts(Progress(30, 60), 1, 5.0, sheet=8, before=4).sheets
        8
        """
        return self.before + max(1, math.ceil(self.share / self.sheet))

    @property
    def share_s(self) -> float:
        """Seconds that this panelist's share takes."""
        return self.share * self.vote_s


@dataclass(frozen=True)
class Screen:
    """All that a page shows; never which policy a side is, nor a number of the algorithm."""

    state: State
    name: str
    status: RoundStatus
    key: str
    """Changes when the page must show something new to a panelist who is reading."""
    seat: str | None = None
    paper: Callable[[], Sheet] | None = None
    """Makes the sheet, the comparison as it is shown; None on screens without one.

    Making it takes a while, so it is done after the ledger is free again.
    """
    step: int | None = None
    """The round that the sheet belongs to; without a sheet, the current round."""
    number: int = 1
    """The number of this comparison among the panelist's in this round, from 1."""
    chosen: Choice | None = None
    rows: bool = False
    """The run asks about single rows, several at once on the screen ``sheet``."""
    revises: bool = False
    lease_s: float | None = None
    progress: Progress | None = None
    """How far this panelist and the run are; on screens of voting and waiting and the last one."""
    facts: Facts | None = None
    """How much work the run asks for; on the welcome screen and on sheets of rows."""
    notice: str | None = None
    """The code of a line above the screen (`szpo_ui.markup.Sentences.notices`)."""
    mode: Mode = ""
    study: Standing | None = None
    """The progress of a panelist who came by the open link; None for others."""
    shows: Mapping[str, Any] = field(default_factory=dict)
    """What the template of this state alone shows, by the names that it has there."""


def look(
    site: Site, panelist: str, name: str, tab: str, page_seat: str | None = None, mode: Mode = ""
) -> Screen:
    """The current screen of a tab; reserves a seat for the panelist if there is one to give.

    ``page_seat`` is the seat that the page shows.
    """
    status = site.status.read()
    own, seats = read_own_seats(site, panelist, status.step)
    study = credentials.standing(site.ledger, panelist, site.status)
    viewer = _Viewer(site, panelist, name, tab, mode, status, own, seats, study, page_seat)
    return (  # the first that is one
        viewer.welcome() or viewer.aside() or viewer.outside_training() or viewer.complete()
        or viewer.quiet() or viewer.rows() or viewer.reading() or viewer.finished()
        or viewer.waiting()
    )  # fmt: skip


def elsewhere(site: Site, panelist: str, name: str) -> Screen:
    """The screen of a tab that is not the active one."""
    status = site.status.read()
    study = credentials.standing(site.ledger, panelist, site.status)
    return _Viewer(site, panelist, name, "", "", status, {}, [], study).make_screen("other-tab")


def take_over(site: Site, panelist: str, tab: str) -> None:
    """Move the panelist's held seat to this tab, without renewing its lease."""
    _, seats = read_own_seats(site, panelist, site.status.read().step)
    held = find_held(site, panelist, seats)
    for row in [] if held is None else on_sheet(held, seats):
        site.service.take(row["assignment"], tab)


@dataclass(frozen=True)
class _Viewer:
    """A panelist and the state of their page, from which every screen is made; each read once."""

    site: Site
    panelist: str
    name: str
    tab: str
    mode: Mode
    status: RoundStatus
    own: Record
    """The panelist's counts, and whether they agreed."""
    seats: list[Record]
    """The panelist's seats of this round, and those outside training."""
    study: Standing | None
    page_seat: str | None = None

    @cached_property
    def held(self) -> Record | None:
        return find_held(self.site, self.panelist, self.seats)

    @cached_property
    def shown(self) -> Record | None:
        """The seat that the page shows."""
        return seat_row(self.site, self.panelist, self.page_seat) if self.page_seat else None

    @property
    def open_step(self) -> int | None:
        return self.status.step if self.status.state == "open" else None

    @property
    def revised(self) -> Record | None:
        """The answered seat of the open round that the panelist changes."""
        shown = self.shown
        if self.mode != "revise" or not shown or not shown["choice"] or self.open_step is None:
            return None
        return shown if shown["step"] == self.open_step else None

    def votes(self, step: int | None) -> list[Record]:
        """The panelist's votes of a round, in the order in which the seats were given."""
        own = self.seats
        if step != self.status.step:
            _, own = read_own_seats(self.site, self.panelist, step)
        return [row for row in own if row["kind"] == "train" and row["choice"] is not None]

    def progress(self) -> Progress:
        """The votes of the whole run and of this panelist so far."""
        status, done = self.status, int(self.own["done"])
        if status.state == "closed" and status.step is not None:
            done += len(StepVotes(self.site.ledger, status.step).counted)
        else:
            done += status.votes_in
        return Progress(
            done, max(status.votes_planned, done), self.own["given"], self.own["spent_s"]
        )

    def facts(self, *, begun: bool = False) -> Facts:
        """What the run still asks of this panelist; ``begun``: of the sheet they judged some."""
        study, sheets = self.study, int(self.own.get("sheets") or 0)
        asked = None if study is None else max(0, study.needed - study.votes)
        return read_facts(self.site, self.progress(), asked=asked, before=sheets - begun)

    def make_screen(self, state: State, **what: Any) -> Screen:
        what.setdefault("step", self.status.step)
        return Screen(
            state=state,
            name=self.name,
            status=redact_for_panelists(self.status),
            key=key(self.status, elsewhere=state == "other-tab"),
            study=self.study,
            rows=self.site.config.asks_rows,
            **what,
        )

    def make_reading_screen(
        self,
        state: State,
        row: Record,
        seat: Assignment | None = None,
        shows: Mapping[str, Any] = MappingProxyType({}),
        **what: Any,
    ) -> Screen:
        """The screen of a seat from its row; ``seat`` is given if it was just reserved."""
        seat, status, site = seat or assignment(row), self.status, self.site
        comparison = site.comparison(seat.comparison)
        assert comparison is not None, seat.comparison
        given = self.votes(row["step"]) if row["kind"] == "train" else []
        before = [each["assignment"] for each in given]
        fresh = status.state == "open" and not self.votes(status.step)
        answered = row.get("choice")
        notes = json.loads(row.get("details") or "{}").get("notes")
        return self.make_screen(
            state,
            seat=seat.id,
            paper=partial(sheet, [(comparison, seat)]),
            step=row["step"] if row["kind"] == "train" else status.step,
            number=1 + (before.index(seat.id) if seat.id in before else len(before)),
            chosen=answered,
            progress=self.progress(),
            lease_s=None if answered or state == "closed" else lease_s(site, seat.expires_us),
            shows={"notes": notes if isinstance(notes, dict) else {}, "fresh": fresh, **shows},
            **what,
        )

    def rows(self) -> Screen | None:
        """A sheet of rows: the one they change, the one they hold, or a new one; None without."""
        held, shown, open_ = self.held, self.shown, self.open_step
        if not self.site.config.asks_rows or open_ is None:
            return None
        own = [row for row in self.seats if row["kind"] == "train"]
        if (revised := self.revised) is not None:
            rows = [row for row in on_sheet(revised, own) if row["choice"]]
            return self._draw_sheet(rows, revised, revises=True, mode="revise")
        if held is not None and held["step"] == open_ and held["tab"] == self.tab:
            now = self.site.ledger.clock()  # the seats' leases are not renewed
            rows = [
                row
                for row in on_sheet(held, own)
                if row["choice"] or (row["released_us"] is None and row["expires_us"] > now)
            ]
            return self._draw_sheet(rows, held)
        most, study = self.site.config.sheet, self.study
        if study is not None:
            most = min(most, study.needed - study.votes)
        laid = self.site.service.sheet(self.panelist, most, tab=self.tab)
        served = {seat.id for seat in laid}
        if not served:
            return None
        _, seats = read_own_seats(self.site, self.panelist, open_)
        rows = [row for row in seats if row["assignment"] in served]
        left = shown is not None and shown["step"] != open_ and shown["choice"] is None
        return self._draw_sheet(
            rows, next(row for row in rows if not row["choice"]), notice="left" if left else None
        )

    def _draw_sheet(self, rows: Sequence[Record], at: Record, **what: Any) -> Screen:
        """The screen of a sheet's seats, beginning ``at`` one of them."""
        site, shown = self.site, []
        for row in rows:
            comparison = site.comparison(row["comparison"])
            assert comparison is not None, row["comparison"]
            shown.append((comparison, assignment(row)))
        waits = [row["expires_us"] for row in rows if not row["choice"]]
        given = self.votes(self.status.step)
        before = [row for row in given if row["sheet"] != at["sheet"]]
        again = what.get("revises")
        return self.make_screen(
            "sheet",
            seat=at["assignment"],
            paper=partial(sheet, shown),
            progress=self.progress(),
            facts=self.facts(begun=len(waits) < len(rows)),
            lease_s=lease_s(site, min(waits)) if waits else None,
            shows={
                "sheet": at["sheet"] or at["assignment"],
                "verdicts": {row["assignment"]: _verdict(row) for row in rows if row["choice"]},
                "undo": before[-1]["assignment"] if before and not again else None,
                "news": None if given or again else read_last_round(site.ledger),
            },
            **what,
        )

    def waiting(self) -> Screen:
        last = self.status.step or 0  # the panelist may have voted in the round before
        given = self.votes(last) or self.votes(last - 1)
        here = self.status.state == "open" and bool(given)
        answered = [
            {
                "seat": row["assignment"],
                "number": i,
                "choice": row["choice"],
                "rows": row["rows"],
                "at_us": row["received_us"],
            }
            for i, row in enumerate(_by_sheet(given), 1)
        ]
        return self.make_screen(
            "waiting",
            progress=self.progress(),
            shows={
                "answered": answered,
                "may_change": here and given[0]["step"] == self.status.step,
                "finals_left": _count_finals(self.site, self.panelist),
                "news": read_last_round(self.site.ledger),
            },
        )

    def welcome(self) -> Screen | None:
        if self.own["agreed"]:
            return None
        return self.make_screen("welcome", facts=self.facts(), shows={"moves": self.site.moves})

    def aside(self) -> Screen | None:
        if self.held is not None and is_elsewhere(self.site, self.held, self.tab):
            return self.make_screen("other-tab")
        return self.make_screen("break", mode="break") if self.mode == "break" else None

    def outside_training(self) -> Screen | None:
        held = self.held
        if held is None or held["kind"] != "final":
            return None
        if held["tab"] != self.tab:  # the seat's tab is closed, so this one may answer
            self.site.service.take(held["assignment"], self.tab)
        return self.make_reading_screen("final", held)

    def complete(self) -> Screen | None:
        if self.mode == "revise" or self.study is None or not self.study.finished:
            return None
        for row in [] if self.held is None else on_sheet(self.held, self.seats):
            if row["choice"] is None:
                self.site.service.release(row["assignment"])
        return self.make_screen("complete")

    def quiet(self) -> Screen | None:
        status = self.status
        if status.state not in ("paused", "none"):
            return None
        began = status.step or status.opened_us is not None  # a run that has not started is paused
        return self.make_screen("paused" if status.state == "paused" and began else "idle")

    def reading(self) -> Screen | None:
        """A comparison of batches: the one on the page, the one they hold, or a new one."""
        shown, held, open_ = self.shown, self.held, self.open_step
        if self.site.config.asks_rows:
            return None
        if shown is not None and shown["kind"] == "train":
            if shown["choice"] is None and shown["step"] != open_:
                closed = {"closed": _closing(self.site, shown["step"])}
                return self.make_reading_screen("closed", shown, shows=closed)
            if self.revised is not None:
                return self.make_reading_screen("vote", shown, revises=True, mode="revise")
        if self.status.state != "open":
            return None
        if held is not None and held["tab"] == self.tab:  # the seat's lease is not renewed
            return self.make_reading_screen("vote", held)
        if (seat := self.site.service.assign(self.panelist, tab=self.tab)) is None:
            return None
        return self.make_reading_screen("vote", {"kind": "train", "step": open_}, seat)

    def finished(self) -> Screen | None:
        if self.status.state != "finished":
            return None
        ledger, left = self.site.ledger, _count_finals(self.site, self.panelist)
        shows = {
            "finals_left": left,
            "finals_given": ledger.query(_FINALS_GIVEN, (self.panelist,))[0]["n"] if left else 0,
        }
        return self.make_screen("finished", progress=self.progress(), shows=shows)


def _verdict(row: Record) -> str:
    return HARMFUL if row["skip_reason"] == HARMFUL else str(row["choice"])


def _by_sheet(given: Sequence[Record]) -> list[Record]:
    """The last seat of each sheet, with its number of ``rows``; batches each for itself."""
    found: dict[str, Record] = {}
    for row in given:
        name = row["sheet"] or row["assignment"]
        found[name] = {**row, "rows": 1 + (found[name]["rows"] if name in found else 0)}
    return list(found.values())


def _closing(site: Site, step: int) -> dict[str, int]:
    row = site.ledger.step(step) or {}
    votes = StepVotes(site.ledger, step)
    have = len(votes.counted)
    at_us = row.get("closed_us") or site.ledger.clock()
    return {"at_us": at_us, "votes_in": have, "needed": have + votes.missing}


def _count_finals(site: Site, panelist: str) -> int:
    """Final comparisons that this panelist may still answer."""
    sql = "SELECT 1 FROM comparisons WHERE run = ? AND kind = 'final' LIMIT 1"
    if not site.ledger.query(sql, (site.ledger.run,)):
        return 0
    return blind.count_left(site.ledger, panelist, site.ledger.clock())


def read_facts(site: Site, progress: Progress, *, asked: int | None, before: int) -> Facts:
    """Collect the figures of what the run still asks."""
    people = site.ledger.query("SELECT count(*) AS n FROM panelists WHERE kind = 'person'")
    times = [row["spent_s"] for row in site.ledger.query(_TIMES)]
    measured = len(times) >= ENOUGH_TIMES
    longest = 60 * site.config.words_per_vote / WORDS_PER_MINUTE
    return Facts(
        progress=progress,
        people=int(people[0]["n"]),
        vote_s=median(times) if measured else longest,
        measured=measured,
        sheet=site.config.sheet,
        before=before,
        asked=asked,
    )


def read_own_seats(site: Site, panelist: str, step: int | None) -> tuple[Record, list[Record]]:
    """A panelist's counts, and their seats in a round and outside training, oldest first."""
    rows = site.ledger.query(_OWN, {"panelist": panelist, "run": site.ledger.run, "step": step})
    return rows[0], [row for row in rows if row["assignment"] is not None]


def seat_row(site: Site, panelist: str, seat: str) -> Record | None:
    """A seat of this panelist with its latest answer; None if it is not theirs."""
    found = casting.read_seat(site.ledger, seat, panelist)
    return found[-1] if found else None


def on_sheet(row: Record, seats: Sequence[Record]) -> list[Record]:
    """The seats that were shown at once with this one; a comparison of batches is alone."""
    together = [each for each in seats if row["sheet"] and each["sheet"] == row["sheet"]]
    return together or [row]


def find_held(site: Site, panelist: str, seats: Sequence[Record]) -> Record | None:
    """The unanswered seat they hold: first one outside training, then a round's."""
    now = site.ledger.clock()
    held = (
        row
        for row in seats
        if row["choice"] is None and row["released_us"] is None and row["expires_us"] > now
    )
    return min(held, key=lambda row: row["kind"] == "train", default=None)


def read_last_round(ledger: Ledger) -> dict[str, Any] | None:
    """The effect of the last round on the model; None if there is no round, or it had no votes.

    Panelists see this, so it never says which side or feature was preferred: that would influence
    their next votes. ``votes`` is the number that counted, ``people`` who cast them. ``pairs`` are
    pairs of votes on one comparison, without ties; in ``same`` of them both chose one side. Both
    are 0 if fewer than `PEOPLE` voted. ``moved`` compares the model's step with that of the round
    before: first, still, further or less.
    """
    rows = ledger.query(_ROUND)
    if not rows or not rows[0]["votes"]:
        return None
    last, moved = rows[0], [row["moved"] or 0.0 for row in rows]
    how = "first" if len(moved) == 1 else "further" if moved[0] > moved[1] else "less"
    told = last["people"] >= PEOPLE and last["pairs"]
    agreed = {} if told else {"same": 0, "pairs": 0}
    return {**last, **agreed, "moved": how if moved[0] else "still"}
