"""Preference pairs, and how rankings and ratings of answers to one prompt become pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

from szpo.data import text_files
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

Source: TypeAlias = Literal["pair", "batch", "note", "ranking", "file", "judge"]
End: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, the answer that was preferred and the one that was not. A tie gives no pair."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    source: Source = "pair"
    """The origin of the preference: a vote on these two, the verdict on a whole batch, …"""
    votes: int = 1
    """Number of votes that it comes from; rows of one batch verdict share their votes."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """The pairs of a record, a file, a run or a round of questions, and what gave none."""

    pairs: Sequence[Pair]
    ties: int = 0
    """Comparisons that prefer neither answer, or were skipped."""
    records: int = 0
    """Records of a file that were read, or comparisons of a run that were voted on."""
    bad: tuple[str, ...] = ()
    """Why records of a file were left out, each with its line."""


def order_by_rank(ranks: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """List (better, worse) for every two answers whose ranks differ; the lowest rank is the best.

    A ranking of n answers without ties gives n(n − 1)/2.

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
    """Make the pairs of a ranking of answers to one prompt; equal ranks or texts make a tie."""
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
    """Make the pair of an answer that was preferred to another; equal texts make a tie."""
    if chosen == rejected:
        return Preferences((), 1)
    better, worse = _answer(chosen, ends[0]), _answer(rejected, ends[1])
    return Preferences((Pair(prompt, better, worse, source, votes),))


def make_prompt(turns: Sequence[tuple[str, str]]) -> Prompt:
    """Make a prompt of turns (role, text), as UTF-8 can hold it."""
    return text_files.clean_prompt(Prompt(tuple(turns)))


def get_text(record: dict[str, object], key: str, where: str) -> str:
    """Return the text under ``key`` of a record.

    Raises:
        UsageError: it is missing, is no text, or holds a NUL.
    """
    value = record.get(key)
    if value is None:
        raise UsageError(f"{where}: needs {key} (found: {text_files.list_keys(record)})")
    return require_text(value, f"{where}: {key}")


def require_text(value: object, where: str) -> str:
    """Return a value that must be a text without NUL; ``where`` ends with its name.

    Raises:
        UsageError: it is no such text.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where} must be text (got {type(value).__name__})")
    if "\0" in value:
        raise UsageError(f"{where} holds a NUL character; remove it")
    return value


def _answer(words: str, end: End = "stop") -> Answer:
    return text_files.clean_answer(Answer(words, end))
