"""Which screen a panelist is on and what it shows: read from the ledger and the vote service.

`look` may reserve a seat for the panelist, which brings a comparison onto the screen; `glance`
only reads, for the poller. Nothing here knows HTML.

Its `Facts` decide whether people stay: how far they and the whole run are, what is asked of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import median
from typing import Any, Final, Literal

from szpo.analysis import taught
from szpo.ledger.database import Record
from szpo.training.budget import WORDS_PER_MINUTE
from szpo.training.status import RoundStatus, redact_for_panelists
from szpo.types import Assignment, Choice
from szpo.voting import finals, second_seats
from szpo.voting.counting import StepVotes
from szpo.voting.service import VoteService
from szpo_ui.languages.texts import choose_language
from szpo_ui.panel import last_round, own_seats
from szpo_ui.panel.comparison_view import Sheet, in_language, sheet
from szpo_ui.panel.last_round import LastRound
from szpo_ui.prolific import participants
from szpo_ui.prolific.participants import Standing
from szpo_ui.web.site import Site

State = Literal[
    "welcome", "practice", "feedback", "idle", "vote", "closed", "waiting", "calib", "final",
    "paused", "break", "other-tab", "finished", "complete", "error",
]  # fmt: skip
Mode = Literal["", "break", "revise", "practice"]

READING: Final[frozenset[State]] = frozenset({"vote", "closed", "calib", "final", "practice"})
"""States in which the panelist reads: the page changes only when it must."""
TAUGHT: Final = "taught shown"
"""The event that somebody who votes was shown what the votes taught."""
EXTRA: Final[Mapping[str, State]] = {
    "practice": "practice", "gold": "calib", "aa": "calib", "repeat": "calib", "final": "final",
    "second": "vote",
}  # fmt: skip
"""Screens of comparisons that are not for training, by kind."""


@dataclass(frozen=True, slots=True)
class PageState:
    """The state that a page reports: its tab, the seat it shows, the panelist's current mode."""

    tab: str
    seat: str | None = None
    mode: Mode = ""
    leave: bool = False
    """Leave the seat that is shown and go on to the next screen."""
    lang: str = ""
    """The code of the page's language."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of this round, listed for its panelist."""

    seat: str
    number: int
    choice: Choice
    at_us: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a round whose comparison the panelist was still reading."""

    at_us: int
    votes_in: int
    needed: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """The answer given in practice, and the expected one."""

    choice: Choice
    expected: Choice


@dataclass(frozen=True)
class Screen:
    """All that a page shows, and nothing else: no side's policy, no number of the algorithm."""

    state: State
    name: str
    status: RoundStatus
    key: str
    """Changes when a panelist who is reading must see something new."""
    seat: str | None = None
    paper: Callable[[], Sheet] | None = None
    """Makes the sheet, which takes a while: whoever holds the file need not wait for it."""
    step: int | None = None
    """The round that the sheet belongs to; on other screens the current one."""
    number: int = 1
    """Which of this round's comparisons it is for this panelist, from 1."""
    chosen: Choice | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    revises: bool = False
    second: bool = False
    """The seat is a second one, of no round (`szpo.voting.second_seats`)."""
    answered: tuple[Answered, ...] = ()
    may_change: bool = False
    lease_s: float | None = None
    closed: Closed | None = None
    fresh: bool = False
    """The open round is one that this panelist has not voted in yet; for a second seat, one that
    was opened while they read."""
    feedback: Feedback | None = None
    progress: Progress | None = None
    """On screens of voting and at the end: how far this panelist and the run are."""
    news: LastRound | None = None
    """While waiting: what the votes of the last round did."""
    facts: Facts | None = None
    """On the welcome screen: what is asked, by whom, for what."""
    calibration: bool = False
    """Waiting may be used for calibration."""
    final: bool = False
    """There is a blind final comparison that this panelist has not answered."""
    finals_given: int = 0
    """On the last screen: how many of them this panelist has answered."""
    lesson: str | None = None
    """What the votes taught, on the last screen; empty: it may be asked for."""
    notice: str | None = None
    """The code of a line above the screen (`szpo_ui.languages.texts.Language.notices`)."""
    mode: Mode = ""
    error: str | None = None
    study: Standing | None = None
    """How far a participant of a Prolific study is."""
    base: str = ""
    """What the site's paths begin with."""

    @cached_property
    def sheet(self) -> Sheet | None:
        """The comparison as it is shown; None on other screens."""
        return None if self.paper is None else self.paper()


