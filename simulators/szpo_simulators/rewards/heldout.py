"""Held-out measurement of a policy: reward, guards, and intervals that pair by prompt.

A measurement answers every held-out prompt several times with seeds that do not depend on the
policy, so that the same call before and after tuning uses common random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from szpo.metrics import distinct_n
from szpo.seeds import derive
from szpo.types import Answer, Floats, Prompt

FLUENCY_SAMPLES = 2
"""Answers per prompt that the base model reads again; their mean is far from its limit's size."""


class Measurable(Protocol):
    """What a policy offers for measurement (`szpo.policies.lora_policy.LoraPolicy` does)."""

    def sample(self, prompts: Sequence[Prompt], samples: int, *, seed: int) -> list[list[Answer]]:
        """``samples`` answers to each prompt at the current θ."""

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per token of each answer under the base model, nats."""

    def kl(self, prompts: Sequence[Prompt], *, seed: int) -> tuple[float, float]:
        """Monte-Carlo KL(π_θ ‖ π_base) per completion in nats, with its standard error."""


@dataclass(frozen=True)
class Measurement:
    """One policy on the held-out prompts."""

    rewards: Floats
    """(prompts, samples)."""
    texts: tuple[tuple[str, ...], ...]
    logprob: float
    """Mean log-probability per token under the base model, nats."""
    distinct2: float
    tokens: float
    """Mean answer length in tokens."""
    kl: float
    kl_stderr: float


@dataclass(frozen=True)
class Guard:
    """One promise about what tuning must not break, and whether it held."""

    name: str
    value: float
    limit: str
    ok: bool


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

    With ``moved`` false the policy stands at its start, whose KL to itself is 0 and not measured.
    """
    drawn = policy.sample(prompts, samples, seed=seed)
    rewards = np.array(
        [
            [score(prompt, answer) for answer in row]
            for prompt, row in zip(prompts, drawn, strict=True)
        ]
    )
    flat = [(p, a) for p, row in zip(prompts, drawn, strict=True) for a in row]
    read = [(p, a) for p, row in zip(prompts, drawn, strict=True) for a in row[:FLUENCY_SAMPLES]]
    logprob = policy.logprob_base([p for p, _ in read], [a for _, a in read])
    kl, kl_stderr = policy.kl(prompts, seed=seed) if moved else (0.0, 0.0)
    return Measurement(
        rewards=rewards,
        texts=tuple(tuple(answer.text for answer in row) for row in drawn),
        logprob=float(np.nanmean(logprob)),
        distinct2=distinct_n([a.text for _, a in flat], 2),
        tokens=float(np.mean([a.tokens for _, a in flat])),
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
        seed: names the bootstrap's draws.
        draws: resamples of the prompts.

    Returns:
        (mean, lower, upper).
    """
    diff = after.rewards.mean(1) - before.rewards.mean(1)
    key = int.from_bytes(derive(seed, "bootstrap"), "little")
    index = np.random.Generator(np.random.Philox(key=key)).integers(
        len(diff), size=(draws, len(diff))
    )
    low, high = np.quantile(diff[index].mean(1), (0.025, 0.975))
    return float(diff.mean()), float(low), float(high)


def guards(before: Measurement, after: Measurement) -> tuple[Guard, ...]:
    """What tuning must leave alone: fluency under the base, variety, length."""
    drop = before.logprob - after.logprob
    variety = after.distinct2 / before.distinct2 if before.distinct2 else 1.0
    length = after.tokens / before.tokens if before.tokens else 1.0
    return (
        Guard("log-probability per token under the base", -drop, "drops at most 0.5", drop <= 0.5),
        Guard("distinct-2 against the base", variety, "at least 0.90", variety >= 0.9),
        Guard("length against the base", length, "0.80 to 1.20", 0.8 <= length <= 1.2),
    )


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds with its 95 % Student interval: (mean, lower, upper)."""
    from scipy.stats import t

    x = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half
