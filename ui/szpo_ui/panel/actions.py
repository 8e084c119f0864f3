"""Actions of the panelist's page: validate a request, carry it out, return the next screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from szpo.errors import UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Record
from szpo.voting import casting, second_seats
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.service import SeatKind
from szpo_ui.languages import texts
from szpo_ui.panel import own_seats, screens
from szpo_ui.panel.comparison_view import gate_s, in_language, words_to_read
from szpo_ui.panel.screens import Alive, Feedback, Mode, PageState, Screen
from szpo_ui.prolific import participants
from szpo_ui.web.requests import Ballot, Body
from szpo_ui.web.site import Site

Do = Literal[
    "open", "look", "vote", "agree", "agree-practice", "practice", "break", "back", "calibrate",
    "final", "leave", "go", "keep", "revise", "use-tab", "taught",
]  # fmt: skip
Reason = Literal["language", "content", "display", "other"]


class Details(Body):
    """What the page knows of how a vote came about."""

    notes: dict[str, Literal["A", "tie", "B"]] = Field({}, max_length=4096)
    seen: int = Field(0, ge=0, le=4096)
    marks: bool = False
    device: Literal["wide", "stacked"] = "wide"
    view: Literal["formatted", "plain"] | None = None
    report: Literal[True] | None = None


class PageBallot(Ballot):
    """A vote as the page sends it; facts that the server knows itself are not read from it."""

    skip_reason: Reason | None = None
    details: Details = Details()


class At(Body):
    """Where a page is: its tab, and the seat that it shows."""

    tab: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    seat: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")


class Action(At):
    """One action of a panelist, as the page sends it."""

    do: Do
    mode: Mode = ""
    lang: str = Field("", pattern=r"^[a-z]{0,8}$")
    """The code of the language that the reader has chosen; empty: what their browser prefers."""
    ballot: PageBallot | None = None


def act(site: Site, panelist: str, name: str, action: Action, alive: Alive) -> Screen:
    """Carry out an action, then return the next screen.

    Raises:
        UsageError: a seat that is not this panelist's, or a ballot without one.
    """
    page = PageState(action.tab, action.seat, action.mode, lang=action.lang)
    notice: str | None = None
    match action.do:
        case "vote":
            return _vote(site, panelist, name, action, alive)
        case "agree" | "agree-practice":
            _agree(site, panelist, action.lang)
        case "taught":
            screens.show_taught(site, panelist)
        case "break":
            _release(site, panelist, action.seat)
            page = dataclasses.replace(page, mode="break", seat=None)
        case "leave":
            _release(site, panelist, action.seat)
            page = dataclasses.replace(page, leave=True, mode="")
        case "back" | "go":
            page = dataclasses.replace(page, leave=True, mode="")
        case "keep":
            page, notice = dataclasses.replace(page, leave=True, mode=""), "kept"
        case "revise":
            page = dataclasses.replace(page, mode="revise")
            _take(site, panelist, action)
        case "use-tab":
            alive = _nobody
            screens.take_over(site, panelist, action.tab)
        case _:
            pass
    kind = _EXTRA.get(action.do)
    if kind is not None:
        seat = site.service.ask(kind, panelist, tab=action.tab)
        if seat is None:
            notice = "none_left" if kind == "calibration" else "no_final"
        elif kind == "practice":
            page = dataclasses.replace(page, seat=seat.id, mode="practice")
    screen = screens.look(site, panelist, name, page, alive)
    return dataclasses.replace(screen, notice=notice) if notice else screen


_EXTRA: Final[Mapping[Do, SeatKind]] = {
    "agree-practice": "practice", "practice": "practice", "calibrate": "calibration",
    "final": "final",
}  # fmt: skip
"""Actions that ask for a comparison outside training."""


def _vote(site: Site, panelist: str, name: str, action: Action, alive: Alive) -> Screen:
    """Store a vote and find the next screen, in one transaction."""
    with site.ledger.transaction("votes"):
        ballot = action.ballot
        seat = ballot and casting.read_seat(site.ledger, ballot.assignment, panelist)
        if not ballot or not seat:
            raise UsageError("vote: there is no such comparison for this panelist")
        row, late, refused = seat[-1], False, None
        try:
            late = site.service.store(_request(site, row, ballot, action.lang), seat).late
        except VoteConflictError as conflict:
            if conflict.code == "stale_tab":
                return screens.elsewhere(site, panelist, name)
            refused = _REFUSALS.get(conflict.code) or _CLOSED.get(row["kind"], "once")
        page = PageState(action.tab, lang=action.lang)
        screen = screens.look(site, panelist, name, page, alive)
        if row["kind"] == "practice" and refused is None:
            feedback = Feedback(ballot.choice, screens.expected_choice(row))
            return dataclasses.replace(
                screen, state="feedback", feedback=feedback, paper=None, seat=None
            )
        told = None if row["kind"] == "train" else "thanks"
        if ballot.choice == "skip":
            told = "skipped"
        late = late and row["kind"] == "train"
        if late and not second_seats.is_second(site.ledger, row["assignment"]):
            told = "late"
        return dataclasses.replace(screen, notice=refused or told)


_REFUSALS: Final = {"changed_often": "often", "key_reused": "reused"}
_CLOSED: Final = {"train": "closed", "final": "final_closed"}
"""Notices for an answer that is refused, by its code and by the kind that has closed."""


def _request(site: Site, row: Record, ballot: PageBallot, lang: str) -> VoteRequest:
    """The vote with what the server adds: how much there was to read, and whether it was fast."""
    stored, language = site.comparison(row["comparison"]), texts.choose_language(lang, None)
    assert stored is not None, row["comparison"]
    read = in_language(stored, language)
    rows = {str(i) for i, each in enumerate(read.rows) if not each.identical}
    words = words_to_read(read)
    # The page's reading time is not trusted: at most the time since the texts were served counts.
    # A negative time means that the clock was set back; then that bound is unknown.
    had_ms, read_ms = (site.clock() - row["served_us"]) / 1000, ballot.dwell_ms or 0
    read_ms = read_ms if had_ms < 0 else min(read_ms, had_ms)
    fast = ballot.choice != "skip" and read_ms < 1000 * gate_s(words)
    noted = {} if read is stored else {"language": language.code}
    details = ballot.details.model_dump(exclude_none=True)
    details["notes"] = {i: note for i, note in details["notes"].items() if i in rows}
    details["seen"] = min(details["seen"], len(rows))
    return ballot.request(
        row["panelist"], details, rows=len(rows), words=words, fast=fast, **noted
    )


def _agree(site: Site, panelist: str, code: str) -> None:
    """Record that a panelist agreed, with the wording that stood on their screen."""
    if not screens.consented(site, panelist):
        language = texts.choose_language(code, None)
        chosen, status = site.config.prolific, site.status.read()
        wording = language.consent(site.config.panel.second_share > 0)
        if participants.standing(site.ledger, panelist, chosen, status) is not None:
            wording = [*wording, language.page["study_consent"]]
        digest = sha256(canonical(wording))
        body = {"panelist": panelist, "text": digest, "language": language.code}
        if site.config.panel.consent is not None:
            body["own"] = sha256(canonical(site.config.panel.consent))
        site.ledger.record_event("consent", panelist, body)


def _take(site: Site, panelist: str, action: Action) -> None:
    """Move a seat to this tab, as only the tab that holds a seat may change its vote."""
    row = own_seats.seat_row(site, panelist, action.seat or "")
    if row is not None and row["tab"] != action.tab:
        site.service.take(row["assignment"], action.tab)


def _release(site: Site, panelist: str, seat: str | None) -> None:
    """Give an unanswered seat of this panelist back."""
    row = own_seats.seat_row(site, panelist, seat) if seat else None
    if row is not None and row["choice"] is None:
        site.service.release(row["assignment"])


def _nobody(panelist: str, tab: str) -> bool:
    return False