Alive = Callable[[str, str], bool]
"""(panelist, tab) → whether that tab has sent a request lately."""


def look(site: Site, panelist: str, name: str, page: PageState, alive: Alive) -> Screen:
    """The screen as it stands now; seats the panelist where there is something to compare."""
    status = site.status.read()
    viewer = _Viewer(site, panelist, name, page, status)
    held = viewer.find_held() or own_seats.find_second(site, panelist)
    if not viewer.own["agreed"] and (held is None or held["kind"] != "practice"):
        return viewer.make_screen("welcome", facts=read_facts(site, viewer.progress()))
    if held is not None and _elsewhere(held, panelist, page, alive):
        return viewer.make_screen("other-tab")
    if page.mode == "break":
        return viewer.make_screen("break", mode="break")
    shown = own_seats.seat_row(site, panelist, page.seat) if page.seat and not page.leave else None
    if page.mode == "practice" and shown is not None and shown["kind"] == "practice":
        return viewer.make_reading_screen("practice", {**shown, "choice": None}, mode="practice")
    if held is not None and held["kind"] != "train":
        if held["tab"] != page.tab:  # its tab is closed, so this one may answer
            site.service.take(held["assignment"], page.tab)
        return viewer.make_reading_screen(EXTRA[held["kind"]], held)
    if page.mode != "revise" and viewer.has_finished():
        if held is not None:
            site.service.release(held["assignment"])
        return viewer.make_screen("complete")
    if status.state == "paused":  # a run that waits for its start is paused too
        began = status.step or status.opened_us is not None
        return viewer.make_screen("paused" if began else "idle")
    if shown is not None and shown["kind"] == "train":
        if shown["choice"] is None and shown["step"] != _open(status):
            return viewer.make_reading_screen(
                "closed", shown, closed=_closing(site, shown["step"])
            )
        if page.mode == "revise" and shown["choice"] and shown["step"] == _open(status):
            return viewer.make_reading_screen("vote", shown, revises=True, mode="revise")
    if status.state == "open":
        seat = _seat(site.service, panelist, page.tab, held)
        if seat is not None:
            row = own_seats.seat_row(site, panelist, seat.id)
            assert row is not None, seat.id
            return viewer.make_reading_screen("vote", row)
        return viewer.make_second_screen() or viewer.make_waiting_screen(change=True)
    if status.state == "finished":
        final = _final_left(site, panelist)
        return viewer.make_screen(
            "finished",
            progress=viewer.progress(),
            final=final,
            finals_given=site.ledger.query(_FINALS_GIVEN, (panelist,))[0]["n"] if final else 0,
            lesson=None if final else _lesson(site, panelist),
        )
    if status.state == "none":
        return viewer.make_screen("idle")
    return viewer.make_second_screen() or viewer.make_waiting_screen(change=False)


def elsewhere(site: Site, panelist: str, name: str) -> Screen:
    """The screen of a tab that is not the active one."""
    return _Viewer(site, panelist, name, PageState(""), site.status.read()).make_screen(
        "other-tab"
    )


def take_over(site: Site, panelist: str, tab: str) -> None:
    """Make this the panelist's active tab, without renewing any lease."""
    held = _Viewer(site, panelist, "", PageState(tab), site.status.read()).find_held()
    if held is not None:
        site.service.take(held["assignment"], tab)


