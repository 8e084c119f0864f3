"""Markdown of the texts on a page of the browser of comparisons, as panelists see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from markupsafe import Markup

from szpo_ui.operator import word_search
from szpo_ui.operator.vote_pages import Item, Text, TextRow
from szpo_ui.panel import formatted
from szpo_ui.web.diff import Piece

MOST_LETTERS: Final = 60_000
"""Characters that are formatted on a page of several comparisons; the rest is shown as written.
Without this bound, long answers would make a page wait for half a second."""


def add_markup(
    items: Iterable[Item], words: str | None, most: int = MOST_LETTERS
) -> Iterator[Item]:
    """The items with formatted texts where there is Markdown, in order, for ``most`` characters.

    ``words`` are searched for and marked. Both answers of a row are formatted, or neither.
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
    first, second = _format(row.answers, words)
    earlier = tuple(
        (role, _format([text], words)[0] if role == "assistant" else text)
        for role, text in row.earlier
    )
    return replace(row, answers=(first, second), earlier=earlier)


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
