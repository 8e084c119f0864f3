"""The operator's page: figures from the ledger, controls of the run, its report, its votes.

As on the panelist's page, the script calls a server function, which returns the reply and the
redrawn page, and all state is in the ledger. Dialogs are rendered once, so typed text is not lost
when figures change.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Final

import gradio as gr
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment
from markupsafe import Markup
from pydantic import ValidationError

from szpo.analysis import html_report, improvement, vote_rows
from szpo.cli import console
from szpo.config.sentences import ENGLISH
from szpo.errors import SzpoError
from szpo.ledger.canonical import canonical
from szpo.models.answer_shares import BOUNDS, NAMES
from szpo.runs import budget, samples
from szpo.runs.guards import Band
from szpo_ui import component, login, operator_controls
from szpo_ui.markup import environment, head, static, style, time_tag, whole
from szpo_ui.operator_controls import Command, Reply
from szpo_ui.operator_state import columns, read_state, version
from szpo_ui.request_rules import VOTES, first_fault, if_changed
from szpo_ui.screens import Screen
from szpo_ui.site import Site

LOG: Final = logging.getLogger("szpo.operate")
MIN_VOTES: Final = 20
"""With fewer votes, the page says nothing about improvement, whatever the interval."""

STATES: Final = {
    "none": "not begun", "generating": "writing answers", "open": "collecting votes",
    "closed": "updating", "paused": "paused", "finished": "finished",
}  # fmt: skip
PARTS: Final = {"votes": "votes", "answers": "writing answers", "update": "the update"}
ACCESS: Final = {
    "invited": "invited", "active": "away", "revoked": "revoked", "expired": "expired"
}  # fmt: skip
MOST_HARMFUL: Final = 8
"""Links to votes that call a row harmful, newest first."""
MOST_VOTES: Final = 20
"""Votes on a page of their list."""

VITALS: Final = (
    ("kl", "KL to the base, as rounds noted it", "nats", 2),
    ("length", "Answer length", "tokens", 1),
    ("identical", "Same answer on both sides", "share", 2),
    ("repetition", "Repetition", "share", 2),
    ("distinct", "Distinct word pairs", "share", 2),
)
_WAIT: Final = (
    '<div id="op-root" class="op" data-state="loading"><p class="op-empty">Reading the record…'
    "</p></div>"
)


def blocks(site: Site) -> gr.Blocks:
    """Build the page: its screen, with the script that calls Python, and its dialogs."""

    def do(data: Any, request: gr.Request) -> dict[str, str]:
        who = login.identity(request, "operator")
        why, done = "", None
        try:
            done = operator_controls.act(site, who.name, Command.model_validate(data))
        except ValidationError as error:
            field, fault = first_fault(error)
            why = f"{field}: {fault.lower()}"
        except SzpoError as error:
            why = str(error)
        except Exception:
            number = secrets.token_hex(4)
            LOG.exception("operate error %s", number)
            why = f"something went wrong; the log has it as {number}"
        reply = ""
        if why or done is not None:
            # Invitation links begin with the address at which this page was opened.
            base = str(request.headers.get("origin") or "")
            reply = render_reply(done or Reply(why), base, ok=not why)
        return {"page": page(site), "reply": reply}

    made = gr.Blocks(title="szpo: operate", analytics_enabled=False, fill_width=True)
    with made:
        gr.HTML(
            _WAIT, elem_id="op-screen", apply_default_css=False, head=head("operate"),
            js_on_load=static("operate.js"), server_functions=[do],
        )  # fmt: skip
        gr.HTML(dialogs(site), elem_id="op-dialogs", apply_default_css=False)
    return made


def router(site: Site) -> APIRouter:
    """The routes of the poller, the report and the list of votes."""
    made = APIRouter()

    @made.get("/operate-api/status")
    def status(request: Request) -> Response:
        login.identity(request, "operator")
        found = version(site)
        return if_changed(request, found, {"version": found})

    @made.get("/operate-api/report.html")
    def report(request: Request) -> Response:
        login.identity(request, "operator")
        written = html_report.render(
            site.ledger, open_round=operator_controls.is_live(site.ledger)
        )
        stem = re.sub(r"[^A-Za-z0-9._-]", "-", site.ledger.path.stem) or "run"
        named = {"Content-Disposition": f'attachment; filename="{stem}-report.html"'}
        return HTMLResponse(written, headers=named)

    @made.get(VOTES)
    def votes(
        request: Request, before: Annotated[int | None, Query(ge=1, lt=2**63)] = None
    ) -> Response:
        login.identity(request, "operator")
        return HTMLResponse(render_votes(site, before))

    return made


# ---- HTML ----


def page(site: Site) -> str:
    """The whole page except its dialogs."""
    found = read_state(site)
    return (
        _environment()
        .get_template("operate/page.html")
        .render(
            b=found,
            health=vitals(found, moves=site.moves),
            samples=found["samples"] and columns(found["samples"]),
            preview=preview(site, found),
            checked=samples.read_check(site.ledger),
            recent=samples.recent_shares(site.ledger),
            states=STATES,
            parts=PARTS,
            access=ACCESS,
            most_minutes=operator_controls.MOST_MINUTES,
            few=MIN_VOTES,
            least=improvement.FEWEST,
            most_harmful=MOST_HARMFUL,
        )
    )


def dialogs(site: Site) -> str:
    """The dialogs as HTML; they never change."""
    template = _environment().get_template("operate/dialogs.html")
    return template.render(
        most_minutes=operator_controls.MOST_MINUTES,
        more=budget.usual_more(site.config),
    )


def render_reply(reply: Reply, base: str = "", *, ok: bool = True) -> Markup:
    """The outcome of a request as HTML; if not ``ok``, why it was refused."""
    template = _environment().get_template("operate/reply.html")
    shown = {"text": reply.text, "invitations": reply.invitations}
    return Markup(template.render(ok=ok, base=base, **shown))


def preview(site: Site, found: dict[str, Any]) -> str:
    """The panelist's page as a separate HTML document; empty once the first round has opened."""
    before, rows = found["before"], site.config.asks_rows
    if before is None:
        return ""
    screen = Screen(
        state="sheet" if rows else "vote", name="P-00", status=found["status"], key="",
        seat="preview", paper=lambda: before["sheet"], step=0, rows=rows,
        shows={"notes": {}, "sheet": "", "verdicts": {}, "undo": None, "news": None},
    )  # fmt: skip
    body = component.render_page(screen, site.rubric)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Preview</title>'
        f"<style>{style('panel', 'formatted')}</style></head><body>{body}</body></html>"
    )


