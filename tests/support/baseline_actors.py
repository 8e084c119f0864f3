"""Small actors and pairs for the tests of the gradient methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from peft import LoraConfig

from szpo.baselines.actor import Actor
from szpo.data.pairs import Pair
from szpo.generation.sampling import Sampling
from szpo.models import loading
from szpo.models.tiny import ASKS, MOODS, TOPICS
from szpo.types import Answer, Prompt, Row, Verdict
from tests.support.tiny_models import loaded

SHORT = Sampling(max_new_tokens=6)
PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 36)]
LIKED = tuple(f"w{i}" for i in range(100, 140))
DIARY = [Prompt.user(ask.format(topic=topic)) for topic in TOPICS for ask in ASKS[:2]]
WORDS = {side: {w for group in groups.values() for w in group} for side, groups in MOODS.items()}


def lora(*targets: str, rank: int = 2, **more: Any) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), **more)


def tiny_actor(*targets: str, base: Any = None, rank: int = 2, seed: int = 1) -> Actor:
    config = lora(*(targets or ("q_proj", "v_proj", "down_proj")), rank=rank)
    return Actor.fresh(base or loaded("llama"), config, sampling=SHORT, seed=seed)


def move(actor: Actor, size: float = 0.05) -> Actor:
    """The actor away from its start, so that margins are not zero."""
    generator = np.random.default_rng(3)
    theta = {
        name: value + size * generator.standard_normal(value.shape).astype(np.float32)
        for name, value in actor.start().items()
    }
    actor.move_to(theta)
    return actor


def diary_actor(seed: int = 1) -> Actor:
    """An actor on the diary model that the project trains, whose answers have a mood."""
    base = loading.load("tiny", dtype="fp32")
    config = lora("q_proj", "v_proj", "down_proj", rank=4)
    return Actor.fresh(base, config, sampling=Sampling(max_new_tokens=12), seed=seed)


def mood(answer: Answer) -> int:
    """Good words of an answer less the bad ones."""
    words = answer.text.lower().replace(".", " ").split()
    return sum(w in WORDS["good"] for w in words) - sum(w in WORDS["bad"] for w in words)


def mean_mood(actor: Actor, seed: int = 77) -> float:
    """Mean sign of `mood` over fresh answers, in [−1, 1]."""
    drawn = actor.sample(DIARY, 4, seed=seed)
    return float(np.mean([np.sign(mood(answer)) for row in drawn for answer in row]))


def diary_pairs(actor: Actor, seed: int = 5) -> list[Pair]:
    """Two answers of the actor to each prompt, where their moods differ."""
    found = []
    for prompt, (first, second) in zip(DIARY, actor.sample(DIARY, 2, seed=seed), strict=True):
        if mood(first) != mood(second):
            good, bad = sorted((first, second), key=mood, reverse=True)
            found.append(Pair(prompt, good, bad))
    return found


def cheerful(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
    """Prefers the answer, or the batch, of the better mood."""
    return [verdict(sum(mood(row.plus) - mood(row.minus) for row in rows)) for rows in questions]


def verdict(gap: float) -> Verdict:
    return "plus" if gap > 0 else "minus" if gap < 0 else "tie"


def pairs() -> list[Pair]:
    """Two answers to each prompt, of which the one with liked words is better."""
    return [
        Pair(
            prompt,
            Answer(" ".join(LIKED[(5 * i + j) % len(LIKED)] for j in range(4)), "length", 4),
            Answer(" ".join(f"w{200 + (5 * i + j) % 80}" for j in range(3)), "stop", 3),
        )
        for i, prompt in enumerate(PROMPTS)
    ]
