"""What is done on the panelist's page: a request, checked; its deed; the screen that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from szpo.errors import UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Choice
from szpo.voting import casting
from szpo.voting.casting import VoteConflictError, VoteRequest
from szpo.voting.service import SeatKind
from szpo_ui.panel import screens, texts
from szpo_ui.panel.comparison_view import sheet
from szpo_ui.panel.screens import Alive, Ask, Feedback, Mode, Screen
from szpo_ui.web.site import Site

Do = Literal[
    "open", "look", "vote", "agree", "agree-practice", "practice", "break", "back", "calibrate",
    "final", "leave", "go", "keep", "revise", "use-tab",
]  # fmt: skip
Word = Field(pattern=r"^[A-Za-z0-9_.:-]*$", max_length=64)


class VoteForm(BaseModel):
    """A verdict as the page sends it; what the server knows itself is not taken from here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    choice: Choice
    idem: str = Word
    reason: str | None = Field(None, pattern="^(language|content|display|other)$")
    report: bool = False
    dwell_ms: int = Field(ge=0, lt=2**40)
    notes: dict[str, Literal["A", "tie", "B"]] = Field({}, max_length=4096)
    seen: int = Field(ge=0, le=4096)
    marks: bool = False
    device: Literal["wide", "stacked"] = "wide"


class Action(BaseModel):
    """Something done on the page."""

    model_config = ConfigDict(extra="forbid", strict=True)

    do: Do
    ack: str = Word
    tab: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    seat: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    mode: Mode = ""
    ballot: VoteForm | None = None


def act(site: Site, panelist: str, name: str, action: Action, alive: Alive) -> Screen:
    """Do what a page asks for, then look.

    Raises:
        UsageError: a seat that is not this panelist's, or a ballot without one.
    """
    ask = Ask(action.tab, action.seat, action.mode)
    notice: str | None = None
    match action.do:
        case "vote":
            return _vote(site, panelist, name, action, alive)
        case "agree" | "agree-practice":
            _agree(site, panelist)
        case "break":
            _release(site, panelist, action.seat)
            ask = dataclasses.replace(ask, mode="break", seat=None)
        case "leave":
            _release(site, panelist, action.seat)
            ask = dataclasses.replace(ask, leave=True, mode="")
        case "back" | "go":
            ask = dataclasses.replace(ask, leave=True, mode="")
        case "keep":
            ask, notice = dataclasses.replace(ask, leave=True, mode=""), texts.NOTICES["kept"]
        case "revise":
            ask = dataclasses.replace(ask, mode="revise")
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
            notice = texts.NOTICES["none_left" if kind == "calibration" else "no_final"]
        elif kind == "practice":
            ask = dataclasses.replace(ask, seat=seat.id, mode="practice")
    screen = screens.look(site, panelist, name, ask, alive)
    return dataclasses.replace(screen, notice=notice) if notice else screen


_EXTRA: Final[Mapping[Do, SeatKind]] = {
    "agree-practice": "practice", "practice": "practice", "calibrate": "calibration",
    "final": "final",
}  # fmt: skip
"""Deeds that ask for a comparison outside training."""


def _vote(site: Site, panelist: str, name: str, action: Action, alive: Alive) -> Screen:
    form, row = action.ballot, screens.seat_row(site, panelist, action.seat or "")
    if form is None or row is None:
        raise UsageError("vote: there is no such comparison for this panelist")
    notice = texts.NOTICES["skipped"] if form.choice == "skip" else None
    try:
        receipt = _cast(site, panelist, row, action.tab, form)
    except VoteConflictError as conflict:
        if conflict.code == "stale_tab":
            return screens.elsewhere(site, panelist, name)
        notice = texts.NOTICES[_REFUSED.get(conflict.code) or _CLOSED.get(row["kind"], "once")]
    else:
        if row["kind"] == "practice":
            feedback = Feedback(form.choice, screens.expected(row))
            screen = screens.look(site, panelist, name, Ask(action.tab), alive)
            return dataclasses.replace(
                screen, state="feedback", feedback=feedback, sheet=None, seat=None
            )
        if row["kind"] != "train":
            notice = notice or texts.NOTICES["thanks"]
        elif receipt.late:
            notice = texts.NOTICES["late"]
    screen = screens.look(site, panelist, name, Ask(action.tab), alive)
    return dataclasses.replace(screen, notice=notice)


_REFUSED: Final = {"changed_often": "often", "key_reused": "reused"}
_CLOSED: Final = {"train": "closed", "final": "final_closed"}
"""Notices of an answer that is not taken, by its code and by what has closed."""


def _cast(
    site: Site, panelist: str, row: dict[str, Any], tab: str, form: VoteForm
) -> casting.Receipt:
    """Store the verdict, or find it stored.

    Raises:
        VoteConflictError: what `VoteService.cast` refuses.
    """
    details = _details(site, row, form)

    def cast(fast: bool) -> casting.Receipt:
        return site.service.cast(
            VoteRequest(
                row["assignment"],
                form.choice,
                idem=form.idem,
                skip_reason=form.reason,
                dwell_ms=form.dwell_ms,
                details={**details, "fast": fast},
                tab=tab,
                panelist=panelist,
            )
        )

    try:
        return cast(details["fast"])
    except VoteConflictError as conflict:
        if conflict.code != "key_reused":
            raise
        # The one mark that the page did not send: on another clock it may have come out otherwise.
        return cast(not details["fast"])


def _details(site: Site, row: dict[str, Any], form: VoteForm) -> dict[str, Any]:
    """What is kept beside a vote; but for ``fast`` the same whenever the same form is sent."""
    comparison = site.ledger.comparison(row["comparison"])
    assert comparison is not None, row["comparison"]
    shown = sheet(comparison, screens.of_row(row))
    rows = {str(pair.row) for pair in shown.pairs}
    # A page may say what it likes; nobody has read for longer than they had the texts. Where the
    # clock was set back meanwhile, it does not tell for how long that was.
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
    if form.report:
        details["report"] = True
    return details


def _agree(site: Site, panelist: str) -> None:
    if not screens.consented(site, panelist):
        told = sha256(canonical(texts.PAGE["consent"]))
        site.ledger.record_event("consent", panelist, {"panelist": panelist, "text": told})


def _take(site: Site, panelist: str, action: Action) -> None:
    """The tab that changes a vote is the one that may."""
    row = screens.seat_row(site, panelist, action.seat or "")
    if row is not None and row["tab"] != action.tab:
        site.service.take(row["assignment"], action.tab)


def _release(site: Site, panelist: str, seat: str | None) -> None:
    """Give an unanswered seat of this panelist back."""
    row = screens.seat_row(site, panelist, seat) if seat else None
    if row is not None and row["choice"] is None:
        site.service.release(row["assignment"])


def _nobody(panelist: str, tab: str) -> bool:
    return False
