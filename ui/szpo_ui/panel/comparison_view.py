"""A comparison as one panelist sees it: order, sides and marks resolved; pure.

Rendered objects know sides A and B only. Which policy a letter stands for is recorded with the
seat in the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from szpo.training.budget import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo_ui.panel import markdown
from szpo_ui.web.ballots import gate_s, is_unfolded, to_read
from szpo_ui.web.diff import Piece, compare
from szpo_ui.web.markup import whole


@dataclass(frozen=True, slots=True)
class Side:
    """One answer: its text in pieces, and whether it was cut at the limit of tokens."""

    pieces: tuple[Piece, ...]
    cut: bool
    formatted: Markup | None = None
    """The text as formatted HTML; None where both sides of the pair are shown as they are."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the conversation before the one that was answered."""

    role: str
    text: str
    formatted: Markup | None = None
    """As HTML, where the model wrote it and there is something to format."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its two answers; ``row`` is its place in the comparison, before shuffling."""

    row: int
    prompt: str
    earlier: tuple[Turn, ...]
    """The turns before the one that was answered."""
    a: Side
    b: Side
    same: bool
    unfolded: bool
    """The earlier turns are a short conversation, which a reader of the answers needs."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a comparison shows: pairs that differ, pairs that do not, and the words to read."""

    seat: str
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
        seat=seat.id,
        pairs=tuple(pair for pair in pairs if not pair.same),
        same=tuple(pair for pair in pairs if pair.same),
        words=words,
        minutes=0 if words < WORDS_PER_MINUTE else math.ceil(words / WORDS_PER_MINUTE),
        gate_s=gate_s(words),
        formatted=any(
            html is not None
            for pair in pairs
            for html in (pair.a.formatted, pair.b.formatted, *(t.formatted for t in pair.earlier))
        ),
    )


def _pair(row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    left, right = (whole(each.text, cut=each.end == "length") for each in (a, b))
    found, html = compare(left, right), markdown.pair(left, right) or (None, None)
    return Pair(
        row=row,
        prompt=prompt.text,
        earlier=tuple(_turn(role, text) for role, text in prompt.turns[:-1]),
        a=Side(found.a, a.end == "length", html[0]),
        b=Side(found.b, b.end == "length", html[1]),
        same=a.text == b.text,
        unfolded=is_unfolded(prompt),
    )


def _turn(role: str, text: str) -> Turn:
    return Turn(role, text, markdown.single(text) if role == "assistant" else None)
