"""How much likelier an answer is after its own prompt than after others: whether it is on topic.

The *margin* of an answer is its log-probability after its own prompt minus the highest
log-probability after another prompt, in nats under the base model. A policy that is cheerful about
everything writes answers that suit any prompt, and its margins fall. The share of answers whose
own prompt ranks first hardly changes: in a run that drifted by 9.7 nats it went from .99 to .96,
the median margin from 20.0 to 10.4 nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from szpo import seeds
from szpo.types import Answer, Floats, Ints, Prompt

OTHERS = 7
"""Number of other prompts after which an answer is read."""
FEWEST_PROMPTS = 3
"""Fewest prompts for which margins are measured."""


@runtime_checkable
class PromptReader(Protocol):
    """A policy that can read answers after any prompt."""

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        """Log-probability of each whole answer after the prompt at the start, nats (answers,)."""


def draw_others(prompts: int, seed: int) -> Ints:
    """Draw for each prompt the other prompts after which its answers are read.

    Args:
        prompts: Number of prompts.
        seed: Seed of the draw; the same for all policies that are compared.

    Returns:
        (prompts, others): `OTHERS` different prompts, or all others where there are fewer.

    >>> draw_others(3, 0).tolist()  # all others of three
    [[1, 2], [2, 0], [1, 0]]
    """
    rows = []
    for own in range(prompts):
        key = seeds.derive(seed, "other prompts", k=own)
        drawn = seeds.permutation(key, prompts - 1)[:OTHERS]
        rows.append(drawn + (drawn >= own))
    return np.array(rows, np.int64).reshape(prompts, -1)


def margins(own: Floats, others: Floats) -> Floats:
    """Log-probability after the own prompt minus the highest after another.

    Args:
        own: (…,), nats.
        others: (…, others), nats.

    >>> margins(np.array([-20.0]), np.array([[-50.0, -35.0, -60.0]])).tolist()
    [15.0]
    """
    found: Floats = np.asarray(own, np.float64) - np.asarray(others, np.float64).max(-1)
    return found


def answer_margins(
    reader: PromptReader,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
) -> list[Floats]:
    """The margin of each answer in nats; nan for an empty answer.

    Args:
        reader: Reads under the base model.
        prompts: At least two, all different.
        answers: The answers to each prompt.
        seed: Seed for the draw of the other prompts; the same before and after tuning.
    """
    drawn = draw_others(len(prompts), seed)
    found = [np.full((len(row), 1 + drawn.shape[1]), np.nan) for row in answers]
    spoken = [[i for i, answer in enumerate(row) if answer.text] for row in answers]
    for i, prompt in enumerate(prompts):
        # After this prompt, read its own answers and those of prompts that drew it.
        places = [(i, 0)] + [(int(j), 1 + int(n)) for j, n in np.argwhere(drawn == i)]
        read = reader.total_logprob_base(
            prompt, [answers[j][k] for j, _ in places for k in spoken[j]]
        )
        cuts = np.cumsum([len(spoken[j]) for j, _ in places])[:-1]
        for (j, n), values in zip(places, np.split(read, cuts), strict=True):
            found[j][spoken[j], n] = values
    return [margins(values[:, 0], values[:, 1:]) for values in found]


def measure_margin(
    reader: PromptReader,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Answer]],
    *,
    seed: int,
) -> float | None:
    """The median margin of some answers, nats; see `answer_margins`.

    Returns:
        The median; None with fewer than `FEWEST_PROMPTS` prompts, or without a text.
    """
    if len(prompts) < FEWEST_PROMPTS:
        return None
    every = np.concatenate(answer_margins(reader, prompts, answers, seed=seed))
    if np.isnan(every).all():
        return None
    return float(np.nanmedian(every))


def margins_in_turn(
    policy: object, asked: Sequence[Prompt], answers: Sequence[Answer], seed: int
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
    found = answer_margins(
        policy, prompts, [[answers[i] for i in row] for row in places], seed=seed
    )
    for row, values in zip(places, found, strict=True):
        for i, value in zip(row, values.tolist(), strict=True):
            margins[i] = None if np.isnan(value) else round(value, 3)
    return margins