def glance(site: Site, panelist: str, page: PageState, alive: Alive) -> dict[str, Any]:
    """What the poller needs, without reserving a seat: two keys and the live numbers."""
    status = site.status.read()
    row = own_seats.seat_row(site, panelist, page.seat) if page.seat else None
    other = row is not None and row["choice"] is None and _elsewhere(row, panelist, page, alive)
    return {
        "version": status.version,
        "key": key(status, elsewhere=other),
        "state": status.state,
        "round": None if status.step is None else status.step + 1,
        "votes_in": status.votes_in,
        "votes_needed": status.votes_needed,
        "lease_s": None if row is None else lease_s(site, row),
    }


def key(status: RoundStatus, *, elsewhere: bool = False) -> str:
    """The key that the poller compares while a panelist reads.

    It holds no counts, so that votes of others do not redraw the page.
    """
    return "elsewhere" if elsewhere else f"{status.state}.{status.step}"


def consented(site: Site, panelist: str) -> bool:
    """Whether the ledger has an event with which the panelist agreed to take part."""
    return bool(_read_own(site, panelist)["agreed"])


def lease_s(site: Site, row: Record) -> float | None:
    """Seconds for which an unanswered seat of an open round is still held, at least 0."""
    if row["choice"] is not None:
        return None
    left_us: int = max(0, row["expires_us"] - site.clock())
    return round(left_us / 1e6, 1)


def read_assignment(row: Record) -> Assignment:
    """A row of the ledger as the vote service's `Assignment`."""
    return Assignment(
        row["assignment"], row["comparison"], row["panelist"], row["plus_side"],
        tuple(json.loads(row["prompt_order"])), row["expires_us"],
    )  # fmt: skip


def expected_choice(row: Record) -> Choice:
    """The expected answer of a practice comparison, as a letter on this seat's screen."""
    want = row["expected"]
    if want not in {"plus", "minus"}:
        return "tie"
    return "A" if (want == "plus") == (row["plus_side"] == "A") else "B"


@dataclass(frozen=True)
class _Viewer:
    """A panelist and the state of the page: what every screen is made from, each read once."""

    site: Site
    panelist: str
    name: str
    page: PageState
    status: RoundStatus

    @cached_property
    def seats(self) -> list[Record]:
        """Their seats of this round, and those outside training."""
        return own_seats.read_seats(self.site, self.panelist, self.status.step)

    @cached_property
    def own(self) -> Record:
        """Their figures, and whether they agreed."""
        return _read_own(self.site, self.panelist)

    def find_held(self) -> Record | None:
        return own_seats.find_held_seat(self.seats, self.site.clock())

    def answers(self, step: int | None) -> list[Record]:
        """Their answers of a round, in the order of the first showing."""
        if step == self.status.step:
            return own_seats.answers(self.seats)
        return own_seats.answers(own_seats.read_seats(self.site, self.panelist, step))

    def progress(self) -> Progress:
        return read_progress(self.site, self.own, self.status)

    def make_screen(self, state: State, **what: Any) -> Screen:
        what.setdefault("step", self.status.step)
        return Screen(
            state=state,
            name=self.name,
            status=redact_for_panelists(self.status),
            key=key(self.status, elsewhere=state == "other-tab"),
            study=self.study(),
            base=self.site.prefix,
            **what,
        )

    def study(self) -> Standing | None:
        site = self.site
        return participants.standing(site.ledger, self.panelist, site.config.prolific, self.status)

    def has_finished(self) -> bool:
        found = self.study()
        return found is not None and found.finished

    def make_reading_screen(self, state: State, row: Record, **what: Any) -> Screen:
        comparison = self.site.comparison(row["comparison"])
        assert comparison is not None, row["comparison"]
        given = self.answers(row["step"]) if row["kind"] == "train" else []
        before = [seat for seat in given if seat["assignment"] != row["assignment"]]
        details = json.loads(row["details"] or "{}")
        language = choose_language(self.page.lang, None)
        return self.make_screen(
            state,
            seat=row["assignment"],
            paper=partial(sheet, in_language(comparison, language), read_assignment(row)),
            step=row["step"] if row["kind"] == "train" else self.status.step,
            number=next(
                (i for i, s in enumerate(given, 1) if s["assignment"] == row["assignment"]),
                len(before) + 1,
            ),
            chosen=row["choice"],
            second=row["kind"] == "second",
            notes=details.get("notes", {}),
            fresh=self.is_new_round() and (row["kind"] != "second" or self.opened_since(row)),
            progress=self.progress(),
            lease_s=None if state == "closed" else lease_s(self.site, row),
            **what,
        )

    def make_second_screen(self) -> Screen | None:
        """What somebody else has answered, where this panelist is to be asked too; it may seat."""
        share = self.site.config.panel.second_share
        if share and second_seats.serve(
            self.site.service, self.panelist, share, tab=self.page.tab
        ):
            found = own_seats.find_second(self.site, self.panelist)
            return None if found is None else self.make_reading_screen("vote", found)
        return None

    def opened_since(self, row: Record) -> bool:
        return bool((self.status.opened_us or 0) > row["served_us"])

    def is_new_round(self) -> bool:
        step = _open(self.status)
        return step is not None and not self.answers(step)

    def make_waiting_screen(self, *, change: bool) -> Screen:
        last = self.status.step or 0  # they may have voted in the round before
        given = self.answers(last) or self.answers(last - 1)
        here = change and bool(given) and given[0]["step"] == self.status.step
        return self.make_screen(
            "waiting",
            may_change=here,
            calibration=self.site.config.panel.calibration,
            final=_final_left(self.site, self.panelist),
            step=self.status.step,
            progress=self.progress(),
            news=last_round.read(self.site.ledger) if self.site.config.panel.tell_rounds else None,
            answered=tuple(
                Answered(row["assignment"], i, row["choice"], row["received_us"])
                for i, row in enumerate(given, 1)
            ),
        )


