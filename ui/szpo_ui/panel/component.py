"""The comparison as a Gradio component: what a person sees, and the functions of Python behind it.

What a person chooses stays in the browser until they confirm; then its script calls `act` and
draws the screen that it returns. No ``gr.State``, no queue, no unload: the ledger is the only
memory.
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
from szpo_ui.panel import render
from szpo_ui.panel.actions import Action, act
from szpo_ui.web import credentials, login
from szpo_ui.web import language as texts
from szpo_ui.web.ballots import At, extend, lease_s, poll
from szpo_ui.web.markup import head, static
from szpo_ui.web.site import Site, open_site

LOG: Final = logging.getLogger("szpo.panel")
SCRIPTS: Final = ("kit", "server", "screen", "choice", "reading", "controls")
"""The parts of the script, in their order; the last one starts it."""

Who = Callable[[Any], tuple[str, str]]
"""A request → the panelist's id and name."""


def Comparison(  # noqa: N802  (a subclass would make Gradio write a .pyi file beside it)
    run: str | Path, *, folder: str | Path = "runs", name: str = "local"
) -> gr.HTML:
    """A component that shows the comparisons of a run and takes votes, for any ``gr.Blocks``.

    It has no login, so all its votes are those of one local evaluator, called ``name``. After a
    vote it triggers the event ``voted``. One stands on a page. ``run`` is a name in ``folder`` or
    a path; another process drives the run.

    Raises:
        UsageError: there is no such run, or it has invited people.
        StorageError: the file is no ledger.
    """
    from szpo.cli import run_paths

    site = open_site(run_paths.find(str(run), Path(folder)))
    people = [
        each.name for each in credentials.list_people(site.ledger) if each.role != "operator"
    ]
    if people or site.config.prolific.study:
        site.ledger.close()
        raise UsageError(
            f"{run} has invited people, who vote with their own login: szpo serve {run}; "
            "a component without a login votes for one local evaluator"
        )
    panelist = site.service.enroll("person", name)
    site.writer.start()
    return component(site, lambda _: (panelist, name))


def blocks(site: Site) -> gr.Blocks:
    """The panelist's page of szpo's server, where a login says who votes."""

    def who(request: Any) -> tuple[str, str]:
        found = login.identity(request, "panelist")
        if found.panelist is None:
            raise HTTPException(403, "this page is not yours")
        return found.panelist, found.name

    made = gr.Blocks(title=texts.ENGLISH.live["title"], analytics_enabled=False, fill_width=True)
    with made:
        component(site, who).props["polls"] = "api"  # with 304 where nothing has changed
    return made


def component(site: Site, who: Who) -> gr.HTML:
    """The component over a site; ``who`` raises for requests of nobody who may vote."""
    asked = {
        code: render.rubric(site.config.panel, language)
        for code, language in texts.LANGUAGES.items()
    }

    async def do(data: Any, request: gr.Request) -> str:
        panelist, name = who(request)
        header = request.headers.get("accept-language")
        language = texts.choose_language("", header)
        try:
            action = Action.model_validate(data)
            language = texts.choose_language(action.lang, header)
            site.tabs.note(panelist, action.tab)
            step = partial(act, site, panelist, name, action, language)
            # Votes of all people share commits; what else is done waits for nobody's but its own.
            screen = await (
                site.writer.do(step) if action.do == "vote" else run_in_threadpool(step)
            )
            return await run_in_threadpool(render.page, screen, asked[language.code], language)
        except Exception as error:
            return render.failure(_log_error(error), language)

    def glance(data: Any, request: gr.Request) -> dict[str, Any] | None:
        panelist, at = who(request)[0], _at(data)
        return None if at is None else poll(site, panelist, at)[0]

    def hold(data: Any, request: gr.Request) -> float | None:
        panelist, at, until = who(request)[0], _at(data), None
        if at is not None and at.seat is not None:
            with suppress(UsageError):  # a seat of somebody else, or none
                until = extend(site, panelist, at.seat, at.tab)
        return None if until is None else lease_s(site, until)

    def gone(data: Any, request: gr.Request) -> None:
        panelist, at = who(request)[0], _at(data)
        if at is not None:
            site.tabs.forget(panelist, at.tab)

    made = gr.HTML(
        render.skeleton(),
        elem_id="szpo-screen",
        apply_default_css=False,
        head=head("panel", "formatted", viewport=", viewport-fit=cover"),
        js_on_load=script(),
        server_functions=[do, glance, hold, gone],
    )
    made.props["component"] = made._id  # for the beacon of a page that is closed
    return made


def _at(data: Any) -> At | None:
    try:
        return At.model_validate(data)
    except ValidationError:
        return None


def _log_error(error: Exception) -> str:
    """Log an error; returns the number that a person can report to the operator."""
    number = secrets.token_hex(4)
    if isinstance(error, SzpoError | ValidationError):
        LOG.warning("panel error %s: %s", number, str(error).splitlines()[0])
    else:
        LOG.exception("panel error %s", number)
    return number


def sentences() -> dict[str, dict[str, Any]]:
    """What the script says, by the code of the language."""
    shared = ("seen", "unseen", "show_all", "show_less", "confirm", "loading")
    return {
        code: {
            **language.live,
            **{name: language.page[name] for name in shared},
            "choices": language.choices,
            "tag": language.tag,
            "refused": language.entrance["refused"],
        }
        for code, language in texts.LANGUAGES.items()
    }


def script() -> str:
    """The script: its parts in one closure, which hides their names from other scripts.

    It never writes texts of models as HTML: it hands what Python drew to the component's template,
    and reads and sets attributes and plain text.
    """
    parts = [static(f"panel/{name}.js") for name in SCRIPTS]
    spoken = f"const TEXTS = {json.dumps(sentences(), ensure_ascii=False)};"
    return "\n".join(['"use strict";', spoken, *parts])
