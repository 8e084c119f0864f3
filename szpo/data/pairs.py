"""Preference pairs, and how rankings and ratings of answers to one prompt become pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

from szpo.data import text_files
from szpo.data.prompts import Turns, add_system
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo.visible_text import is_blank

Source: TypeAlias = Literal["pair", "batch", "note", "ranking", "file", "judge"]
End: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, the answer that was preferred and the one that was not. A tie gives no pair."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    source: Source = "pair"
    """Where the preference is from: a vote on these two answers, on a whole batch, …"""
    votes: int = 1
    """Number of votes behind it; all rows of a batch have the votes on the batch."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """The pairs of a record, file, run or round of questions, and counts of the rest."""

    pairs: Sequence[Pair]
    ties: int = 0
    """Comparisons without a preferred answer, skipped ones of a run included."""
    records: int = 0
    """Number of records read from a file, or of comparisons of a run with votes."""
    bad: tuple[str, ...] = ()
    """For each record of a file that was left out: its line and why."""
    unused: int = 0
    """Votes on batches with rows that were left out, since nobody judged them singly."""


def order_by_rank(ranks: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """List (better, worse) for all answers whose ranks differ; the lowest rank is the best.

    A ranking of n answers without ties gives n(n − 1)/2 pairs.

    >>> order_by_rank([3, 1, 2])
    ((1, 0), (2, 0), (1, 2))
    >>> len(order_by_rank([2, 4, 1, 3]))
    6
    """
    return tuple(
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    )


def make_pairs(
    prompt: Prompt, answers: Sequence[str], ranks: Sequence[float], source: Source
) -> Preferences:
    """Make the pairs of ranked answers to one prompt; equal ranks or equal texts are ties."""
    pairs = [
        Pair(prompt, _answer(answers[better]), _answer(answers[worse]), source)
        for better, worse in order_by_rank(ranks)
        if answers[better] != answers[worse]
    ]
    count = len(answers)
    return Preferences(tuple(pairs), count * (count - 1) // 2 - len(pairs))


def make_pair(
    prompt: Prompt,
    chosen: str,
    rejected: str,
    source: Source = "file",
    votes: int = 1,
    ends: tuple[End, End] = ("stop", "stop"),
) -> Preferences:
    """Make one pair from a preferred answer and another one; equal texts are a tie."""
    if chosen == rejected:
        return Preferences((), 1)
    better, worse = _answer(chosen, ends[0]), _answer(rejected, ends[1])
    return Preferences((Pair(prompt, better, worse, source, votes),))


def make_prompt(turns: Turns, record: Mapping[str, Any], where: str) -> Prompt:
    """Make a prompt from turns (role, text) and the record's system prompt, cleaned for UTF-8."""
    return text_files.clean_prompt(Prompt(add_system(turns, record, where)))


def get_text(record: dict[str, object], key: str, where: str, *, blank: bool = False) -> str:
    """Return the text under ``key`` of a record; ``blank``: it may be empty."""
    value = record.get(key)
    if value is None:
        raise UsageError(f"{where}: needs {key} (found: {text_files.list_keys(record)})")
    return require_text(value, f"{where}: {key}", blank=blank)


def require_text(value: object, where: str, *, blank: bool = False) -> str:
    """Return a value that must be text without NUL; ``where`` ends with its name.

    Only with ``blank`` it may be empty or show nothing.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where} must be text (got {type(value).__name__})")
    if "\0" in value:
        raise UsageError(f"{where} holds a NUL character; remove it")
    if not blank and is_blank(value):
        raise UsageError(f"{where} is empty")
    return value


def _answer(words: str, end: End = "stop") -> Answer:
    return text_files.clean_answer(Answer(words, end))
