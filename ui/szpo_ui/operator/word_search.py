"""Search queries: as full-text expressions of SQLite, and as marks in a text; pure.

A text must contain every word of the query. Words of three or more letters match as prefixes.
Case and accents do not matter. Words in quotation marks must be adjacent. Chinese and Japanese
are searched by character.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from szpo.errors import UsageError
from szpo_ui.web.diff import Piece

TOKENIZER: Final = "unicode61 remove_diacritics 2"
"""How the full-text index splits texts into words."""
BEGINNING: Final = 3
"""A word with this many letters or more matches as a prefix; a shorter prefix would match most
words of a run, which takes seconds."""
MOST_MARKS: Final = 30
"""Most words marked in one text: more would help nobody and take time to draw."""
_LONE: Final = "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Characters that count as words, since their scripts use no spaces."""
_UNSPACED: Final = re.compile(f"({_LONE})")
_BEGINS: Final = rf"(?:(?<![^\W_])|(?={_LONE}))"
_ENDS: Final = rf"(?:(?![^\W_])|(?<={_LONE}))"
"""Patterns for the places where a word may begin and end."""
_PARTS: Final = re.compile(r'"([^"]*)"|([^\s"]+)')
_WORD: Final = re.compile(r"[^\W_]+")


def with_spaces(text: str) -> str:
    """The text with spaces around each character that counts as a word.

    >>> with_spaces("Tea 好茶")
    'Tea  好  茶 '
    """
    return text if text.isascii() else _UNSPACED.sub(r" \1 ", text)


def expression(query: str) -> str:
    """The full-text expression of a query.

    Raises:
        UsageError: there is no word in it.

    >>> expression('tea "in the rain" a-b')
    '"tea"* AND "in the rain"* AND "a b"'
    """
    return " AND ".join(
        f'"{" ".join(words)}"' + "*" * _is_beginning(words) for words in _split(query)
    )


def mark(text: str, query: str) -> tuple[Piece, ...]:
    """The text in pieces; ``differs`` marks the query's words. Joined, they are the text.

    After `MOST_MARKS` marks, the rest is one piece.

    >>> mark("Green tea.", "tea")
    (Piece(text='Green ', differs=False), Piece(text='tea', differs=True), Piece(text='.', differs=False))
    """  # noqa: E501
    ways = (
        r"[\W_]*".join(map(re.escape, words)) + ("" if _is_beginning(words) else _ENDS)
        for words in _split(query)
    )
    found = re.compile(f"{_BEGINS}(?:{'|'.join(ways)})", re.IGNORECASE)
    pieces, at = [], 0
    for match in islice(found.finditer(text), MOST_MARKS):
        pieces += [Piece(text[at : match.start()]), Piece(match[0], differs=True)]
        at = match.end()
    return tuple(piece for piece in (*pieces, Piece(text[at:])) if piece.text)


def _is_beginning(words: list[str]) -> bool:
    """Whether the last of these words matches as a prefix."""
    return len(words[-1]) >= BEGINNING


def _split(query: str) -> list[list[str]]:
    """The words of each part of a query."""
    parts = (phrase or word for phrase, word in _PARTS.findall(query))
    found = [words for part in parts if (words := _WORD.findall(with_spaces(part)))]
    if not found:
        raise UsageError("search: there is no letter and no number in it; type a word")
    return found
