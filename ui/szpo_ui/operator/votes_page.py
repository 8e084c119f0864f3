"""The vote browser: plain HTML below the operator's page, with its filter in the address.

One thread reads everything over its own read-only connection, so a search neither waits for votes
nor delays them. The page works without its script.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment

from szpo.errors import SzpoError, UsageError
from szpo_ui.operator import controls, vote_export, vote_filter, vote_pages
from szpo_ui.operator.page import download, moment, span
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import VoteIndex
from szpo_ui.web import login
from szpo_ui.web.markup import environment
from szpo_ui.web.requests import refuse
from szpo_ui.web.site import VOTES, Site

CATCH_UP_S: Final = 0.1
"""Seconds that a page waits for the index; then it shows the rows indexed so far."""
GO_ON_S: Final = 0.02
"""Seconds of reading at a time between requests; a page may have to wait this long."""
_T = TypeVar("_T")


class Reader:
    """The thread that reads for the page, and its index, made at the first visit."""

    def __init__(self, site: Site):
        self._site: Final = site
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="szpo-browse")
        self._index: VoteIndex | None = None
        self._going_on = False

    def ask(self, look: Callable[[VoteIndex], _T], chosen: Filter) -> Future[_T]:
        """Call ``look`` with the index, after updating it for at most `CATCH_UP_S`."""
        return self._thread.submit(self._look, look, chosen.q is not None)

    def close(self) -> None:
        """Wait for the current read to end, and close the file."""
        self._thread.shutdown(cancel_futures=True)
        if self._index is not None:
            self._index.close()

    def _look(self, look: Callable[[VoteIndex], _T], words: bool) -> _T:
        if self._index is None:
            self._index = VoteIndex(self._site.ledger.path, self._site.ledger.clock)
        more = self._catch_up(self._index, CATCH_UP_S, words=words)
        if more and not self._going_on:  # one such task is enough, however many pages are open
            self._going_on = True
            self._thread.submit(self._go_on)
        return look(self._index)

    def _catch_up(self, index: VoteIndex, seconds: float, *, words: bool = False) -> bool:
        """Update the index for at most some seconds; True while there is more to read."""
        until, live = time.monotonic() + seconds, controls.is_live(index.ledger)
        while more := index.advance(live=live, words=words):
            if time.monotonic() > until:
                break
        return more

    def _go_on(self) -> None:
        """Read on between requests until nothing is left."""
        self._going_on = False
        if self._index is not None and self._catch_up(self._index, GO_ON_S):
            self._going_on = True
            self._thread.submit(self._go_on)


def router(site: Site) -> APIRouter:
    """The routes of the page and its downloads; the reader ends with the application."""
    reader = Reader(site)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(reader.close)

    made = APIRouter(lifespan=lifespan)

    @made.get(VOTES)
    async def page(request: Request) -> Response:
        login.identity(request, "operator")
        given = request.query_params.multi_items()
        try:
            chosen = vote_filter.parse(given)
            place = chosen.query(after=chosen.after, before=chosen.before)
            if len(given) != len(chosen.model_fields_set):  # a form sends its empty fields too
                return RedirectResponse(f"votes?{place}", 303)
            found = await asyncio.wrap_future(reader.ask(partial(read, chosen), chosen))
        except SzpoError as error:
            return HTMLResponse(render(site, Filter(), refusal=str(error)), _status(error))
        return HTMLResponse(render(site, chosen, **found))

    @made.get("/operate-api/votes.{form}")
    def table(form: str, request: Request) -> Response:
        login.identity(request, "operator")
        if form not in vote_export.FORMS:
            return refuse(404, "not_found", "votes are downloaded as .csv or .jsonl")
        try:
            chosen = vote_filter.parse(request.query_params.multi_items())
            file = vote_export.write(lambda look: reader.ask(look, chosen).result(), chosen, form)
        except SzpoError as error:
            return refuse(_status(error), "invalid", str(error))
        return download(site, f"-votes.{form}", vote_export.FORMS[form], file)

    return made


def _status(error: SzpoError) -> int:
    return 400 if isinstance(error, UsageError) else 503


def read(chosen: Filter, index: VoteIndex) -> dict[str, Any]:
    """The page's content: comparisons, pseudonyms of all panelists, words of preferred texts."""
    names = index.ledger.query("SELECT pseudonym FROM panelists ORDER BY rowid")
    return {
        "found": vote_pages.read(index, chosen),
        "names": [(row["pseudonym"], row["pseudonym"]) for row in names],
        "told": vote_pages.winning_words(index, chosen),
    }


def render(
    site: Site,
    chosen: Filter,
    *,
    found: dict[str, Any] | None = None,
    names: object = (),
    told: object = None,
    refusal: str = "",
) -> str:
    """The page as HTML, with the comparisons found or the reason of a refusal."""
    template = _environment().get_template("operate/votes.html")
    return template.render(
        run=site.ledger.path.stem, chosen=chosen, found=found, names=names, told=told,
        refusal=refusal, view=site.config.panel.view,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    names = {name: getattr(vote_filter, name) for name in ("KINDS", "ANSWERS", "STATES", "SORTS")}
    return environment(filters={"span": span, "moment": moment}, names=names)
