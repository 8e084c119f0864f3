"""The guards of a tuned policy, measured on held-out prompts; whether answers are on topic.

The *margin* of an answer is its log-probability after its own prompt minus the highest
log-probability after another prompt, in nats under the base model. A policy that is cheerful about
everything writes answers that suit any prompt, and its margins fall. The share of answers whose
own prompt ranks first hardly changes: in a run that drifted by 9.7 nats it went from .99 to .96,
the median margin from 20.0 to 10.4 nats.

Fluency, variety, length and topic, each against the base on the same prompts and random numbers;
and, where the user gave questions with right answers, how many greedy answers have these. Votes
and rewards are not used. `szpo.runs.guards` has the bands that pause a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from szpo import seeds
from szpo.metrics import distinct_n
from szpo.policies.protocol import BaseScorer, Speaker
from szpo.types import Answer, Floats, Ints, Prompt

MOST_DROP: Final = 0.5
"""By how much log-probability per token under the base may fall, nats."""
LENGTH_BAND: Final = (0.8, 1.2)
"""Between which shares of the start's length answers may lie."""
LEAST_TOPIC: Final = 0.75
"""Least share of the start's margin of the own prompt."""
OTHERS = 7
"""Number of other prompts after which an answer is read."""
FEWEST_PROMPTS = 3
"""Fewest prompts for which margins are measured."""

READ_AGAIN = 2
"""Answers per prompt that the base model reads; their mean's error is far below the limit."""
LEAST_VARIETY = 0.9
FLUENCY = "fluency (change in log-probability per token under the base)"
VARIETY = "variety (distinct word pairs against the base)"
LENGTH = "length against the base"
TOPIC = "topic (margin of the own prompt against the base)"
NAMES = (FLUENCY, VARIETY, LENGTH, TOPIC)
RIGHT = "right answers to the questions of guards.keep"
_WORD = re.compile(r"[^\W_]+")
MOST_LOST = 0.1
"""Share of the questions right at the start that may become wrong; one may always."""


@runtime_checkable
class PromptReader(Protocol):
    """A policy that can read answers after any prompt."""

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        """Log-probability of each whole answer after the prompt at the start, nats (answers,)."""


def draw_others(prompts: int, seed: int, others: int = OTHERS) -> Ints:
    """Draw for each prompt the other prompts after which its answers are read.

    ``seed`` is the same for all policies that are compared.

    Returns:
        (prompts, others): so many different prompts, or all others where there are fewer.

    >>> draw_others(3, 0).tolist()  # all others of three
    [[1, 2], [2, 0], [1, 0]]
    """
    rows = []
    for own in range(prompts):
        key = seeds.derive(seed, "other prompts", k=own)
        drawn = seeds.permutation(key, prompts - 1)[:others]
        rows.append(drawn + (drawn >= own))
    return np.array(rows, np.int64).reshape(prompts, -1)


def answer_margins(
    reader: PromptReader,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
    others: int = OTHERS,
    read: Callable[[], None] = lambda: None,
) -> list[Floats]:
    """The margin of each answer in nats; nan for an empty answer.

    Prompts: at least two, all different. ``seed`` draws the ``others``; it is the same before
    and after tuning. ``read`` is called after each prompt.
    """
    drawn = draw_others(len(prompts), seed, others)
    logprobs = [np.full((len(row), 1 + drawn.shape[1]), np.nan) for row in answers]
    spoken = [[i for i, answer in enumerate(row) if answer.text] for row in answers]
    for i, prompt in enumerate(prompts):
        # After this prompt, read its own answers and those of prompts that drew it.
        places = [(i, 0)] + [(int(j), 1 + int(n)) for j, n in np.argwhere(drawn == i)]
        after = reader.total_logprob_base(
            prompt, [answers[j][k] for j, _ in places for k in spoken[j]]
        )
        cuts = np.cumsum([len(spoken[j]) for j, _ in places])[:-1]
        for (j, n), values in zip(places, np.split(after, cuts), strict=True):
            logprobs[j][spoken[j], n] = values
        read()
    return [values[:, 0] - values[:, 1:].max(-1) for values in logprobs]


