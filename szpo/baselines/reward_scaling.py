"""Learned rewards on one scale, so that a KL penalty means the same for every reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo.baselines.questions import Score
from szpo.data.pairs import Pair
from szpo.types import Answer, Prompt

SCALE_PAIRS: Final = 320
"""Number of pairs from which a learned reward's mean and spread are estimated."""


def scale_reward(learned: Score, pairs: Sequence[Pair], most: int = SCALE_PAIRS) -> Score:
    """The learned reward less its mean for the prompt, over its spread within prompts.

    Means and spread are those of the answers of the first ``most`` of these pairs; a prompt that
    is not among them gets the mean over all. Pairs do not determine a reward model's level for
    each prompt, nor its spread; without scaling, one KL penalty would differ in strength between
    models (compare Ziegler et al. 2019, section 2.1).
    """
    pairs = pairs[:most]
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    seen = np.asarray(learned(prompts, answers))
    of_prompt: dict[Prompt, list[float]] = {}
    for prompt, value in zip(prompts, seen.tolist(), strict=True):
        of_prompt.setdefault(prompt, []).append(value)
    means = {prompt: float(np.mean(values)) for prompt, values in of_prompt.items()}
    middle = float(seen.mean())
    # Two answers to one prompt differ by √2 times the spread within prompts.
    gaps = seen[: len(pairs)] - seen[len(pairs) :]
    spread = math.sqrt(float((gaps**2).mean()) / 2) or 1.0

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Sequence[float]:
        values = zip(prompts, learned(prompts, answers), strict=True)
        return [(value - means.get(prompt, middle)) / spread for prompt, value in values]

    return score
