"""The comparison as a Gradio component: its HTML, and the actions that its script calls.

Templates are filled from a `Screen`. Texts of models, prompts and operators go through
`szpo_ui.markup.prose`. The templates escape everything else that is not markup. An unknown name in
a template is an error.

A choice stays in the browser until the person confirms it. Then the script calls `act` and draws
the screen that `act` returns. The component uses no ``gr.State``, queue or unload event: all state
is in the ledger.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import gradio as gr
from fastapi import HTTPException
from jinja2 import Environment
from markupsafe import Markup, escape
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from szpo.config.sentences import ENGLISH
from szpo.config.tables import Panel
from szpo.errors import SzpoError, UsageError
from szpo.files import quoted
from szpo.ledger.database import Record
from szpo.voting import seats
from szpo.voting.casting import VoteConflictError
from szpo_ui import credentials, login, screens
from szpo_ui.ballots import At, Ballot, cast, extend, lease_s, poll
from szpo_ui.markup import KEYS, environment, head, static, time_tag
from szpo_ui.screens import Mode, Screen
from szpo_ui.site import Site, open_site

MOST_DOTS: Final = 12
"""Up to this number of votes, each is drawn as a dot."""
Do = Literal[
    "open", "look", "vote", "agree", "break", "back", "final", "leave", "go", "keep",
    "revise", "use-tab",
]  # fmt: skip
_REFUSALS: Final = {"changed_often": "often", "key_reused": "reused"}
_CLOSED: Final = {"train": "closed", "final": "final_closed"}
"""Notices for a refused answer, by the refusal's code, else by the comparison's kind."""
LOG: Final = logging.getLogger("szpo.panel")
MOST_KEPT: Final = 100
"""The most verdicts that a closing page may hand over, which it could not send before."""
SCRIPTS: Final = ("kit", "server", "screen", "choice", "reading", "sheet", "controls")
"""The files of the script, in order; the last one starts it."""
Who = Callable[[Any], tuple[str, str]]
"""Maps a request to the panelist's id and name."""


def render_page(screen: Screen, asked: Panel) -> str:
    """The whole screen as one HTML text; ``asked`` is `Site.rubric`."""
    return (
        _environment()
        .get_template("panel/page.html")
        .render(s=screen, shows=screen.shows, rubric=asked)
    )


def render_failure(error: str) -> str:
    """The screen for a server error, with the error's number."""
    return _environment().get_template("panel/error.html").render(error=error)


def say(code: str, **what: object) -> Markup:
    """A sentence of the page with its placeholders filled and escaped.

    >>> say("round_of", round=3, rounds="<b>")
    Markup('Round 3 of &lt;b&gt;')
    """
    return escape(ENGLISH.page[code]).format(**what)


@cache
def _environment() -> Environment:
    """The templates with the sentences that they show."""
    labels = {str(choice): label for choice, label in ENGLISH.choices.items()}
    return environment(
        filters={"time": time_tag, "label": labels.__getitem__},
        names={
            "say": say,
            "t": SimpleNamespace(**ENGLISH.page),  # t.clear of a dict would be a method
            "sentences": ENGLISH,
            "shortcuts": {
                kind: [(keys, ENGLISH.shortcuts[name]) for name, keys in found.items()]
                for kind, found in KEYS.items()
            },
            "most_dots": MOST_DOTS,
        },
    )


class Action(At):
    """One action of a panelist, as the page sends it."""

    do: Do
    mode: Mode = ""
    ballot: Ballot | None = None


def act(site: Site, panelist: str, name: str, action: Action) -> Screen:
    """Carry out an action, then return the next screen."""
    seat, mode = action.seat, action.mode
    notice: str | None = None
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
    if action.do == "final" and site.service.final(panelist, tab=action.tab) is None:
        notice = "no_final"
    screen = screens.look(site, panelist, name, action.tab, seat, mode)
    return dataclasses.replace(screen, notice=notice) if notice else screen


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
            notice = _REFUSALS.get(stored.code) or _CLOSED.get(kind, "closed")
        elif kind == "train" and stored.late:
            notice = "late"
        return dataclasses.replace(screen, notice=notice)


def give_verdict(site: Site, panelist: str, ballot: Ballot) -> dict[str, Any]:
    """Store a verdict on a row of a sheet, in the caller's transaction.

    Returns ``choice``, which stands now, and ``notice``, why it is not the one given or is late;
    ``elsewhere``: the sheet is open in another tab.
    """
    seat, stored = cast(site, panelist, ballot)
    if not isinstance(stored, VoteConflictError):
        return {
            "choice": stored.choice,
            "notice": ENGLISH.notices["late"] if stored.late else None,
        }
    code = _REFUSALS.get(stored.code) or _CLOSED.get(seat["kind"], "closed")
    return {
        "choice": None if stored.stored is None else stored.stored.choice,
        "notice": ENGLISH.notices[code],
        "elsewhere": stored.code == "stale_tab",
    }


def _agree(site: Site, panelist: str) -> None:
    """Record that a panelist agreed, with a hash of the wording they saw."""
    wording = ENGLISH.consent(moves=site.moves)
    if credentials.standing(site.ledger, panelist, site.status) is not None:
        wording = [*wording, ENGLISH.page["study_consent"]]
    seats.record_consent(site.ledger, panelist, wording, site.config.panel.consent)


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
    row = screens.seat_row(site, panelist, seat) if seat else None
    if row is None:
        return []
    return screens.on_sheet(row, screens.read_own_seats(site, panelist, row["step"])[1])


