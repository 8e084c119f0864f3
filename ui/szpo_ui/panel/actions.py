"""Actions of the panelist's page: validate a request, carry it out, return the next screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from szpo.errors import UsageError
from szpo.ledger.database import Record
from szpo.voting import panelists, remarks
from szpo.voting.casting import VoteConflictError
from szpo.voting.service import SeatKind
from szpo_ui.panel import own_seats, screens
from szpo_ui.panel.screens import Mode, Screen
from szpo_ui.web import open_link
from szpo_ui.web.ballots import At, Ballot, cast
from szpo_ui.web.site import Site

Do = Literal[
    "open", "look", "vote", "agree", "break", "back", "calibrate", "final", "leave", "go", "keep",
    "revise", "use-tab",
]  # fmt: skip


class Action(At):
    """One action of a panelist, as the page sends it."""

    do: Do
    mode: Mode = ""
    ballot: Ballot | None = None
    decided: str | None = Field(None, max_length=remarks.LONGEST)
    """What decided on the sheet that the panelist leaves, in their words."""


def act(site: Site, panelist: str, name: str, action: Action) -> Screen:
    """Carry out an action, then return the next screen."""
    seat, mode = action.seat, action.mode
    notice: str | None = None
    if action.decided is not None and panelists.has_agreed(site.ledger, panelist):
        remarks.record(site.ledger, panelist, action.decided)
    match action.do:
        case "vote":
            return _vote(site, panelist, name, action)
        case "agree":
            _agree(site, panelist)
        case "break" | "leave":
            _release(site, panelist, action.seat)
            seat, mode = None, "break" if action.do == "break" else ""
        case "back" | "go" | "keep":
            seat, mode, notice = None, "", "kept" if action.do == "keep" else None
        case "revise":
            mode = "revise"
            _take(site, panelist, action)
        case "use-tab":
            screens.take_over(site, panelist, action.tab)
        case _:
            pass
    kind = _EXTRA.get(action.do)
    if kind is not None and site.service.ask(kind, panelist, tab=action.tab) is None:
        notice = "none_left" if kind == "calibration" else "no_final"
    screen = screens.look(site, panelist, name, action.tab, seat, mode)
    return dataclasses.replace(screen, notice=notice) if notice else screen


_EXTRA: Final[Mapping[Do, SeatKind]] = {"calibrate": "calibration", "final": "final"}
"""Actions that ask for a comparison outside training, with the kind of seat."""


def _vote(site: Site, panelist: str, name: str, action: Action) -> Screen:
    """Store a vote and find the next screen, in one transaction."""
    ballot = action.ballot
    if ballot is None:
        raise UsageError("vote: there is no ballot")
    with site.ledger.transaction("votes"):
        seat, stored = cast(site, panelist, ballot)
        if isinstance(stored, VoteConflictError) and stored.code == "stale_tab":
            return screens.elsewhere(site, panelist, name)
        screen, kind = screens.look(site, panelist, name, action.tab), seat["kind"]
        notice = None if kind == "train" else "thanks"
        if ballot.choice == "skip":
            notice = "skipped"
        if isinstance(stored, VoteConflictError):
            notice = _REFUSALS.get(stored.code) or _CLOSED.get(kind, "once")
        elif kind == "train" and stored.late:
            notice = "late"
        return dataclasses.replace(screen, notice=notice)


def give(site: Site, panelist: str, ballot: Ballot) -> dict[str, Any]:
    """Store a verdict on a row of a sheet, in the caller's transaction.

    Returns ``choice``, which stands now, and ``notice``, why it is not the one given or is late;
    ``elsewhere``: the sheet is open in another tab.
    """
    seat, stored = cast(site, panelist, ballot)
    if not isinstance(stored, VoteConflictError):
        return {
            "choice": stored.choice,
            "notice": site.sentences.notices["late"] if stored.late else None,
        }
    code = _REFUSALS.get(stored.code) or _CLOSED.get(seat["kind"], "once")
    return {
        "choice": None if stored.stored is None else stored.stored.choice,
        "notice": site.sentences.notices[code],
        "elsewhere": stored.code == "stale_tab",
    }


_REFUSALS: Final = {"changed_often": "often", "key_reused": "reused"}
_CLOSED: Final = {"train": "closed", "final": "final_closed"}
"""Notices for a refused answer, by the refusal's code, else by the comparison's kind."""


def _agree(site: Site, panelist: str) -> None:
    """Record that a panelist agreed, with a hash of the wording they saw."""
    wording = site.sentences.consent(site.moves)
    if open_link.standing(site.ledger, panelist, site.status) is not None:
        wording = [*wording, site.sentences.page["study_consent"]]
    panelists.record_consent(site.ledger, panelist, wording, site.config.panel.consent)


def _take(site: Site, panelist: str, action: Action) -> None:
    """Move a seat to this tab: only the tab that holds a seat may change its vote."""
    for row in _seats(site, panelist, action.seat):
        if row["tab"] != action.tab:
            site.service.take(row["assignment"], action.tab)


def _release(site: Site, panelist: str, seat: str | None) -> None:
    """Release an unanswered seat of this panelist, and those on its sheet."""
    for row in _seats(site, panelist, seat):
        if row["choice"] is None:
            site.service.release(row["assignment"])


def _seats(site: Site, panelist: str, seat: str | None) -> list[Record]:
    """This panelist's seats that are shown together with this one."""
    row = own_seats.seat_row(site, panelist, seat) if seat else None
    if row is None:
        return []
    return own_seats.on_sheet(row, own_seats.read(site, panelist, row["step"])[1])
