"""What one panelist sees at once: pairs of texts in their seats' order and sides.

It knows only sides A and B. Which policy a letter stands for is recorded with the seat in the
ledger. Both answers of a pair are formatted, or neither is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from szpo.models.answer_shares import is_cut
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo_ui.formatting import formatted
from szpo_ui.markup import whole

LEAST_SHARE: Final = 0.25
"""A vote before this share of the reading time counts as fast."""
LONGEST_GATE_S: Final = 30.0
"""A vote after this many seconds never counts as fast."""
SHORT_TALK: Final = 150
"""The earlier turns of a conversation are unfolded if they have at most this many words."""


def gate_s(words: int) -> float:
    """A vote on so many words is fast before this many seconds, a quarter of the reading time.

    >>> gate_s(238), gate_s(10_000)
    (15.0, 30.0)
    """
    return min(LONGEST_GATE_S, LEAST_SHARE * 60 * words / WORDS_PER_MINUTE)


def to_read(comparison: Comparison) -> int:
    """Number of words in prompts, unfolded conversations and answers of the pairs that differ."""
    texts: list[str] = []
    for row in comparison.rows:
        if not row.identical:
            texts += [row.plus.text, row.minus.text, row.prompt.text]
            if is_unfolded(row.prompt):
                texts += [text for _, text in row.prompt.turns[:-1]]
    return sum(len(text.split()) for text in texts)


def is_unfolded(prompt: Prompt) -> bool:
    """Whether the earlier turns are a short conversation, which is then shown unfolded."""
    turns = prompt.turns[:-1]
    spoken = any(role != "system" for role, _ in turns)
    return spoken and sum(len(text.split()) for _, text in turns) <= SHORT_TALK


@dataclass(frozen=True, slots=True)
class Text:
    """The shown part of a text as the model wrote it; ``cut``: it hit the token limit."""

    text: str
    cut: bool
    formatted: Markup | None = None
    """The text as HTML if it has Markdown; None if it is shown as written."""


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
    left, right = (
        Text(text, is_cut(each), html)
        for each, text, html in zip(
            (a, b), written, formatted(*written) or (None, None), strict=True
        )
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
    html = formatted(text) if role == "assistant" else None
    return role, Text(text, cut=False, formatted=html[0] if html else None)
