"""What the gradient methods share: pairs, whoever is asked for them, and what it all cost.

A method is one file with ``train(actor, source, recipe, *, seed, on_step) -> Trained``. It learns
from pairs (`Pair`), from somebody who can be asked (`Ask`) or from a score (`Score`); its recipe
is a frozen dataclass. Nothing here needs a tensor library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, Protocol, TypeAlias

from szpo import memory
from szpo.errors import RunError
from szpo.types import Answer, Batch, Prompt, Verdict

Source: TypeAlias = Literal["pair", "batch", "note", "ranking", "file", "judge"]


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, the answer that was preferred and the one that was not. A tie gives no pair."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    source: Source = "pair"
    """What stands behind it: a vote on these two, the verdict on a whole batch, …"""
    votes: int = 1
    """Votes behind it; rows of one batch verdict share their votes."""


class Ask(Protocol):
    """Somebody who compares; *plus* is the first of the two, *minus* the second.

    Each call is one vote per entry. Charging it to a `Meter` and leaving out identical answers is
    the caller's work: `ask_pairs` and `ask_batches` do both.
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
class Cost:
    """What a method spent so far. Votes and answers read are counted as for a run of szpo."""

    votes: int = 0
    """Answers A, B or tie on comparisons that differ."""
    answers_read: int = 0
    """Texts really shown: two for each row whose answers differ."""
    tokens_generated: int = 0
    """Tokens of all answers the method drew, those that nobody read included."""
    seconds: float = 0.0
    """Wall time, measurements left out."""
    peak_bytes: int = 0
    """Largest resident memory of the process so far."""


@dataclass
class Meter:
    """Adds up what a method spends; the clock runs inside ``with meter:``."""

    votes: int = 0
    answers_read: int = 0
    tokens_generated: int = 0
    seconds: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def generated(self, answers: Sequence[Answer]) -> None:
        """Charge the tokens of these answers."""
        self.tokens_generated += sum(answer.tokens for answer in answers)

    def read(self, rows: Sequence[tuple[Answer, Answer]], votes: int = 1) -> None:
        """Charge votes on one comparison of these rows; identical rows are not read."""
        self.votes += votes
        self.answers_read += 2 * votes * sum(a.text != b.text for a, b in rows)

    def __enter__(self) -> Meter:
        """Start the clock."""
        self._since = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clock."""
        self.seconds = self.cost().seconds
        self._since = None

    def tell(self, on_step: OnStep, step: int, of: int, figures: Mapping[str, float]) -> None:
        """Call ``on_step`` with the clock stopped: measuring costs a method nothing."""
        ran = self._since is not None
        self.__exit__()
        on_step(Moment(step, of, self.cost(), figures))
        if ran:
            self.__enter__()

    def cost(self) -> Cost:
        """All of it, up to now."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return Cost(
            self.votes,
            self.answers_read,
            self.tokens_generated,
            self.seconds + running,
            memory.most(),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking: pairs to learn from, and how many questions gave none."""

    pairs: tuple[Pair, ...]
    ties: int = 0
    """Answered with a tie (or skipped)."""


def ask_pairs(
    ask: Ask,
    meter: Meter,
    prompts: Sequence[Prompt],
    first: Sequence[Answer],
    second: Sequence[Answer],
    *,
    key: bytes,
) -> Asked:
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
        meter.read([(first[i], second[i])], votes=int(verdict != "skip"))
        pair = decided(prompts[i], first[i], second[i], verdict)
        found += [] if pair is None else [pair]
        ties += pair is None
    return Asked(tuple(found), ties)


def ask_batches(
    ask: Ask,
    meter: Meter,
    prompts: Sequence[Sequence[Prompt]],
    first: Sequence[Batch],
    second: Sequence[Batch],
    *,
    key: bytes,
) -> Asked:
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
        meter.read([(a, b) for _, a, b in rows], votes=int(verdict != "skip"))
        ties += verdict in ("tie", "skip")
        pairs = [decided(p, a, b, verdict, source="batch") for p, a, b in rows]
        found += [pair for pair in pairs if pair is not None]
    return Asked(tuple(found), ties)


def decided(
    prompt: Prompt,
    first: Answer,
    second: Answer,
    verdict: Verdict,
    *,
    source: Source = "pair",
    votes: int = 1,
) -> Pair | None:
    """The pair that a verdict makes of two answers; None for a tie, a skip or equal texts.

    >>> decided(Prompt.user("Hello?"), Answer("Hi."), Answer("No."), "minus").chosen.text
    'No.'
    """
    if verdict in ("tie", "skip") or first.text == second.text:
        return None
    chosen, rejected = (first, second) if verdict == "plus" else (second, first)
    return Pair(prompt, chosen, rejected, source, votes)


def _texts(batch: Batch) -> tuple[str, ...]:
    return tuple(answer.text for answer in batch)


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of training, told while the actor stands at the weights after it."""

    step: int
    """Counted from 1."""
    of: int
    cost: Cost
    figures: Mapping[str, float]
    """What the method logs of a step: loss, reward, KL, …"""


OnStep: TypeAlias = Callable[[Moment], None]
"""Called after each step; the actor may be sampled and measured inside it (on no clock)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What is left of a training run beside the actor, which now stands at the tuned weights."""

    cost: Cost
    log: tuple[Mapping[str, float], ...]
    """The figures of each step."""
    pairs: int = 0
    """Pairs that were learned from; in supervised fitting, examples."""
    ties: int = 0
    """Questions that gave no pair."""
    remark: str = ""
    """What to look at before the result is believed."""


def silent(_: Moment) -> None:
    """The ``on_step`` of whoever does not want to know."""


def demand_pairs(pairs: Sequence[Pair], ties: int, method: str) -> None:
    """Refuse to learn from nothing.

    Raises:
        RunError: there is no pair; says whether that is because everything was a tie.
    """
    if not pairs:
        why = (
            f"all {ties} answers were ties or skips; ask a panel that can tell the answers apart"
            if ties
            else "there is no vote to learn from; give a ledger or a file with votes"
        )
        raise RunError(f"{method}: no pair to learn from: {why}")


def demand_finite(figures: Mapping[str, float], method: str, step: int) -> None:
    """Stop a run that diverged.

    Raises:
        RunError: a loss, reward or gradient is not finite; names it, the step and what to do.
    """
    for name, value in figures.items():
        if not isfinite(value):
            raise RunError(
                f"{method}: {name} is {value} at step {step}: training diverged; "
                "lower the learning rate"
            )
