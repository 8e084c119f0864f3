"""A comparison as one panelist sees it: order, sides and marks resolved; pure.

Rendered objects know sides A and B only. Which policy a letter stands for is recorded with the
seat in the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from szpo.training.summary import WORDS_PER_MINUTE
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo_ui.web.diff import Piece, compare, words

LEAST_SHARE: Final = 0.25
"""Share of the reading time before which a vote counts as fast."""
LONGEST_GATE_S: Final = 30.0
"""No vote later than this counts as fast, seconds."""


@dataclass(frozen=True, slots=True)
class Side:
    """One answer: its text in pieces, and whether it was cut at the limit of tokens."""

    pieces: tuple[Piece, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its two answers; ``row`` is its place in the comparison, before shuffling."""

    row: int
    prompt: str
    earlier: tuple[tuple[str, str], ...]
    """(role, text) of the turns before the one that was answered."""
    a: Side
    b: Side
    similarity: float | None
    same: bool


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a comparison shows: pairs that differ, pairs that do not, and the words to read."""

    seat: str
    pairs: tuple[Pair, ...]
    same: tuple[Pair, ...]
    words: int
    """Of prompts and answers of the pairs that differ."""

    @property
    def minutes(self) -> int:
        """Whole minutes of reading, at least one."""
        return max(1, math.ceil(self.words / WORDS_PER_MINUTE))

    @property
    def gate_s(self) -> float:
        """Seconds before which a vote is fast: a quarter of the reading time, 30 at most.

        >>> Sheet("", (), (), words=238).gate_s, Sheet("", (), (), words=10_000).gate_s
        (15.0, 30.0)
        """
        return min(LONGEST_GATE_S, LEAST_SHARE * 60 * self.words / WORDS_PER_MINUTE)

    @property
    def similarity(self) -> float | None:
        """Mean similarity of the compared pairs that differ; None where none was compared."""
        found = [pair.similarity for pair in self.pairs if pair.similarity is not None]
        return round(sum(found) / len(found), 3) if found else None


def sheet(comparison: Comparison, seat: Assignment) -> Sheet:
    """The comparison in the seat's order of prompts, with the seat's sides."""
    pairs = []
    for i in seat.prompt_order:
        row = comparison.rows[i]
        pairs.append(_pair(i, row.prompt, *seat.sides(row)))
    return Sheet(
        seat=seat.id,
        pairs=tuple(pair for pair in pairs if not pair.same),
        same=tuple(pair for pair in pairs if pair.same),
        words=sum(_words(comparison, pair.row) for pair in pairs if not pair.same),
    )


def _pair(row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    found = compare(a.text, b.text)
    return Pair(
        row=row,
        prompt=prompt.text,
        earlier=prompt.turns[:-1],
        a=Side(found.a, a.end == "length"),
        b=Side(found.b, b.end == "length"),
        similarity=found.similarity,
        same=a.text == b.text,
    )


def _words(comparison: Comparison, i: int) -> int:
    row = comparison.rows[i]
    return words(row.prompt.text) + words(row.plus.text) + words(row.minus.text)
