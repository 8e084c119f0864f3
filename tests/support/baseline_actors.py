"""Small actors and pairs for the tests of the gradient methods."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from peft import LoraConfig

from szpo.baselines import dpo, group_rl, ppo, recipes, reward_model, trainer
from szpo.baselines.actor import Actor
from szpo.data.preference_formats import Pair, Preferences
from szpo.models import loading
from szpo.models.batched_lora import find_sites
from szpo.models.sampling import Sampling
from szpo.policies.language_model import random_start
from szpo.types import Answer, Prompt, Row, Verdict
from tests.support.tiny_models import loaded
from tests.support.tiny_words import ASKS, MOODS, TOPICS

SHORT = Sampling(max_new_tokens=6)
PROMPTS = [Prompt.user(f"w{i} w{i + 1}") for i in range(20, 36)]
LIKED = tuple(f"w{i}" for i in range(100, 140))
DIARY = [Prompt.user(ask.format(topic=topic)) for topic in TOPICS for ask in ASKS[:2]]
WORDS = {side: {w for group in groups.values() for w in group} for side, groups in MOODS.items()}


def fresh(base: Any, config: LoraConfig, *, sampling: Sampling, seed: int = 1) -> Actor:
    """An actor with this LoRA, with A drawn from the seed and B zero."""
    sites = find_sites(base.model, config)
    return Actor(base, sites, random_start(sites, seed), sampling=sampling, seed=seed)


def lora(*targets: str, rank: int = 2, **more: Any) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), **more)


def tiny_actor(*targets: str, base: Any = None, sampling: Sampling = SHORT) -> Actor:
    config = lora(*(targets or ("q_proj", "v_proj", "down_proj")))
    return fresh(base or loaded("llama"), config, sampling=sampling)


def move(actor: Actor, size: float = 0.05) -> Actor:
    """Move the actor away from its start, so that margins are not zero."""
    generator = np.random.default_rng(3)
    theta = {
        name: value + size * generator.standard_normal(value.shape).astype(np.float32)
        for name, value in actor.start().items()
    }
    actor.move_to(theta)
    return actor


def diary_actor(seed: int = 1) -> Actor:
    """An actor on the tiny diary model, whose answers have a mood."""
    base = loading.load("tiny", dtype="fp32")
    config = lora("q_proj", "v_proj", "down_proj", rank=4)
    return fresh(base, config, sampling=Sampling(max_new_tokens=12), seed=seed)


def mood(answer: Answer) -> int:
    """Number of good words in an answer minus number of bad ones."""
    words = answer.text.lower().replace(".", " ").split()
    return sum(w in WORDS["good"] for w in words) - sum(w in WORDS["bad"] for w in words)


def mean_mood(actor: Actor, seed: int = 77) -> float:
    """Mean sign of `mood` over fresh answers, in [−1, 1]."""
    drawn = actor.sample(DIARY, 4, seed=seed)
    return float(np.mean([np.sign(mood(answer)) for row in drawn for answer in row]))


def diary_pairs(actor: Actor, seed: int = 5) -> list[Pair]:
    """Pairs of the actor's answers to one prompt whose moods differ, the better one chosen."""
    found = []
    for prompt, (first, second) in zip(DIARY, actor.sample(DIARY, 2, seed=seed), strict=True):
        if mood(first) != mood(second):
            good, bad = sorted((first, second), key=mood, reverse=True)
            found.append(Pair(prompt, good, bad))
    return found


def cheerful(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
    """Prefer the answer, or the batch, with the better mood."""
    return [verdict(sum(mood(row.plus) - mood(row.minus) for row in rows)) for rows in questions]


def verdict(gap: float) -> Verdict:
    return "plus" if gap > 0 else "minus" if gap < 0 else "tie"


def pairs() -> list[Pair]:
    """Two answers to each prompt; the one with liked words is chosen."""
    return [
        Pair(
            prompt,
            Answer(" ".join(LIKED[(5 * i + j) % len(LIKED)] for j in range(4)), "length", 4),
            Answer(" ".join(f"w{200 + (5 * i + j) % 80}" for j in range(3)), "stop", 3),
        )
        for i, prompt in enumerate(PROMPTS)
    ]


def length(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
    """A reward: longer answers score higher."""
    return [float(len(answer.text)) for answer in answers]


def lengthy(questions: Sequence[tuple[Row, ...]], single: bool, key: bytes) -> list[Verdict]:
    """Prefer the longer of two answers."""
    return [verdict(len(row.plus.text) - len(row.minus.text)) for (row,) in questions]


def _train(
    method: str, actor: Actor, rate: float, steps: int, *,
    data: Sequence[Pair] | None = None, fields: Mapping[str, Any] = MappingProxyType({}),
    **shared: Any,
) -> Any:  # fmt: skip
    """Train an actor with the method of this name at this learning rate.

    ``data``: pairs for the methods that take some; ``fields``: more of such a method's recipe.
    """
    shared, data = {"seed": 0, **shared}, pairs() if data is None else data
    match method:
        case "dpo" | "simpo":
            simple = method == "simpo"
            train, recipe = (
                (dpo.train_simpo, recipes.Simpo) if simple else (dpo.train, recipes.Dpo)
            )
            how = recipe(steps=steps, learning_rate=rate, **fields)
            return train(actor, Preferences(data), how, **shared)
        case "iterative-dpo":
            recipe = recipes.Dpo(steps=1, learning_rate=rate)
            plan = recipes.Rounds(rounds=steps, questions=4, recipe=recipe)
            return dpo.iterative(actor, PROMPTS, lengthy, plan, **shared)
        case "sft":
            examples = [(pair.prompt, pair.chosen) for pair in data]
            how = recipes.Sft(steps=steps, learning_rate=rate, **fields)
            return trainer.train_sft(actor, examples, how, **shared)
        case "ppo":
            one = {"prompts": 4, "samples": 4, "epochs": 1, "minibatches": 1}
            how = recipes.Ppo(steps=steps, rate=rate, **one)
            return ppo.train(actor, PROMPTS, length, how, **shared)
        case "reward-model":
            how = recipes.RewardModel(steps=steps, learning_rate=rate, **fields)
            return reward_model.train(actor.loaded, Preferences(data), how, **shared)
        case _:
            kind: Any = recipes.Grpo if method == "grpo" else recipes.Rloo
            how = kind(steps=steps, prompts=4, samples=4, learning_rate=rate)
            return group_rl.train(actor, PROMPTS, length, how, **shared)


NAMES = ("dpo", "simpo", "iterative-dpo", "sft", "grpo", "rloo", "ppo", "reward-model")
TRAIN = {name: partial(_train, name) for name in NAMES}
"""Functions by method: (actor, rate, steps) → result of the training."""
