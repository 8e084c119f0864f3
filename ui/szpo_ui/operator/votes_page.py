"""The browser of comparisons: plain HTML below the operator's page, its filter in the address.

Everything is read by one thread over a connection of its own that only reads, so that a search
neither waits for votes nor delays them. The page needs no script.

Texts are drawn as Markdown, as panelists see them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment
from markupsafe import Markup

from szpo.errors import SzpoError, UsageError
from szpo_ui.operator import (
    controls,
    vote_export,
    vote_filter,
    vote_pages,
    winning_words,
    word_search,
)
from szpo_ui.operator.page import moment, span
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import VoteIndex
from szpo_ui.operator.vote_pages import Item, Page, Text, TextRow
from szpo_ui.operator.winning_words import WinningWords
from szpo_ui.panel import formatted
from szpo_ui.web import login
from szpo_ui.web.diff import Piece, compare
from szpo_ui.web.markup import environment
from szpo_ui.web.requests import refuse
from szpo_ui.web.site import VOTES, Site

CATCH_UP_S: Final = 0.1
"""Seconds for which a page waits for the index; then it shows what the index has."""
GO_ON_S: Final = 0.02
"""Seconds of reading between requests for which a page may have to wait."""
_T = TypeVar("_T")


class Reader:
    """The thread that reads for the page, and its index, which is made at the first visit."""

    def __init__(self, site: Site):
        self._site: Final = site
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="szpo-browse")
        self._index: VoteIndex | None = None
        self._going_on = False

    def ask(self, look: Callable[[VoteIndex], _T], *, words: bool) -> Future[_T]:
        """Call ``look`` with the index, as far as it could be brought up to date.

        ``words``: it searches.
        """
        return self._thread.submit(self._look, look, words)

    def close(self) -> None:
        """Wait for what is being read, and close the file."""
        self._thread.shutdown(cancel_futures=True)
        if self._index is not None:
            self._index.close()

    def _look(self, look: Callable[[VoteIndex], _T], words: bool) -> _T:
        if self._index is None:
            self._index = VoteIndex(self._site.ledger.path, self._site.clock)
        more = self._catch_up(self._index, CATCH_UP_S, words=words)
        if more and not self._going_on:  # one is enough, however many pages are open
            self._going_on = True
            self._thread.submit(self._go_on)
        return look(self._index)

    def _catch_up(self, index: VoteIndex, seconds: float, *, words: bool = False) -> bool:
        """Bring the index up to date, for some seconds at most; True while there is more."""
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
    """The page and its downloads; the reader ends with the application."""
    reader = Reader(site)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(reader.close)

    made = APIRouter(lifespan=lifespan)

    @made.get(VOTES)
    async def page(request: Request) -> Response:
        login.identity(site, request, "operator")
        given = request.query_params.multi_items()
        try:
            chosen = vote_filter.parse(given)
            place = chosen.query(after=chosen.after, before=chosen.before)
            if len(given) != len(chosen.model_fields_set):  # a form sends its empty fields too
                return RedirectResponse(f"votes?{place}", 303)
            asked = reader.ask(partial(_read, chosen), words=chosen.q is not None)
            found, names, told = await asyncio.wrap_future(asked)
        except SzpoError as error:
            return HTMLResponse(_render(site, Filter(), refusal=error), _status(error))
        return HTMLResponse(_render(site, chosen, found, names, told))

    @made.get("/operate-api/votes.{form}")
    def download(form: str, request: Request) -> Response:
        login.identity(site, request, "operator")
        if form not in vote_export.FORMS:
            return refuse(404, "not_found", "votes are downloaded as .csv or .jsonl")
        try:
            chosen = vote_filter.parse(request.query_params.multi_items())
            words = chosen.q is not None
            file = vote_export.write(
                lambda look: reader.ask(look, words=words).result(), chosen, form
            )
        except SzpoError as error:
            return refuse(_status(error), "invalid", str(error))
        name = f"{vote_export.file_stem(site.ledger.path)}-votes.{form}"
        return StreamingResponse(
            vote_export.parts(file),
            media_type=vote_export.FORMS[form],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    return made


def _status(error: SzpoError) -> int:
    return 400 if isinstance(error, UsageError) else 503


def _read(chosen: Filter, index: VoteIndex) -> tuple[Page, list[str], WinningWords]:
    """The page, the pseudonyms of all panelists, and the words of preferred texts."""
    names = index.ledger.query("SELECT pseudonym FROM panelists ORDER BY rowid")
    found = vote_pages.read(index, chosen)
    # One comparison alone is shown whole, and so is its Markdown.
    most = MOST_LETTERS if chosen.comparison is None else vote_pages.MOST_LETTERS
    items = tuple(add_markup(found.items, chosen.q, most))
    told = winning_words.read(index, chosen)
    return replace(found, items=items), [row["pseudonym"] for row in names], told


def _render(
    site: Site,
    chosen: Filter,
    found: Page | None = None,
    names: Sequence[str] = (),
    told: WinningWords | None = None,
    refusal: SzpoError | None = None,
) -> str:
    return (
        _environment()
        .get_template("operate/votes.html")
        .render(
            run=site.ledger.path.stem,
            chosen=chosen,
            found=found,
            names=[(name, name) for name in names],
            told=told,
            refusal="" if refusal is None else str(refusal),
            view=site.config.panel.view,
        )
    )


@cache
def _environment() -> Environment:
    return environment(
        filters={"span": span, "moment": moment},
        names={
            "KINDS": vote_filter.KINDS,
            "ANSWERS": vote_filter.ANSWERS,
            "STATES": vote_filter.STATES,
            "SORTS": vote_filter.SORTS,
        },
    )


MOST_LETTERS: Final = 60_000
"""Characters that are formatted on a page of several comparisons; the rest is shown as written.
Without this bound, long answers would make a page wait for half a second."""


def add_markup(
    items: Iterable[Item], words: str | None, most: int = MOST_LETTERS
) -> Iterator[Item]:
    """The items with marks, and formatted where there is Markdown, for ``most`` characters.

    Marked are the ``words`` that are searched for, else the differences of the two answers. Both
    answers of a row are formatted, or neither.
    """
    left = most
    for item in items:
        rows = []
        for row in item.rows:
            needed = sum(len(text.written) for text in _texts(row))
            left -= needed
            rows.append(_format_row(row, words) if left >= 0 else row)
        yield replace(item, rows=tuple(rows))


def _texts(row: TextRow) -> list[Text]:
    """The texts of a row that a model wrote."""
    return [*row.answers, *(text for role, text in row.earlier if role == "assistant")]


def _format_row(row: TextRow, words: str | None) -> TextRow:
    first, second = _format(row.answers, words) if words else _compare(*row.answers)
    earlier = tuple(
        (role, _format([text], words)[0] if role == "assistant" else text)
        for role, text in row.earlier
    )
    return replace(row, answers=(first, second), earlier=earlier)


def _compare(first: Text, second: Text) -> tuple[Text, Text]:
    """Both answers with their differences marked, as their panelists saw them."""
    a, b = first.written, second.written
    found, html = compare(a, b), formatted.pair(a, b) or (None, None)
    return (
        replace(first, pieces=found.a, formatted=html[0]),
        replace(second, pieces=found.b, formatted=html[1]),
    )


def _format(texts: Sequence[Text], words: str | None) -> list[Text]:
    found = _html(tuple(text.written for text in texts), words)
    if found is None:
        return list(texts)
    return [replace(text, formatted=html) for text, html in zip(texts, found, strict=True)]


@lru_cache(maxsize=formatted.CACHED)
def _html(written: tuple[str, ...], words: str | None) -> tuple[Markup, ...] | None:
    """Texts as formatted HTML; stored, since an open page is drawn again and again."""

    def mark(visible: str) -> Sequence[Piece]:
        return [Piece(visible)] if words is None else word_search.mark(visible, words)

    found = formatted.with_marks(written, mark)
    return None if found is None else tuple(found)