def render_votes(site: Site, before: int | None) -> str:
    """The list of votes, newest first, from the one before this number.

    Votes of what is still open are left out, unless an operator has switched them on.
    """
    ledger = site.ledger
    with ledger.snapshot():  # what opens meanwhile must not be shown
        live = operator_controls.is_live(ledger)
        hidden = canonical(sorted([] if live else vote_rows.open_comparisons(ledger)))
        found = ledger.query(
            "SELECT vote FROM votes JOIN assignments USING (assignment) WHERE vote < ? AND "
            "comparison NOT IN (SELECT value FROM json_each(?)) ORDER BY vote DESC LIMIT ?",
            (before or 2**63 - 1, hidden, MOST_VOTES + 1),
        )
        chosen = [row["vote"] for row in found[:MOST_VOTES]]
        rows = ledger.query(
            "SELECT * FROM readable_votes WHERE vote IN (SELECT value FROM json_each(?)) "
            "ORDER BY vote DESC, i",
            (canonical(chosen),),
        )
    return (
        _environment()
        .get_template("operate/votes.html")
        .render(
            run=ledger.path.stem,
            votes=[list(own) for _, own in groupby(rows, key=itemgetter("vote"))],
            hidden=hidden != "[]",
            before=before,
            older=chosen[-1] if len(found) > MOST_VOTES else None,
        )
    )


def vitals(found: dict[str, Any], *, moves: bool) -> list[dict[str, Any]]:
    """The health figures of the last round that has them, and of the first."""
    made, health = [], found["page"]["health"]
    for key, title, unit, digits in VITALS:
        points = [(h["step"], h["figures"][key]) for h in health if key in h["figures"]]
        if not points or (key == "kl" and not moves):  # of coordinates, not of adopted weights
            continue
        made.append({
            "key": key, "title": title, "unit": unit, "digits": digits, "first": points[0][1],
            "last": points[-1][1], "broken": key in health[-1]["broken"],
            "band": guard_band(getattr(found["facts"].bands, key, None)),
        })  # fmt: skip
    return made


def guard_band(given: Band | None) -> str:
    """A guard's band in words, "" if it is open; a lower edge up to 0 counts as open.

    >>> guard_band((0.0, 4.0)), guard_band((8.0, 64.0)), guard_band(None)
    ('up to 4', '8–64', '')
    """
    lowest, highest = given or (-math.inf, math.inf)
    low, high = (lowest if lowest > 0 else None), (highest if math.isfinite(highest) else None)
    edges = [f"{edge:g}" for edge in (low, high) if edge is not None]
    return "–".join(edges) if low is not None else f"up to {edges[0]}" if edges else ""


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals and a typographic minus sign.

    >>> number(0.614), number(-1.5, 1), number(None)
    ('0.61', '−1.5', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def span(seconds: float | None) -> str:
    """A measured duration; `Sentences.roughly` is for estimates.

    >>> span(41.4), span(161), span(8000)
    ('41 s', '2:41', '2 h 13')
    """
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600} h {whole % 3600 // 60:02}"


def moment(at_us: float | None) -> Markup:
    """Date and time, or a dash; the script converts them to the reader's time zone."""
    return Markup("–") if at_us is None else time_tag(at_us, "%d %b, %H:%M UTC", "moment")


@cache
def _environment() -> Environment:
    return environment(
        filters={
            "num": number,
            "things": console.count,
            "span": span,
            "moment": moment,
            "clock": time_tag,
        },
        names={
            "choices": ENGLISH.choices,
            "share_names": NAMES,
            "share_bounds": BOUNDS,
            "whole": whole,
        },
    )