def measure_margin(
    reader: PromptReader,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
    read: Callable[[], None] = lambda: None,
) -> float | None:
    """The median margin of some answers, nats; see `answer_margins`.

    Returns:
        The median; None with fewer than `FEWEST_PROMPTS` prompts, or without a text.
    """
    if len(prompts) < FEWEST_PROMPTS:
        return None
    every = np.concatenate(answer_margins(reader, prompts, answers, seed=seed, read=read))
    if np.isnan(every).all():
        return None
    return float(np.nanmedian(every))


def margins_in_turn(
    policy: object,
    asked: Sequence[Prompt],
    answers: Sequence[Answer],
    seed: int,
    others: int,
) -> list[float | None]:
    """The margin of one answer to each prompt, in nats; prompts may repeat.

    Returns:
        A margin or None per answer. An empty answer has None; all have None if the policy is no
        `PromptReader`, or with fewer than `FEWEST_PROMPTS` different prompts.
    """
    prompts = tuple(dict.fromkeys(asked))
    margins: list[float | None] = [None] * len(asked)
    if not isinstance(policy, PromptReader) or len(prompts) < FEWEST_PROMPTS:
        return margins
    places = [[i for i, own in enumerate(asked) if own == prompt] for prompt in prompts]
    nats = answer_margins(
        policy, prompts, [[answers[i] for i in row] for row in places], seed=seed, others=others
    )
    for row, values in zip(places, nats, strict=True):
        for i, value in zip(row, values.tolist(), strict=True):
            margins[i] = None if np.isnan(value) else round(value, 3)
    return margins


@dataclass(frozen=True)
class TextFigures:
    """Figures of a policy's answers to the held-out prompts."""

    logprob: float
    """Mean log-probability per token under the base model, nats; 0 where no answer has a token."""
    distinct2: float
    """Different pairs of words over all pairs, in [0, 1]."""
    tokens: float
    """Mean answer length in tokens."""
    margin: float | None = None
    """Median margin of the own prompt, nats; None where it was not measured."""
    others: int = 0
    """Number of other prompts after which each answer was read."""


@dataclass(frozen=True)
class Guard:
    """One property that tuning must keep, and whether it held."""

    name: str
    value: float
    limit: str
    ok: bool

    @property
    def figure(self) -> str:
        """The value as it is shown."""
        return f"{self.value:.2f}"

    @property
    def verdict(self) -> str:
        """Whether it held, in a word."""
        return "holds" if self.ok else "fails"

    def line(self) -> str:
        """The guard's result in one line."""
        return f"guard {self.verdict} {self.name}: {self.figure} ({self.limit})"


def describe_adopted(recorded: Sequence[Mapping[str, Any]]) -> str:
    """The guards of an improved policy as recorded: those that fail are what its taste is about.

    >>> describe_adopted([{"name": "length", "ok": False}, {"name": "variety", "ok": True}])
    'changed with the taste: length'
    """
    failed = [guard["name"] for guard in recorded if not guard["ok"]]
    return f"changed with the taste: {', '.join(failed)}" if failed else "guards hold"


def measure(
    policy: BaseScorer,
    prompts: Sequence[Prompt],
    drawn: Sequence[Sequence[Answer]],
    *,
    seed: int,
    topic: bool = True,
    read: Callable[[], None] = lambda: None,
) -> TextFigures:
    """Measure a policy's answers; the base model reads the first `READ_AGAIN` to each prompt.

    A policy that is no `PromptReader` gets no margin; without ``topic`` none does, and it takes by
    far the longest. ``seed``, for the other prompts, is the same for all policies compared.
    ``read`` is called after each prompt whose margins are read.
    """
    few = [row[:READ_AGAIN] for row in drawn]
    each = [(prompt, a) for prompt, row in zip(prompts, few, strict=True) for a in row]
    logprob = policy.logprob_base([prompt for prompt, _ in each], [a for _, a in each])
    flat = [answer for row in drawn for answer in row]
    margin = None
    if topic and isinstance(policy, PromptReader):
        margin = measure_margin(policy, prompts, few, seed=seed, read=read)
    return TextFigures(
        logprob=0.0 if np.isnan(logprob).all() else float(np.nanmean(logprob)),
        distinct2=distinct_n([answer.text for answer in flat], 2),
        tokens=float(np.mean([answer.tokens for answer in flat])),
        margin=margin,
        others=0 if margin is None else min(OTHERS, len(prompts) - 1),
    )


