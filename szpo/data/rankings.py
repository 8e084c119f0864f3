"""From what an evaluator said of several answers to pairs: rankings, ratings, one against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

from szpo.data import text_files
from szpo.data.pairs import Pair, Source
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

End: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one record holds: pairs, and how many comparisons prefer neither answer."""

    pairs: tuple[Pair, ...]
    ties: int = 0


def ordered(ranks: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """(better, worse) places of every two answers whose ranks differ; rank 1 is the best.

    A ranking of n answers without ties gives n(n − 1)/2.

    >>> ordered([3, 1, 2])
    ((1, 0), (2, 0), (1, 2))
    >>> len(ordered([2, 4, 1, 3]))
    6
    """
    return tuple(
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] != ranks[j]
    )


def ranked(
    prompt: Prompt, answers: Sequence[str], ranks: Sequence[float], source: Source
) -> Found:
    """The pairs of a ranking of answers to one prompt; equal ranks or texts make a tie."""
    pairs = [
        Pair(prompt, _answer(answers[better]), _answer(answers[worse]), source)
        for better, worse in ordered(ranks)
        if answers[better] != answers[worse]
    ]
    count = len(answers)
    return Found(tuple(pairs), count * (count - 1) // 2 - len(pairs))


def single(
    prompt: Prompt,
    chosen: str,
    rejected: str,
    source: Source = "file",
    votes: int = 1,
    ends: tuple[End, End] = ("stop", "stop"),
) -> Found:
    """One answer that was preferred to another; equal texts make a tie."""
    if chosen == rejected:
        return Found((), 1)
    better, worse = _answer(chosen, ends[0]), _answer(rejected, ends[1])
    return Found((Pair(prompt, better, worse, source, votes),))


def asked(turns: Sequence[tuple[str, str]]) -> Prompt:
    """A prompt of these turns, as UTF-8 can hold it."""
    return text_files.clean(Prompt(tuple(turns)))


def text(record: dict[str, object], key: str, where: str) -> str:
    """A text of a record.

    Raises:
        UsageError: it is not there, is no text, or holds a NUL.
    """
    value = record.get(key)
    if value is None:
        there = ", ".join(map(str, record)) or "nothing"
        raise UsageError(f"{where}: needs {key} (found: {there})")
    return plain(value, f"{where}: {key}")


def plain(value: object, where: str) -> str:
    """A value that must be a text without NUL; ``where`` ends with its name.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, str):
        raise UsageError(f"{where} must be text (got {type(value).__name__})")
    if "\0" in value:
        raise UsageError(f"{where} holds a NUL character; remove it")
    return value


def _answer(words: str, end: End = "stop") -> Answer:
    return text_files.clean_answer(Answer(words, end))
