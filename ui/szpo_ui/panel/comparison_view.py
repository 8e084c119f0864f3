"""A comparison as one panelist sees it: order, sides and marks resolved; pure.

Rendered objects know sides A and B only. Which policy a letter stands for is recorded with the
seat in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from szpo.training.budget import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo_ui.panel import markdown
from szpo_ui.web.ballots import gate_s, is_unfolded, to_read
from szpo_ui.web.diff import Piece, Pieces, compare
from szpo_ui.web.markup import whole


@dataclass(frozen=True, slots=True)
class Text:
    """A text in pieces, marked ones apart; ``cut`` is its end at the limit of tokens."""

    pieces: Pieces
    cut: bool
    longer: int = 0
    """Characters left out."""
    formatted: Markup | None = None
    """The same as HTML where there is Markdown in it; None where it is shown as written."""

    def __str__(self) -> str:
        """The text as the model wrote it, as far as it is shown."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its two answers; ``row`` is its place in the comparison, before shuffling."""

    row: int
    prompt: str
    earlier: tuple[tuple[str, Text], ...]
    """The turns before the one that was answered, by role; what the model wrote is formatted."""
    a: Text
    b: Text
    same: bool
    unfolded: bool
    """The earlier turns are a short conversation, which a reader of the answers needs."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a comparison shows: pairs that differ, pairs that do not, and the words to read."""

    pairs: tuple[Pair, ...]
    same: tuple[Pair, ...]
    words: int
    """Of prompts, unfolded conversations and answers of the pairs that differ."""
    minutes: int
    """Whole minutes of reading; 0 is under one."""
    gate_s: float
    """Seconds before which a vote is fast."""
    formatted: bool
    """Some text is shown otherwise than it was written."""


def sheet(comparison: Comparison, seat: Assignment) -> Sheet:
    """The comparison in the seat's order of prompts, with the seat's sides."""
    rows = [(i, comparison.rows[i]) for i in seat.prompt_order]
    pairs = [_pair(i, row.prompt, *seat.sides(row)) for i, row in rows]
    words = to_read(comparison)
    return Sheet(
        pairs=tuple(pair for pair in pairs if not pair.same),
        same=tuple(pair for pair in pairs if pair.same),
        words=words,
        minutes=0 if words < WORDS_PER_MINUTE else math.ceil(words / WORDS_PER_MINUTE),
        gate_s=gate_s(words),
        formatted=any(
            text.formatted is not None
            for pair in pairs
            for text in (pair.a, pair.b, *(text for _, text in pair.earlier))
        ),
    )


def _pair(row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    written = [whole(each.text, cut=each.end == "length") for each in (a, b)]
    left, right = (
        Text(pieces, each.end == "length", formatted=html)
        for each, (pieces, html) in zip((a, b), compare_texts(*written), strict=True)
    )
    return Pair(
        row=row,
        prompt=prompt.text,
        earlier=tuple(_turn(role, text) for role, text in prompt.turns[:-1]),
        a=left,
        b=right,
        same=a.text == b.text,
        unfolded=is_unfolded(prompt),
    )


def compare_texts(a: str, b: str) -> Iterator[tuple[Pieces, Markup | None]]:
    """Of both answers to a prompt the pieces, and HTML where both are shown formatted."""
    return zip(compare(a, b), markdown.pair(a, b) or (None, None), strict=True)


def _turn(role: str, text: str) -> tuple[str, Text]:
    html = markdown.single(text) if role == "assistant" else None
    return role, Text((Piece(text),), cut=False, formatted=html)
