"""Data of the gradient methods: preferences from votes on answers or batches, and scored tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from szpo.data.pairs import Pair, Source
from szpo.types import Answer, Prompt, Row, Verdict

Ask: TypeAlias = Callable[[Sequence[tuple[Row, ...]], bool, bytes], Sequence[Verdict]]
"""An annotator or panel that compares: one vote on each question, plus the first of its answers.

It gets questions that differ (rows of a prompt and two answers), whether they are single pairs
rather than batches, and the key that all of its randomness comes from.
"""
Score: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""One number per answer: a learned reward, or a verifier (1 right, 0 wrong)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts to answer and the score of an answer: what reinforcement learning works on."""

    prompts: Sequence[Prompt]
    score: Score


def pair_of(row: Row, verdict: Verdict, *, source: Source = "pair", votes: int = 1) -> Pair | None:
    """The pair that a verdict makes of a row; None for a tie, a skip or equal texts.

    >>> pair_of(Row(Prompt.user("Hello?"), Answer("Hi."), Answer("No.")), "minus").chosen.text
    'No.'
    """
    if verdict in ("tie", "skip") or row.identical:
        return None
    chosen, rejected = (row.plus, row.minus) if verdict == "plus" else (row.minus, row.plus)
    return Pair(row.prompt, chosen, rejected, source, votes)
