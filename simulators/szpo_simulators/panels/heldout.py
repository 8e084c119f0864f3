"""Held-out measurement of a policy: reward, text figures, and intervals paired by prompt.

A measurement answers every held-out prompt several times, with seeds that do not depend on the
policy. So the same call before and after tuning uses common random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from szpo.policies import text_guards
from szpo.policies.text_guards import TextFigures
from szpo.seeds import derive, generator
from szpo.types import Answer, Floats, Prompt


class Measurable(Protocol):
    """A policy that can be measured, such as `szpo.policies.lora_policy.LoraPolicy`.

    If it is also a `szpo.policies.own_prompt.PromptReader`, the topic guard is measured.
    """

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        """``samples`` answers to each prompt at the current θ."""

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per token of each answer under the base model, nats."""

    def kl(self, prompts: Sequence[Prompt], *, seed: int) -> tuple[float, float]:
        """Monte-Carlo KL(π_θ ‖ π_base) per completion in nats, with its standard error."""


@dataclass(frozen=True, kw_only=True)
class Measurement(TextFigures):
    """The measurement of one policy on the held-out prompts."""

    rewards: Floats
    """Shape (prompts, samples)."""
    texts: tuple[tuple[str, ...], ...]
    kl: float
    kl_stderr: float


def measure(
    policy: Measurable,
    prompts: Sequence[Prompt],
    score: Callable[[Prompt, Answer], float],
    *,
    samples: int,
    seed: int,
    moved: bool = True,
) -> Measurement:
    """Answer every prompt ``samples`` times and score the answers.

    ``moved`` false means that the policy is at its start; its KL is then 0 and not measured.
    """
    drawn = policy.sample(prompts, samples, seed=seed)
    rewards = np.array(
        [
            [score(prompt, answer) for answer in row]
            for prompt, row in zip(prompts, drawn, strict=True)
        ]
    )
    figures = text_guards.measure(policy, prompts, drawn, seed=seed)
    kl, kl_stderr = policy.kl(prompts, seed=seed) if moved else (0.0, 0.0)
    return Measurement(
        rewards=rewards,
        texts=tuple(tuple(answer.text for answer in row) for row in drawn),
        **asdict(figures),
        kl=kl,
        kl_stderr=kl_stderr,
    )


def gain(
    before: Measurement, after: Measurement, *, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """Mean gain in reward with its 95 % paired bootstrap interval over prompts.

    Args:
        before: the base policy.
        after: the tuned policy on the same prompts.
        seed: seed of the resampling.
        draws: number of resamples of the prompts.

    Returns:
        (mean, lower, upper).
    """
    diff = after.rewards.mean(1) - before.rewards.mean(1)
    random = generator(derive(seed, "bootstrap"))
    index = random.integers(len(diff), size=(draws, len(diff)))
    low, high = np.quantile(diff[index].mean(1), (0.025, 0.975))
    return float(diff.mean()), float(low), float(high)
