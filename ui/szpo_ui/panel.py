"""The panelist's page: one Gradio event for everything that is done, one small poller beside it.

The page is a single ``gr.HTML``. What a person chooses stays in the browser until they confirm;
then the script fills a hidden textbox with JSON, presses a hidden button, and `act` answers with
the next screen. No ``gr.State``, no queue, no unload: the ledger is the only memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable
from importlib import resources
from typing import Any, Final, Literal

import gradio as gr
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from szpo.errors import SzpoError, UsageError
from szpo.records import canonical, sha256
from szpo.types import Assignment, Choice
from szpo.votes import VoteConflictError
from szpo_ui import access, render, screens, texts
from szpo_ui.screens import Alive, Ask, Feedback, Mode, Screen
from szpo_ui.sheets import sheet
from szpo_ui.site import Site

LOG: Final = logging.getLogger("szpo.panel")
TAB_S: Final = 90.0
"""A tab that has not been heard of for so long no longer keeps others out, seconds."""
MOST_BYTES: Final = 65_536
"""Longest request of a page, in characters."""

Do = Literal[
    "open", "look", "vote", "agree", "agree-practice", "practice", "break", "back", "calibrate",
    "final", "leave", "go", "keep", "revise", "use-tab",
]  # fmt: skip
Word = Field(pattern=r"^[A-Za-z0-9_.:-]*$", max_length=64)


class Ballot(BaseModel):
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
    ballot: Ballot | None = None


class Presence:
    """Which tabs have been heard of lately; in memory, since a restart may forget it."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self.now_s = now_s
        self._heard: dict[tuple[str, str], float] = {}

    def here(self, panelist: str, tab: str) -> None:
        """A tab has said something."""
        now = self.now_s()
        if len(self._heard) > 10_000:
            self._heard = {k: at for k, at in self._heard.items() if now - at < TAB_S}
        self._heard[panelist, tab] = now

    def gone(self, panelist: str, tab: str) -> None:
        """A tab was closed."""
        self._heard.pop((panelist, tab), None)

    def alive(self, panelist: str, tab: str) -> bool:
        """The tab is there, as far as anybody knows."""
        return self.now_s() - self._heard.get((panelist, tab), -TAB_S) < TAB_S


_PRESENCE: dict[int, Presence] = {}


def presence(site: Site) -> Presence:
    """The tabs of a site, shared by its page and its poller."""
    return _PRESENCE.setdefault(id(site.service), Presence())


# ---- what is done ----


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
    extra = action.do.removeprefix("agree-")
    if extra in {"practice", "calibrate", "final"}:
        seat = _extra(site, panelist, extra, action.tab)
        if seat is None:
            notice = texts.NOTICES["none_left" if extra == "calibrate" else "no_final"]
        elif extra == "practice":
            ask = dataclasses.replace(ask, seat=seat.id, mode="practice")
    screen = screens.look(site, panelist, name, ask, alive)
    return dataclasses.replace(screen, notice=notice) if notice else screen


def _vote(site: Site, panelist: str, name: str, action: Action, alive: Alive) -> Screen:
    ballot, row = action.ballot, screens.seat_row(site, panelist, action.seat or "")
    if ballot is None or row is None:
        raise UsageError("vote: there is no such comparison for this panelist")
    notice = texts.NOTICES["skipped"] if ballot.choice == "skip" else None
    try:
        receipt = site.service.cast(
            row["assignment"],
            ballot.choice,
            idem=ballot.idem,
            skip_reason=ballot.reason,
            dwell_ms=ballot.dwell_ms,
            details=_details(site, row, ballot),
            tab=action.tab,
            panelist=panelist,
        )
    except VoteConflictError as conflict:
        if conflict.code == "stale_tab":
            return screens.elsewhere(site, panelist, name)
        notice = texts.NOTICES["closed"]
    else:
        if row["kind"] == "practice":
            feedback = Feedback(ballot.choice, screens.expected(row))
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


def _details(site: Site, row: dict[str, Any], ballot: Ballot) -> dict[str, Any]:
    """What is kept beside a vote; the same again when the same ballot is sent again."""
    comparison = site.ledger.comparison(row["comparison"])
    assert comparison is not None, row["comparison"]
    shown = sheet(comparison, screens.of_row(row))
    rows = {str(pair.row) for pair in shown.pairs}
    # A page may say what it likes; nobody has read for longer than they had the texts.
    read_ms = min(ballot.dwell_ms, (site.clock() - row["served_us"]) / 1000)
    details: dict[str, Any] = {
        "notes": {i: note for i, note in sorted(ballot.notes.items()) if i in rows},
        "rows": len(shown.pairs),
        "seen": min(ballot.seen, len(shown.pairs)),
        "words": shown.words,
        "similarity": shown.similarity,
        "fast": ballot.choice != "skip" and read_ms < 1000 * shown.gate_s,
        "marks": ballot.marks,
        "device": ballot.device,
    }
    if ballot.report:
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


