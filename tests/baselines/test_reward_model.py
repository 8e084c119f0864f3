"""The reward model: ln 2 at equal rewards, learns what is preferred, comes back from disk."""

import math
import re
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from szpo.baselines import group_rl, recipes, reward_model, trainer
from szpo.baselines.recipes import RewardModel as Recipe
from szpo.data.preference_formats import Preferences
from szpo.errors import RunError, UsageError
from szpo.models.identity import TENSORS, Identity
from szpo.types import Answer, Row
from tests.support.baseline_actors import (
    DIARY,
    LIKED,
    PROMPTS,
    TRAIN,
    diary_actor,
    length,
    pairs,
    tiny_actor,
)
from tests.support.tiny_models import loaded

FAST = Recipe(steps=12, batch=8, learning_rate=3e-2, targets=("q_proj", "down_proj"))
GOOD, BAD = Answer(f"{LIKED[3]} {LIKED[9]}"), Answer("w210 w215")


def test_equal_rewards_cost_ln_2_and_the_base_model_comes_out_unchanged():
    base = loaded("llama")
    types = [type(module) for module in base.model.modules()]
    recipe = Recipe(steps=1, batch=4, rank=2)
    model, trained = reward_model.train(base, Preferences(pairs()[:4]), recipe, seed=0)
    assert trained.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert np.abs(model.head).max() > 0
    assert [type(module) for module in base.model.modules()] == types


def test_it_learns_what_is_preferred_and_twice_the_same():
    base = loaded("llama")
    model, trained = reward_model.train(base, Preferences(pairs()[:12]), FAST, seed=2)
    again, _ = reward_model.train(loaded("llama"), Preferences(pairs()[:12]), FAST, seed=2)
    assert trained.log[-1]["loss"] < 0.3 < trained.log[0]["loss"]
    assert model.agreement(pairs()[12:]) == 1.0  # not seen in training
    assert model(PROMPTS[:1], [GOOD]) > model(PROMPTS[:1], [BAD])
    assert np.array_equal(model.head, again.head)
    assert all(np.array_equal(model.factors[n], again.factors[n]) for n in model.factors)


def test_what_it_says_is_what_was_trained_whatever_else_is_in_the_batch():
    base = loaded("llama")
    one = Recipe(steps=1, batch=1, rank=2, learning_rate=1e-2)
    model, trained = reward_model.train(
        base, Preferences(pairs()[:1]), one.model_copy(update={"steps": 2}), seed=0
    )
    again, _ = reward_model.train(base, Preferences(pairs()[:1]), one, seed=0)
    pair = pairs()[0]
    seen = again([pair.prompt] * 3, [pair.chosen, pair.rejected, Answer("w7")])
    # The margin that TRL logs at the second step is that of the model after the first.
    assert seen[0] - seen[1] == pytest.approx(trained.log[1]["margin"], abs=1e-5)
    sure = again.margins(
        [Row(pair.prompt, *two) for two in permutations((pair.chosen, Answer("w7")))]
    )
    assert sure == pytest.approx([abs(seen[0] - seen[2])] * 2, abs=1e-5) and sure[0] > 1e-4
    assert model([pair.prompt], [pair.chosen])[0] != pytest.approx(seen[0], abs=1e-4)
    assert again([pair.prompt], [pair.chosen])[0] == pytest.approx(seen[0], abs=1e-5)


def test_it_comes_back_from_disk_and_knows_its_base_and_its_tensors(tmp_path):
    base = loaded("llama")
    model, _ = reward_model.train(base, Preferences(pairs()[:4]), FAST, seed=2)
    model.save(tmp_path)
    again = reward_model.load(tmp_path, base)
    assert again(PROMPTS[:2], [GOOD, BAD]) == model(PROMPTS[:2], [GOOD, BAD])
    with pytest.raises(UsageError, match="is not for llama"):
        reward_model.load(tmp_path, replace(base, identity=Identity({TENSORS: "1" * 64})))
    with pytest.raises(UsageError, match="holds no reward model"):
        reward_model.load(tmp_path / "none", base)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = tensors.popitem()[0]
    save_file(tensors, path)
    with pytest.raises(UsageError, match=f"has no tensor {re.escape(lost)}; it does not fit"):
        reward_model.load(tmp_path, base)


def test_a_bf16_base_has_an_fp32_reward_model():
    base = loaded("llama", dtype=torch.bfloat16)
    recipe = Recipe(steps=1, batch=4, rank=2, learning_rate=1e-6)
    model, _ = reward_model.train(base, Preferences(pairs()[:4]), recipe, seed=0)
    # A step of 1e-6 does not survive in bf16.
    assert 0 < np.abs(model.head).max() == pytest.approx(1e-6, rel=0.05)
    with pytest.raises(RunError, match="all 7 answers were ties or skips"):
        reward_model.train(base, Preferences([], ties=7), seed=0)


@pytest.mark.parametrize("method", [name for name in TRAIN if name != "reward-model"])
def test_the_same_seed_gives_the_same_weights_which_have_moved(method):
    first, again = tiny_actor(), tiny_actor()
    before = first.digest()
    for actor in (first, again):
        TRAIN[method](actor, 1e-2, 2)
    assert first.digest() == again.digest() != before


@pytest.mark.parametrize("method", TRAIN)
def test_a_rate_without_measure_is_one_line_even_after_the_last_step(method):
    actor = tiny_actor()
    before = actor.digest()
    with pytest.raises(RunError) as caught:
        TRAIN[method](actor, math.inf, 1)
    message = str(caught.value)
    assert message.startswith(f"{method}: ") and "\n" not in message
    assert "training diverged; lower the learning rate" in message
    assert actor.digest() == before


def test_the_end_of_a_loss_is_the_mean_of_its_last_tenth():
    assert trainer.describe_rise([]) == trainer.describe_rise([{"loss": 0.7}]) == ""
    # One batch of twenty's last two: (.7 + 1.6)/2 = 1.15 > 1.05; then (.7 + 1.3)/2 = 1.
    assert "from 0.70 to 1.15" in trainer.describe_rise([{"loss": 0.7}] * 19 + [{"loss": 1.6}])
    assert trainer.describe_rise([{"loss": 0.7}] * 19 + [{"loss": 1.3}]) == ""


def test_a_policy_far_from_its_start_or_still_there_is_remarked_on():
    def after(rate: float) -> Any:
        how = recipes.Grpo(steps=5, prompts=4, samples=4, learning_rate=rate)
        return group_rl.train(diary_actor(), DIARY, length, how, seed=1)

    trained = after(1.0)
    assert trained.log[-1]["kl"] > trainer.FAR_NATS
    assert "nats per token from the start at the end" in trained.remark
    assert after(1e-6).remark.endswith("raise learning_rate or steps (--recipe)")