def show_taught(site: Site, panelist: str) -> None:
    """Record that a panelist asked what the votes taught, where their last screen offers it."""
    over = site.status.read().state == "finished"
    if over and not _final_left(site, panelist) and _lesson(site, panelist) == "":
        site.ledger.record_event(TAUGHT, panelist, {"panelist": panelist})


def _lesson(site: Site, panelist: str) -> str | None:
    """What the votes taught, in English; empty until this panelist asks, None where not offered.

    Whoever has a blind comparison left is offered nothing.
    """
    if not site.config.panel.tell_taught or (lesson := taught.read(site.ledger)) is None:
        return None
    asked = "SELECT 1 FROM events WHERE kind = ? AND actor = ? LIMIT 1"
    return str(lesson) if site.ledger.query(asked, (TAUGHT, panelist)) else ""


def _open(status: RoundStatus) -> int | None:
    return status.step if status.state == "open" else None


def _seat(service: VoteService, panelist: str, tab: str, held: Record | None) -> Assignment | None:
    """The seat that is held, without renewing its lease, or a new one from the service."""
    if held is not None and held["tab"] == tab:
        return read_assignment(held)
    return service.assign(panelist, tab=tab)


def _elsewhere(row: Record, panelist: str, page: PageState, alive: Alive) -> bool:
    return row["tab"] not in (None, page.tab) and alive(panelist, row["tab"])


def _closing(site: Site, step: int) -> Closed:
    row = site.ledger.step(step) or {}
    votes = StepVotes(site.ledger, step)
    have = len(votes.counted)
    return Closed(row.get("closed_us") or site.clock(), have, have + votes.missing)


def _final_left(site: Site, panelist: str) -> bool:
    """There is a final comparison for this panelist."""
    sql = "SELECT 1 FROM comparisons WHERE run = ? AND kind = 'final' LIMIT 1"
    if not site.ledger.query(sql, (site.ledger.run,)):
        return False
    return finals.choose(site.ledger, panelist, site.clock()) is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """How many comparisons one panelist has answered, and how many all of them have."""

    done: int
    """Votes that count, of the whole run."""
    planned: int
    """Votes that the run is planned to take."""
    given: int = 0
    """Votes of this panelist that came in time, skips left out."""
    spent_s: float = 0.0
    """How long this panelist had comparisons before them, seconds."""

    @property
    def left(self) -> int:
        """Votes that are still needed.

        >>> Progress(41, 240).left, Progress(12, 10).left
        (199, 0)
        """
        return max(0, self.planned - self.done)


