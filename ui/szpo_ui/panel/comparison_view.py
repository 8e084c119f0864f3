"""A comparison as one panelist sees it: order, sides and marks resolved; pure.

Rendered objects know sides A and B only. Which policy a letter stands for is recorded with the
seat in the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from markupsafe import Markup

from szpo.training.budget import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt, Row
from szpo_ui.languages.texts import ENGLISH, Language
from szpo_ui.panel import formatted
from szpo_ui.web.diff import Piece, compare, words
from szpo_ui.web.markup import whole

LEAST_SHARE: Final = 0.25
"""Share of the reading time before which a vote counts as fast."""
LONGEST_GATE_S: Final = 30.0
"""No vote later than this counts as fast, seconds."""
SHORT_TALK: Final = 150
"""Words up to which the earlier turns of a conversation are unfolded."""


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

    @property
    def formatted(self) -> bool:
        """Some text is shown otherwise than it was written."""
        pairs = (*self.pairs, *self.same)
        answers = (side.formatted for pair in pairs for side in (pair.a, pair.b))
        turns = (turn.formatted for pair in pairs for turn in pair.earlier)
        return any(html is not None for html in (*answers, *turns))

    @property
    def minutes(self) -> int:
        """Whole minutes of reading; 0 is under one."""
        found = self.words / WORDS_PER_MINUTE
        return 0 if found < 1 else math.ceil(found)

    @property
    def gate_s(self) -> float:
        """Seconds before which a vote is fast."""
        return gate_s(self.words)


def gate_s(words: int) -> float:
    """Seconds before which a vote on so many words is fast: a quarter of the reading time.

    >>> gate_s(238), gate_s(10_000)
    (15.0, 30.0)
    """
    return min(LONGEST_GATE_S, LEAST_SHARE * 60 * words / WORDS_PER_MINUTE)


def words_to_read(comparison: Comparison) -> int:
    """The words of prompts, unfolded conversations and answers of the pairs that differ."""
    return sum(
        _prompt_words(row.prompt) + words(row.plus.text) + words(row.minus.text)
        for row in comparison.rows
        if not row.identical
    )


def in_language(comparison: Comparison, language: Language) -> Comparison:
    """The comparison as a reader gets it: the practice comparison, szpo's own, in their language.

    The record holds it in English. Texts of prompts and models are never translated.
    """
    if comparison.kind != "practice" or language is ENGLISH:
        return comparison
    rows = (
        Row(Prompt.user(each["prompt"]), Answer(each["better"]), Answer(each["worse"]))
        for each in language.practice
    )
    return replace(comparison, rows=tuple(rows))


def sheet(comparison: Comparison, seat: Assignment) -> Sheet:
    """The comparison in the seat's order of prompts, with the seat's sides."""
    rows = [(i, comparison.rows[i]) for i in seat.prompt_order]
    pairs = [_pair(i, row.prompt, *seat.sides(row)) for i, row in rows]
    return Sheet(
        seat=seat.id,
        pairs=tuple(pair for pair in pairs if not pair.same),
        same=tuple(pair for pair in pairs if pair.same),
        words=words_to_read(comparison),
    )


def _pair(row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    left, right = (whole(each.text, cut=each.end == "length") for each in (a, b))
    found, html = compare(left, right), formatted.pair(left, right) or (None, None)
    return Pair(
        row=row,
        prompt=prompt.text,
        earlier=tuple(_turn(role, text) for role, text in prompt.turns[:-1]),
        a=Side(found.a, a.end == "length", html[0]),
        b=Side(found.b, b.end == "length", html[1]),
        same=a.text == b.text,
        unfolded=_is_unfolded(prompt),
    )


def _turn(role: str, text: str) -> Turn:
    return Turn(role, text, formatted.single(text) if role == "assistant" else None)


def _prompt_words(prompt: Prompt) -> int:
    return words(prompt.text) + (_talk_words(prompt) if _is_unfolded(prompt) else 0)


def _talk_words(prompt: Prompt) -> int:
    return sum(words(text) for _, text in prompt.turns[:-1])


def _is_unfolded(prompt: Prompt) -> bool:
    spoken = any(role != "system" for role, _ in prompt.turns[:-1])
    return spoken and _talk_words(prompt) <= SHORT_TALK