def Comparison(  # noqa: N802  (a subclass would make Gradio write a .pyi file beside it)
    run: str | Path, *, folder: str | Path = "runs", name: str = "local"
) -> gr.HTML:
    """A component for any ``gr.Blocks`` that shows the comparisons of a run and takes votes.

    It has no login, so all its votes belong to one local evaluator, called ``name``. After a vote
    it triggers the event ``voted``. Use one per page. ``run`` is a name in ``folder`` or a path.
    Another process must drive the run.
    """
    from szpo.cli import run_paths

    site = open_site(run_paths.find(str(run), Path(folder)))
    people = [
        each.name for each in credentials.list_people(site.ledger) if each.role != "operator"
    ]
    if people:
        site.ledger.close()
        raise UsageError(
            f"{run} has invited people, who vote with their own login: szpo serve {quoted(run)}; "
            "a component without a login votes for one local evaluator"
        )
    panelist = site.service.enroll("person", name)
    site.writer.start()
    return component(site, lambda _: (panelist, name))


def blocks(site: Site) -> gr.Blocks:
    """The panelist's page of szpo's server; the login says who votes."""

    def who(request: Any) -> tuple[str, str]:
        found = login.identity(request, "panelist")
        if found.panelist is None:
            raise HTTPException(403, login.meant_for("panelist"))
        return found.panelist, found.name

    made = gr.Blocks(title=ENGLISH.live["title"], analytics_enabled=False, fill_width=True)
    with made:
        component(site, who).props["polls"] = "api"  # it answers 304 if nothing has changed
    return made


def component(site: Site, who: Who) -> gr.HTML:
    """The component for a site; ``who`` raises if the sender of a request may not vote."""
    asked = site.rubric

    async def do(data: Any, request: gr.Request) -> str:
        panelist, name = who(request)
        try:
            action = Action.model_validate(data)
            site.tabs.note(panelist, action.tab)
            step = partial(act, site, panelist, name, action)
            screen = await site.writer.do(step, first=action.do == "vote")
            return await run_in_threadpool(render_page, screen, asked)
        except Exception as error:
            return render_failure(_log_error(error))

    async def give(data: Any, request: gr.Request) -> dict[str, Any]:
        return await store(data, request, first=True)

    async def store(data: Any, request: gr.Request, *, first: bool) -> dict[str, Any]:
        panelist, _ = who(request)
        try:
            ballot = Ballot.model_validate(data)
            step = partial(give_verdict, site, panelist, ballot)
            return await site.writer.do(step, first=first)
        except Exception as error:
            refused = isinstance(error, UsageError | ValidationError)
            return {"error": _log_error(error), "refused": refused}

    async def glance(data: Any, request: gr.Request) -> dict[str, Any] | None:
        panelist, at = who(request)[0], _at(data)
        return None if at is None else (await site.writer.do(partial(poll, site, panelist, at)))[0]

    async def hold(data: Any, request: gr.Request) -> float | None:
        panelist, at, until = who(request)[0], _at(data), None
        if at is not None and at.seat is not None:
            with suppress(UsageError):  # somebody else's seat, or no seat
                until = await site.writer.do(partial(extend, site, panelist, at.seat, at.tab))
        return None if until is None else lease_s(site, until)

    async def gone(data: Any, request: gr.Request) -> None:
        panelist, left = who(request)[0], dict(data) if isinstance(data, dict) else {}
        ballots = left.pop("ballots", None)
        for each in ballots[:MOST_KEPT] if isinstance(ballots, list) else ():
            # In order, since a later one may change an earlier one; nobody waits for the answer.
            await store(each, request, first=False)
        if (at := _at(left)) is not None:
            site.tabs.forget(panelist, at.tab)

    made = gr.HTML(
        _environment().get_template("panel/loading.html").render(),
        elem_id="szpo-screen",
        apply_default_css=False,
        head=head("panel", "formatted", viewport=", viewport-fit=cover"),
        js_on_load=script(),
        server_functions=[do, give, glance, hold, gone],
    )
    made.props["component"] = made._id  # for the beacon that a closing page sends
    return made


def _at(data: Any) -> At | None:
    try:
        return At.model_validate(data)
    except ValidationError:
        return None


def _log_error(error: Exception) -> str:
    """Log an error and return its number, which a person can report to the operator."""
    number = secrets.token_hex(4)
    if isinstance(error, SzpoError | ValidationError):
        LOG.warning("panel error %s: %s", number, str(error).splitlines()[0])
    else:
        LOG.exception("panel error %s", number)
    return number


def spoken() -> dict[str, Any]:
    """The sentences of the script."""
    shared = ("seen", "unseen", "show_all", "show_less", "confirm", "loading", "harmful")
    return {
        **ENGLISH.live,
        **{name: ENGLISH.page[name] for name in shared},
        "choices": ENGLISH.choices,
        "refused": ENGLISH.entrance["refused"],
    }


def script() -> str:
    """The script's files, joined; Gradio runs them in one closure, hidden from other scripts.

    The script never writes model texts as HTML. It gives HTML made by Python to the component's
    template, and itself only reads and sets attributes and plain text.
    """
    parts = [static(f"panel/{name}.js") for name in SCRIPTS]
    texts = f"const T = {json.dumps(spoken(), ensure_ascii=False)};"
    return "\n".join(['"use strict";', texts, *parts])