def guards(before: TextFigures, after: TextFigures) -> tuple[Guard, ...]:
    """The guards of fluency, variety, length and topic.

    The topic's guard is left out where `topic_gap` gives a reason.
    """
    drop = before.logprob - after.logprob
    variety = after.distinct2 / before.distinct2 if before.distinct2 else 1.0
    length = after.tokens / before.tokens if before.tokens else 1.0
    low, high = LENGTH_BAND
    kept = (
        Guard(FLUENCY, -drop, f"drops at most {MOST_DROP}", drop <= MOST_DROP),
        Guard(VARIETY, variety, f"at least {LEAST_VARIETY:.2f}", variety >= LEAST_VARIETY),
        Guard(LENGTH, length, f"{low:.2f} to {high:.2f}", low <= length <= high),
    )
    if before.margin is None or after.margin is None or before.margin <= 0:
        return kept
    share = after.margin / before.margin
    fewer = f", {after.others} other prompts instead of {OTHERS}" if after.others < OTHERS else ""
    return (*kept, Guard(TOPIC, share, f"at least {LEAST_TOPIC}{fewer}", share >= LEAST_TOPIC))


def topic_gap(before: TextFigures, after: TextFigures) -> str | None:
    """Why two measurements have no guard of the topic; None if they have one.

    >>> topic_gap(TextFigures(-2.0, 0.9, 20.0, 20.0, 7), TextFigures(-2.0, 0.9, 20.0))
    'not measured; it takes at least 3 held-out prompts'
    """
    if before.margin is None or after.margin is None:
        return f"not measured; it takes at least {FEWEST_PROMPTS} held-out prompts"
    if before.margin <= 0:
        return (
            "the base's answers suit other prompts as well as their own "
            f"(margin {before.margin:.2f} nats)"
        )
    return None


def is_right(answer: str, right: str) -> bool:
    """Whether the words of the right answer stand in the answer, one behind the other.

    >>> is_right("It is Mont Blanc, I think.", "mont blanc"), is_right("Parisian", "Paris")
    (True, False)
    """
    said, wanted = (" ".join(_WORD.findall(text.casefold())) for text in (answer, right))
    return f" {wanted} " in f" {said} "


def count_right(
    policy: Speaker, questions: Sequence[tuple[Prompt, Answer]], *, base: bool = False
) -> int:
    """How many greedy answers are right, of a policy or, with ``base``, of its start."""
    said = policy.likeliest([prompt for prompt, _ in questions], base=base)
    pairs = zip(said, questions, strict=True)
    return sum(is_right(answer.text, right.text) for answer, (_, right) in pairs)


def keep_right(before: int, after: int) -> Guard:
    """The guard of the right answers.

    >>> [keep_right(before, after).ok for before, after in ((20, 18), (20, 17), (3, 2), (0, 0))]
    [True, False, True, True]
    """
    most = max(1, int(MOST_LOST * before))
    return Guard(
        RIGHT, float(after - before), f"loses at most {most} of {before}", before - after <= most
    )


def keeper(
    policy: Speaker, questions: Sequence[tuple[Prompt, Answer]]
) -> Callable[[], tuple[Guard, ...]]:
    """The guard of right answers, of the policy where it is when called; () without questions."""
    if not questions:
        return tuple
    before = count_right(policy, questions, base=True)
    return lambda: (keep_right(before, count_right(policy, questions)),)
