"""The panelist's page: one Gradio event for everything that is done, one small poller beside it.

The page is a single ``gr.HTML``. What a person chooses stays in the browser until they confirm;
then the script presses a hidden button with one JSON text, and `szpo_ui.panel.actions.act` answers
with the next screen. No ``gr.State``, no queue, no unload: the ledger is the only memory.
"""

from __future__ import annotations

import json
import logging
import secrets
from functools import partial
from importlib import resources
from typing import Any, Final

import gradio as gr
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from szpo.errors import SzpoError, UsageError
from szpo.ledger.canonical import canonical, sha256
from szpo_ui.languages import texts
from szpo_ui.panel import own_seats, render, screens
from szpo_ui.panel.actions import Action, act
from szpo_ui.panel.screens import PageState
from szpo_ui.web import login
from szpo_ui.web.markup import style
from szpo_ui.web.site import Site

LOG: Final = logging.getLogger("szpo.panel")
MOST_BYTES: Final = 65_536
"""Longest request of a page, in characters."""
SCRIPTS: Final = ("kit", "server", "screen", "choice", "reading", "controls")
"""The parts of the page's script, in their order; the last one starts it."""


# ---- the page ----


def blocks(site: Site) -> gr.Blocks:
    """Build the page: a screen, a hidden textbox, a hidden button."""
    asked = {
        code: render.rubric(site.config.panel, language)
        for code, language in texts.LANGUAGES.items()
    }

    async def answer(text: Any, request: gr.Request) -> str:
        who = login.identity(site, getattr(request, "request", None), "panelist")
        ack, header = "", request.headers.get("accept-language")
        language = texts.choose_language("", header)
        try:
            if not isinstance(text, str) or len(text) > MOST_BYTES or who.panelist is None:
                raise UsageError("panel: this request is not one of the page's")
            action = Action.model_validate_json(text)
            ack, language = action.ack, texts.choose_language(action.lang, header)
            action = action.model_copy(update={"lang": language.code})
            site.tabs.note(who.panelist, action.tab)
            step = partial(act, site, who.panelist, who.name, action, site.tabs.is_alive)
            # Votes of all people share commits; what else is done waits for nobody's but its own.
            screen = await (
                site.writer.do(step) if action.do == "vote" else run_in_threadpool(step)
            )
            draw = partial(render.page, view=site.config.panel.view, ack=ack)
            return await run_in_threadpool(draw, screen, asked[language.code], language)
        except Exception as error:
            return render.failure(_log_error(error), ack, language)

    made = gr.Blocks(title=texts.ENGLISH.live["title"], analytics_enabled=False, fill_width=True)
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


def _log_error(error: Exception) -> str:
    """Log an error; returns the number that a person can report to the operator."""
    number = secrets.token_hex(4)
    if isinstance(error, SzpoError | ValidationError):
        LOG.warning("panel error %s: %s", number, str(error).splitlines()[0])
    else:
        LOG.exception("panel error %s", number)
    return number


def router(site: Site) -> APIRouter:
    """Routes of the poller, of a seat's heartbeat, and of the notice that a tab was closed."""
    made = APIRouter(prefix="/panel-api")

    def panelist(request: Request) -> str:
        who = login.identity(site, request, "panelist")
        if who.panelist is None:
            raise HTTPException(403, "this page is not yours")
        return who.panelist

    @made.get("/status")
    def status(request: Request, tab: str = "", seat: str = "") -> Response:
        who = panelist(request)
        if tab:
            site.tabs.note(who, tab[:64])
        found = screens.glance(
            site, who, PageState(tab[:64], seat[:64] or None), site.tabs.is_alive
        )
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
        row = own_seats.seat_row(site, who, seat[:64])
        if row is None or row["choice"] is not None or row["tab"] not in (None, tab):
            return {"lease_s": None}
        site.service.extend(row["assignment"])
        again = own_seats.seat_row(site, who, seat[:64])
        return {"lease_s": None if again is None else screens.lease_s(site, again)}

    @made.post("/gone")
    def close_tab(request: Request, tab: str = "") -> Response:
        site.tabs.forget(panelist(request), tab[:64])
        return Response(status_code=204)

    return made


def head() -> str:
    """Style, sentences and script of the page, inline, so that nothing is fetched."""
    live = {code: _spoken(language) for code, language in texts.LANGUAGES.items()}
    spoken = json.dumps(live, ensure_ascii=False).replace("<", "\\u003c")
    return (
        '<meta name="viewport" content="width=device-width, initial-scale=1, '
        'viewport-fit=cover">\n'
        f"<style>{style('panel', 'formatted')}</style>\n"
        f"<script>window.szpoTexts = {spoken};</script>\n"
        f"<script>{script()}</script>\n"
    )


def _spoken(language: texts.Language) -> dict[str, Any]:
    """The sentences of one language that the script writes."""
    shared = ("seen", "unseen", "show_all", "show_less", "confirm", "loading")
    both = {code: language.page[code] for code in shared}
    return {
        **language.live,
        **both,
        "choices": language.choices,
        "tag": language.tag,
        "refused": language.entrance["refused"],
    }


def script() -> str:
    """The page's script: its parts in one closure, which hides their names from other scripts.

    It never writes texts of models as HTML: it reads and sets attributes and plain text only.
    """
    folder = resources.files("szpo_ui") / "static" / "panel"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['(() => {\n"use strict";', *parts, "})();"])
