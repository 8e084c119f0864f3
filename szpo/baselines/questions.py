"""Data of the gradient methods: preferences from votes on answers or batches, and scored tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from szpo.baselines.costs import Meter
from szpo.data.pairs import Pair, Source
from szpo.types import Answer, Batch, Prompt, Verdict


class Ask(Protocol):
    """An annotator or panel that compares; *plus* is the first of the two, *minus* the second.

    Each call asks for one vote per entry. The caller charges the votes to a `Meter` and leaves
    out identical answers: `ask_pairs` and `ask_batches` do both.
    """

    def pairs(
        self,
        prompts: Sequence[Prompt],
        first: Sequence[Answer],
        second: Sequence[Answer],
        *,
        key: bytes,
    ) -> Sequence[Verdict]:
        """One vote on each pair of answers. All randomness comes from the key."""

    def batches(
        self,
        prompts: Sequence[Sequence[Prompt]],
        first: Sequence[Batch],
        second: Sequence[Batch],
        *,
        key: bytes,
    ) -> Sequence[Verdict]:
        """One vote on each pair of batches. All randomness comes from the key."""


Score: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Sequence[float]]
"""One number per answer: a learned reward, or a verifier (1 right, 0 wrong)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts to answer and the score of an answer: what reinforcement learning works on."""

    prompts: Sequence[Prompt]
    score: Score


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs to learn from, and the number of questions that gave none."""

    pairs: Sequence[Pair]
    ties: int = 0
    """Questions answered with a tie, or skipped."""


def ask_pairs(
    ask: Ask,
    meter: Meter,
    prompts: Sequence[Prompt],
    first: Sequence[Answer],
    second: Sequence[Answer],
    *,
    key: bytes,
) -> Preferences:
    """One vote on each pair of answers that differ, as pairs; charged to the meter."""
    differ = [i for i in range(len(prompts)) if first[i].text != second[i].text]
    verdicts = ask.pairs(
        [prompts[i] for i in differ],
        [first[i] for i in differ],
        [second[i] for i in differ],
        key=key,
    )
    found, ties = [], 0
    for i, verdict in zip(differ, verdicts, strict=True):
        meter.charge_votes([(first[i], second[i])], votes=int(verdict != "skip"))
        pair = pair_of(prompts[i], first[i], second[i], verdict)
        found += [] if pair is None else [pair]
        ties += pair is None
    return Preferences(tuple(found), ties)


def ask_batches(
    ask: Ask,
    meter: Meter,
    prompts: Sequence[Sequence[Prompt]],
    first: Sequence[Batch],
    second: Sequence[Batch],
    *,
    key: bytes,
) -> Preferences:
    """One vote on each pair of batches that differ: every row that differs takes its verdict.

    The pairs are marked ``batch``: each is weaker evidence than a vote of its own.
    """
    differ = [i for i in range(len(prompts)) if _texts(first[i]) != _texts(second[i])]
    verdicts = ask.batches(
        [prompts[i] for i in differ],
        [first[i] for i in differ],
        [second[i] for i in differ],
        key=key,
    )
    found: list[Pair] = []
    ties = 0
    for i, verdict in zip(differ, verdicts, strict=True):
        rows = list(zip(prompts[i], first[i], second[i], strict=True))
        meter.charge_votes([(a, b) for _, a, b in rows], votes=int(verdict != "skip"))
        ties += verdict in ("tie", "skip")
        pairs = [pair_of(p, a, b, verdict, source="batch") for p, a, b in rows]
        found += [pair for pair in pairs if pair is not None]
    return Preferences(tuple(found), ties)


def pair_of(
    prompt: Prompt,
    first: Answer,
    second: Answer,
    verdict: Verdict,
    *,
    source: Source = "pair",
    votes: int = 1,
) -> Pair | None:
    """The pair that a verdict makes of two answers; None for a tie, a skip or equal texts.

    >>> pair_of(Prompt.user("Hello?"), Answer("Hi."), Answer("No."), "minus").chosen.text
    'No.'
    """
    if verdict in ("tie", "skip") or first.text == second.text:
        return None
    chosen, rejected = (first, second) if verdict == "plus" else (second, first)
    return Pair(prompt, chosen, rejected, source, votes)


def _texts(batch: Batch) -> tuple[str, ...]:
    return tuple(answer.text for answer in batch)
