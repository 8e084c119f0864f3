"""What one panelist sees at once, with its order, sides and difference marks; pure.

The objects here know only sides A and B. Which policy a letter stands for is recorded with the
seat in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from szpo.generation.whole_sentences import is_cut
from szpo.training.budget import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo_ui.panel import markdown
from szpo_ui.web.ballots import gate_s, is_unfolded, to_read
from szpo_ui.web.diff import Piece, Pieces, compare
from szpo_ui.web.markup import whole


@dataclass(frozen=True, slots=True)
class Text:
    """A text, split where it differs from the other side's; ``cut``: it hit the token limit."""

    pieces: Pieces
    cut: bool
    formatted: Markup | None = None
    """The text as HTML if it has Markdown; None if it is shown as written."""

    def __str__(self) -> str:
        """The shown part of the text, as the model wrote it."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its two answers; ``row`` is its index in the comparison, before shuffling."""

    seat: str
    row: int
    prompt: str
    earlier: tuple[tuple[str, Text], ...]
    """The turns before the last one, each with its role; the model's turns are formatted."""
    a: Text
    b: Text
    same: bool
    unfolded: bool
    """The earlier turns are a short conversation, so they are shown unfolded."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A comparison, or several of one row: pairs that differ, pairs that do not, reading time."""

    pairs: tuple[Pair, ...]
    same: tuple[Pair, ...]
    words: int
    """Words in the prompts, unfolded conversations and answers of the pairs that differ."""
    minutes: int
    """Reading time in minutes, rounded up; 0 if it is under one."""
    gate_s: float
    """A vote sooner than this many seconds counts as fast."""
    formatted: bool
    """Some text is shown as formatted Markdown."""


def sheet(shown: Sequence[tuple[Comparison, Assignment]]) -> Sheet:
    """The comparisons with the order of prompts and the sides that their seats recorded."""
    pairs = [
        _pair(seat.id, i, row.prompt, *seat.sides(row))
        for comparison, seat in shown
        for i, row in ((i, comparison.rows[i]) for i in seat.prompt_order)
    ]
    words = sum(to_read(comparison) for comparison, _ in shown)
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


def _pair(seat: str, row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    written = [whole(each.text, cut=is_cut(each)) for each in (a, b)]
    formatted = markdown.pair(*written) or (None, None)
    left, right = (
        Text(pieces, is_cut(each), html)
        for each, pieces, html in zip((a, b), compare(*written), formatted, strict=True)
    )
    return Pair(
        seat=seat,
        row=row,
        prompt=prompt.text,
        earlier=tuple(_turn(role, text) for role, text in prompt.turns[:-1]),
        a=left,
        b=right,
        same=a.text == b.text,
        unfolded=is_unfolded(prompt),
    )


def _turn(role: str, text: str) -> tuple[str, Text]:
    html = markdown.single(text) if role == "assistant" else None
    return role, Text((Piece(text),), cut=False, formatted=html)