def _extra(site: Site, panelist: str, kind: str, tab: str) -> Assignment | None:
    """Seat the panelist at a comparison that is not for training, if there is one."""
    if kind == "practice":
        return site.service.practice(panelist, tab=tab)
    if kind == "calibrate":
        return site.service.calibration(panelist, tab=tab)
    return site.service.final(panelist, tab=tab)


def _nobody(panelist: str, tab: str) -> bool:
    return False


# ---- the page ----


def blocks(site: Site) -> gr.Blocks:
    """The page: a screen, a hidden textbox, a hidden button."""
    settings = site.config.panel
    words = {
        "question": settings.question,
        "guideline": settings.guideline,
        "guideline_full": settings.guideline_full,
    }

    def answer(text: Any, request: gr.Request) -> str:
        who = access.identity(site, getattr(request, "request", None), "panelist")
        ack = ""
        try:
            if not isinstance(text, str) or len(text) > MOST_BYTES or who.panelist is None:
                raise UsageError("panel: this request is not one of the page's")
            action = Action.model_validate_json(text)
            ack = action.ack
            tabs = presence(site)
            tabs.here(who.panelist, action.tab)
            screen = act(site, who.panelist, who.name, action, tabs.alive)
            return render.page(screen, ack=ack, **words)
        except Exception as error:
            return render.failure(_noted(error), ack)

    made = gr.Blocks(title=texts.LIVE["title"], analytics_enabled=False, fill_width=True)
    with made:
        screen = gr.HTML(render.skeleton(), elem_id="szpo-screen", apply_default_css=False)
        box = gr.Textbox(elem_id="szpo-box", visible="hidden", container=False)
        button = gr.Button("Send", elem_id="szpo-send", visible="hidden")
        quietly: dict[str, Any] = {
            "queue": False, "api_visibility": "private", "show_progress": "hidden",
        }  # fmt: skip
        made.load(answer, box, screen, js="() => szpo.opening()", **quietly)
        sent = button.click(
            answer, box, screen, js="() => szpo.sending()", trigger_mode="multiple", **quietly
        )
        sent.failure(None, None, None, js="() => szpo.failed()", **quietly)
    return made


def _noted(error: Exception) -> str:
    """A number for an error that a person may tell the operator; the log has the rest."""
    number = secrets.token_hex(4)
    if isinstance(error, SzpoError | ValidationError):
        LOG.warning("panel error %s: %s", number, str(error).splitlines()[0])
    else:
        LOG.exception("panel error %s", number)
    return number


def router(site: Site) -> APIRouter:
    """The poller's door, the heartbeat of a seat, and the word that a tab was closed."""
    made = APIRouter(prefix="/panel-api")

    def panelist(request: Request) -> str:
        who = access.identity(site, request, "panelist")
        if who.panelist is None:
            raise HTTPException(403, "this page is not yours")
        return who.panelist

    @made.get("/status")
    def status(request: Request, tab: str = "", seat: str = "") -> Response:
        who, tabs = panelist(request), presence(site)
        if tab:
            tabs.here(who, tab[:64])
        found = screens.glance(site, who, Ask(tab[:64], seat[:64] or None), tabs.alive)
        lease = found.pop("lease_s")
        etag = f'"{sha256(canonical(found))[:16]}"'
        headers = {"ETag": etag, "Cache-Control": "no-store"}
        if lease is not None:
            headers["X-Szpo-Lease"] = str(lease)
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(json.dumps(found), media_type="application/json", headers=headers)

    @made.post("/extend")
    def extend(request: Request, tab: str = "", seat: str = "") -> dict[str, float | None]:
        who = panelist(request)
        row = screens.seat_row(site, who, seat[:64])
        if row is None or row["choice"] is not None or row["tab"] not in (None, tab):
            return {"lease_s": None}
        site.service.extend(row["assignment"])
        again = screens.seat_row(site, who, seat[:64])
        return {"lease_s": None if again is None else screens.lease_s(site, again)}

    @made.post("/gone")
    def gone(request: Request, tab: str = "") -> Response:
        presence(site).gone(panelist(request), tab[:64])
        return Response(status_code=204)

    return made


def head() -> str:
    """Style, sentences and script of the page, inline: nothing flashes, nothing is fetched."""
    folder = resources.files("szpo_ui") / "static"
    style = (folder / "panel.css").read_text(encoding="utf-8")
    script = (folder / "panel.js").read_text(encoding="utf-8")
    live = {**texts.LIVE, "choices": texts.CHOICES, "seen": texts.PAGE["seen"],
            "unseen": texts.PAGE["unseen"], "show_all": texts.PAGE["show_all"],
            "show_less": texts.PAGE["show_less"], "confirm": texts.PAGE["confirm"]}  # fmt: skip
    spoken = json.dumps(live).replace("<", "\\u003c")
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1, '
        'viewport-fit=cover">\n'
        f"<style>{style}</style>\n<script>window.szpoTexts = {spoken};</script>\n"
        f"<script>{script}</script>\n"
    )


def css() -> str:
    """Nothing: Gradio would prefix each selector, so the style comes with `head`."""
    return ""
