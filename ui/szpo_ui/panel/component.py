"""The comparison as a Gradio component, with the Python functions that its script calls.

A choice stays in the browser until the person confirms it. Then the script calls `act` and draws
the screen that `act` returns. The component uses no ``gr.State``, queue or unload event: all state
is in the ledger.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr
from fastapi import HTTPException
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from szpo.errors import SzpoError, UsageError
from szpo_ui.panel import actions, render
from szpo_ui.panel.actions import Action, act
from szpo_ui.web import credentials, login
from szpo_ui.web.ballots import At, Ballot, extend, lease_s, poll
from szpo_ui.web.markup import head, static
from szpo_ui.web.sentences import Sentences
from szpo_ui.web.site import Site, open_site

LOG: Final = logging.getLogger("szpo.panel")
MOST_KEPT: Final = 100
"""The most verdicts that a closing page may hand over, which it could not send before."""
SCRIPTS: Final = ("kit", "server", "screen", "choice", "reading", "sheet", "controls")
"""The files of the script, in order; the last one starts it."""

Who = Callable[[Any], tuple[str, str]]
"""Maps a request to the panelist's id and name."""


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
            f"{run} has invited people, who vote with their own login: szpo serve {run}; "
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

    made = gr.Blocks(title=site.sentences.live["title"], analytics_enabled=False, fill_width=True)
    with made:
        component(site, who).props["polls"] = "api"  # it answers 304 if nothing has changed
    return made


def component(site: Site, who: Who) -> gr.HTML:
    """The component for a site; ``who`` raises if the sender of a request may not vote."""
    shown = site.sentences
    asked = site.rubric

    async def do(data: Any, request: gr.Request) -> str:
        panelist, name = who(request)
        try:
            action = Action.model_validate(data)
            site.tabs.note(panelist, action.tab)
            step = partial(act, site, panelist, name, action)
            screen = await site.writer.do(step, first=action.do == "vote")
            return await run_in_threadpool(render.page, screen, asked, shown)
        except Exception as error:
            return render.failure(_log_error(error), shown)

    async def give(data: Any, request: gr.Request) -> dict[str, Any]:
        return await store(data, request, first=True)

    async def store(data: Any, request: gr.Request, *, first: bool) -> dict[str, Any]:
        panelist, _ = who(request)
        try:
            ballot = Ballot.model_validate(data)
            step = partial(actions.give, site, panelist, ballot)
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
        render.skeleton(shown),
        elem_id="szpo-screen",
        apply_default_css=False,
        head=head("panel", "formatted", viewport=", viewport-fit=cover"),
        js_on_load=script(shown),
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


def spoken(sentences: Sentences) -> dict[str, Any]:
    """The sentences of the script."""
    shared = ("seen", "unseen", "show_all", "show_less", "confirm", "loading", "harmful")
    return {
        **sentences.live,
        **{name: sentences.page[name] for name in shared},
        "choices": sentences.choices,
        "lang": sentences.lang,
        "refused": sentences.entrance["refused"],
    }


def script(sentences: Sentences) -> str:
    """The script's files, joined; Gradio runs them in one closure, hidden from other scripts.

    The script never writes model texts as HTML. It gives HTML made by Python to the component's
    template, and itself only reads and sets attributes and plain text.
    """
    parts = [static(f"panel/{name}.js") for name in SCRIPTS]
    texts = f"const T = {json.dumps(spoken(sentences), ensure_ascii=False)};"
    return "\n".join(['"use strict";', texts, *parts])
