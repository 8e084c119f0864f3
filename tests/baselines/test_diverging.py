"""All methods: twice the same, a line for a training that runs away, the actor left as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from szpo.baselines import dpo, grpo, ppo, reward_model, rloo, simpo, validation
from szpo.baselines.actor import Actor
from szpo.baselines.questions import Preferences, Task
from szpo.errors import RunError
from szpo.types import Answer, Prompt, Verdict
from tests.support.baseline_actors import (
    DIARY,
    PROMPTS,
    Cheerful,
    diary_actor,
    pairs,
    tiny_actor,
)


def length(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
    return [float(len(answer.text)) for answer in answers]


class Lengthy(Cheerful):
    def pairs(
        self, prompts: Sequence[Prompt], first: Sequence[Answer], second: Sequence[Answer], *,
        key: bytes,
    ) -> list[Verdict]:  # fmt: skip
        return [
            "plus" if len(a.text) > len(b.text) else "minus"
            for a, b in zip(first, second, strict=True)
        ]


def train_by_group(method: Any) -> Callable[[Actor, float, int], Any]:
    def train(actor: Actor, rate: float, steps: int) -> Any:
        how = method.Recipe(steps=steps, prompts=4, samples=4, learning_rate=rate)
        return method.train(actor, Task(PROMPTS, length), how, seed=0)

    return train


def of_pairs(method: Any) -> Callable[[Actor, float, int], Any]:
    def train(actor: Actor, rate: float, steps: int) -> Any:
        return method.train(
            actor, Preferences(pairs()), method.Recipe(steps=steps, learning_rate=rate), seed=0
        )

    return train


def in_rounds(actor: Actor, rate: float, steps: int) -> Any:
    plan = dpo.Rounds(steps, 4, recipe=dpo.Recipe(steps=1, learning_rate=rate))
    return dpo.iterative(actor, PROMPTS, Lengthy(), plan, seed=0)


def train_ppo(actor: Actor, rate: float, steps: int) -> Any:
    how = ppo.Recipe(steps=steps, prompts=4, samples=4, epochs=1, minibatches=1, rate=rate)
    return ppo.train(actor, Task(PROMPTS, length), how, seed=0)


def train_reward_model(actor: Actor, rate: float, steps: int) -> Any:
    how = reward_model.Recipe(steps=steps, learning_rate=rate)
    return reward_model.train(actor.loaded, Preferences(pairs()), how, seed=0)


METHODS: dict[str, Callable[[Actor, float, int], Any]] = {
    "dpo": of_pairs(dpo),
    "simpo": of_pairs(simpo),
    "iterative-dpo": in_rounds,
    "grpo": train_by_group(grpo),
    "rloo": train_by_group(rloo),
    "ppo": train_ppo,
    "reward-model": train_reward_model,
}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "reward-model"])
def test_the_same_seed_gives_the_same_weights_which_have_moved(method):
    first, again = tiny_actor(), tiny_actor()
    before = first.digest()
    for actor in (first, again):
        METHODS[method](actor, 1e-2, 2)
    assert first.digest() == again.digest() != before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_rate_without_measure_is_one_line_even_after_the_last_step(method, steps):
    actor = tiny_actor()
    before = actor.digest()
    with pytest.raises(RunError) as caught:
        METHODS[method](actor, math.inf, steps)
    message = str(caught.value)
    assert message.startswith(f"{method}: ") and "\n" not in message
    assert "training diverged; lower the learning rate" in message
    assert actor.digest() == before


def test_the_end_of_a_loss_is_the_mean_of_its_last_tenth():
    assert validation.describe_rise([]) == validation.describe_rise([{"loss": 0.7}]) == ""
    # One batch of twenty's last two: (.7 + 1.6)/2 = 1.15 > 1.05; then (.7 + 1.3)/2 = 1.
    assert "from 0.70 to 1.15" in validation.describe_rise([{"loss": 0.7}] * 19 + [{"loss": 1.6}])
    assert validation.describe_rise([{"loss": 0.7}] * 19 + [{"loss": 1.3}]) == ""


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_policy_far_from_its_start_is_remarked_on(method):
    def after(rate: float) -> Any:
        kind = {"grpo": grpo, "rloo": rloo}[method]
        how = kind.Recipe(steps=5, prompts=4, samples=4, learning_rate=rate)
        return kind.train(diary_actor(), Task(DIARY, length), how, seed=1)

    trained = after(1.0)
    assert trained.log[-1]["kl"] > validation.FAR
    assert "nats per token from the start at the end" in trained.remark
    assert after(1e-3).remark == ""