@dataclass(frozen=True, slots=True)
class Facts:
    """What somebody wants to know before agreeing; None where the settings give nothing."""

    progress: Progress
    people: int
    """Persons invited so far, this one included."""
    vote_s: float
    """Seconds that a comparison takes: what people took, or the longest by the settings."""
    who: str | None
    contact: str | None
    pay: str | None
    ends: str | None
    """An ISO date."""
    privacy_url: str | None
    consent: str | None
    """The operator's own consent text."""
    second: bool = False
    """Some comparisons are shown to one more person."""
    measured: bool = False
    """`vote_s` is what people took."""

    @property
    def share(self) -> int:
        """This panelist's part of the votes that are left, if all take equal parts."""
        return math.ceil(self.progress.left / max(1, self.people))

    @property
    def share_s(self) -> float:
        """Seconds that that part takes."""
        return self.share * self.vote_s


_SPENT_S: Final = (
    "max(0, min(coalesce(v.dwell_ms, 1e15), (v.received_us - a.served_us) / 1e3)) / 1e3"
)
"""Seconds a vote took: the page's time counts up to that since the texts were served."""
_OWN: Final = f"""
SELECT (SELECT coalesce(sum(n_votes), 0) FROM updates) AS done,
  coalesce(sum(v.choice <> 'skip' AND v.late = 0), 0) AS given,
  coalesce(sum({_SPENT_S}), 0) AS spent_s,
  EXISTS (SELECT 1 FROM events WHERE kind = 'consent' AND actor = ?) AS agreed
FROM assignments a JOIN comparisons c USING (comparison)
JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
WHERE a.panelist = ? AND c.kind = 'train'
"""
_FINALS_GIVEN: Final = """
SELECT count(*) AS n FROM assignments a JOIN comparisons c USING (comparison)
JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
WHERE a.panelist = ? AND c.kind = 'final'
"""
_TIMES: Final = f"""
SELECT {_SPENT_S} AS spent_s
FROM assignments a JOIN comparisons c USING (comparison) JOIN panelists p USING (panelist)
JOIN votes v ON v.assignment = a.assignment AND v.revision = 0
WHERE c.kind = 'train' AND p.kind = 'person' AND v.choice <> 'skip'
"""
ENOUGH_TIMES: Final = 10
"""Votes of people from which their median time is told."""


def _read_own(site: Site, panelist: str) -> Record:
    return site.ledger.query(_OWN, (panelist, panelist))[0]


def read_progress(site: Site, own: Record, status: RoundStatus) -> Progress:
    """A panelist's figures beside the votes of the run as they stand now."""
    config, ledger = site.config, site.ledger
    done = int(own["done"])
    if status.state == "closed" and status.step is not None:
        done += len(StepVotes(ledger, status.step).counted)
    else:
        done += status.votes_in
    planned = status.rounds * config.votes_per_step
    return Progress(done, max(planned, done), own["given"], own["spent_s"])


def read_facts(site: Site, progress: Progress) -> Facts:
    """Collect what the welcome page says about the run."""
    settings = site.config.panel
    people = site.ledger.query("SELECT count(*) AS n FROM panelists WHERE kind = 'person'")
    times = [row["spent_s"] for row in site.ledger.query(_TIMES)]
    measured = len(times) >= ENOUGH_TIMES
    longest = 60 * site.config.words_per_vote / WORDS_PER_MINUTE
    return Facts(
        progress=progress,
        people=int(people[0]["n"]),
        vote_s=median(times) if measured else longest,
        measured=measured,
        who=settings.operator_name,
        contact=settings.contact,
        pay=settings.pay,
        ends=settings.ends,
        privacy_url=settings.privacy_url,
        consent=settings.consent,
        second=settings.second_share > 0,
    )
