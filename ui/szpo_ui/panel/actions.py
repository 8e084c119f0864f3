"""Actions of the panelist's page: validate a request, carry it out, return the next screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from szpo.errors import UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Choice
from szpo.voting import casting, second_seats
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.service import SeatKind
from szpo_ui.languages import texts
from szpo_ui.panel import own_seats, screens
from szpo_ui.panel.comparison_view import in_language, sheet
from szpo_ui.panel.screens import Alive, Feedback, Mode, PageState, Screen
from szpo_ui.prolific import participants
from szpo_ui.web.site import Site

Do = Literal[
    "open", "look", "vote", "agree", "agree-practice", "practice", "break", "back", "calibrate",
    "final", "leave", "go", "keep", "revise", "use-tab", "taught",
]  # fmt: skip
Word = Field(pattern=r"^[A-Za-z0-9_.:-]*$", max_length=64)


class VoteForm(BaseModel):
    """A vote as the page sends it; facts that the server knows itself are not read from it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    choice: Choice
    idem: str = Word
    reason: str | None = Field(None, pattern="^(language|content|display|other)$")
    report: bool = False
    dwell_ms: int = Field(ge=0, lt=2**40)
    notes: dict[str, Literal["A", "tie", "B"]] = Field({}, max_length=4096)
    seen: int = Field(ge=0, le=4096)
    marks: bool = False
    view: Literal["formatted", "plain"] | None = None
    device: Literal["wide", "stacked"] = "wide"


class Action(BaseModel):
    """One action of a panelist, as the page sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    do: Do
    ack: str = Word
    tab: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    seat: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    mode: Mode = ""
    lang: str = Field("", pattern=r"^[a-z]{0,8}$")
    """The code of the language that the reader has chosen; empty: what their browser prefers."""
    ballot: VoteForm | None = None


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
    form, row = action.ballot, own_seats.seat_row(site, panelist, action.seat or "")
    if form is None or row is None:
        raise UsageError("vote: there is no such comparison for this panelist")
    page = PageState(action.tab, lang=action.lang)
    notice = "skipped" if form.choice == "skip" else None
    try:
        receipt = _cast(site, panelist, row, action, form)
    except VoteConflictError as conflict:
        if conflict.code == "stale_tab":
            return screens.elsewhere(site, panelist, name)
        notice = _REFUSALS.get(conflict.code) or _CLOSED.get(row["kind"], "once")
    else:
        if row["kind"] == "practice":
            feedback = Feedback(form.choice, screens.expected_choice(row))
            screen = screens.look(site, panelist, name, page, alive)
            return dataclasses.replace(
                screen, state="feedback", feedback=feedback, sheet=None, seat=None
            )
        if row["kind"] != "train":
            notice = notice or "thanks"
        elif receipt.late and not second_seats.is_second(site.ledger, row["assignment"]):
            notice = "late"
    screen = screens.look(site, panelist, name, page, alive)
    return dataclasses.replace(screen, notice=notice)


_REFUSALS: Final = {"changed_often": "often", "key_reused": "reused"}
_CLOSED: Final = {"train": "closed", "final": "final_closed"}
"""Notices for an answer that is refused, by its code and by the kind that has closed."""


def _cast(
    site: Site, panelist: str, row: dict[str, Any], action: Action, form: VoteForm
) -> casting.Receipt:
    """Store the vote, or find that it is stored.

    Raises:
        VoteConflictError: what `VoteService.cast` refuses.
    """
    details = _details(site, row, form, texts.choose_language(action.lang, None))

    def cast(fast: bool) -> casting.Receipt:
        return site.service.cast(
            VoteRequest(
                row["assignment"],
                form.choice,
                idem=form.idem,
                skip_reason=form.reason,
                dwell_ms=form.dwell_ms,
                details={**details, "fast": fast},
                tab=action.tab,
                panelist=panelist,
            )
        )

    try:
        return cast(details["fast"])
    except VoteConflictError as conflict:
        if conflict.code != "key_reused":
            raise
        # ``fast`` is the one detail that the page did not send: the first time the clock may have
        # given the other value.
        return cast(not details["fast"])


def _details(
    site: Site, row: dict[str, Any], form: VoteForm, language: texts.Language
) -> dict[str, Any]:
    """The details stored with a vote; all but ``fast`` depend on the form alone."""
    comparison = site.ledger.comparison(row["comparison"])
    assert comparison is not None, row["comparison"]
    read = in_language(comparison, language)
    shown = sheet(read, screens.read_assignment(row))
    rows = {str(pair.row) for pair in shown.pairs}
    # The page's reading time is not trusted: at most the time since the texts were served counts.
    # A negative time means that the clock was set back; then that bound is unknown.
    had_ms = (site.clock() - row["served_us"]) / 1000
    read_ms = form.dwell_ms if had_ms < 0 else min(form.dwell_ms, had_ms)
    details: dict[str, Any] = {
        "notes": {i: note for i, note in sorted(form.notes.items()) if i in rows},
        "rows": len(shown.pairs),
        "seen": min(form.seen, len(shown.pairs)),
        "words": shown.words,
        "similarity": shown.similarity,
        "fast": form.choice != "skip" and read_ms < 1000 * shown.gate_s,
        "marks": form.marks,
        "device": form.device,
    }
    if shown.formatted and form.view is not None:
        details["view"] = form.view
    if form.report:
        details["report"] = True
    if read is not comparison:
        details["language"] = language.code
    return details


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
