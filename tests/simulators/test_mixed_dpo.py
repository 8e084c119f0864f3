"""Iterative DPO in adapters' weights: its gradient is that of the loss; same seed twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from szpo.baselines import asking, dpo, recipes
from szpo.data.preference_formats import Pair
from szpo.errors import RunError, UsageError
from szpo.policies.lora_policy import LoraPolicy
from szpo.types import Prompt
from szpo_simulators import mixed_dpo
from tests.support import lora_folders, tiny_models
from tests.support.lora_folders import SHORT, unmixed

PROMPTS = [Prompt.user(f"w{20 + i} w{31 + i}") for i in range(8)]
MIXING = np.float32([[2, 0.5, 0], [0, 1, -0.3], [0.4, 0, 0.7]])


@pytest.fixture
def policy(tmp_path):
    model, folders = tiny_models.loaded("llama", Path()), lora_folders.write_shapes(tmp_path)
    space = unmixed(model, folders)
    space = replace(space, blocks=replace(space.blocks, mixing=MIXING))
    return LoraPolicy(model, space, root_seed=0, sampling=SHORT)


@pytest.mark.full
def test_the_gradient_is_that_of_the_loss_where_the_policy_is(policy):
    drawn = policy.sample(PROMPTS, 2, seed=3)
    pairs = [Pair(prompt, *two) for prompt, two in zip(PROMPTS, drawn, strict=True)]
    here, beta, step = np.float32([0.4, -0.3, 0.5]), 0.3, 0.01

    def loss(z):
        policy.move_to({"z": np.float32(z)})
        texts = [(p.prompt, getattr(p, side)) for side in ("chosen", "rejected") for p in pairs]
        plus, minus = np.split(dpo.log_ratios(policy, texts), 2)
        return np.log1p(np.exp(-beta * (plus - minus))).mean()

    slopes = [(loss(here + d) - loss(here - d)) / 2 / step for d in step * np.eye(3)]
    policy.move_to({"z": here})
    found = mixed_dpo.gradient(policy, pairs, beta)
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(found, slopes, atol=2e-4, rtol=1e-2)


def longer(questions, single, key):
    return ["plus" if len(r.plus.text) > len(r.minus.text) else "minus" for (r,) in questions]


def equal(questions, single, key):
    return ["tie"] * len(questions)


@pytest.mark.full
@pytest.mark.parametrize("drawn", [1, 3])
def test_the_same_seed_ends_at_the_same_weights(policy, drawn):
    recipe = recipes.Dpo(learning_rate=0.05, batch=4)
    plan = recipes.Rounds(rounds=2, questions=8, drawn=drawn, recipe=recipe)
    ends = []
    for _ in range(2):
        policy.move_to(policy.start())
        seen = []
        survey = asking.Survey(PROMPTS, longer, 8, None, seed=5)
        mixed_dpo.train(policy, survey, plan, seed=5, on_step=seen.append)
        ends.append(policy.theta()["z"].tolist())
    assert ends[0] == ends[1] != [0.0] * 3
    assert [moment.step for moment in seen] == [1, 2] and seen[-1].cost.answers_read == 32
    tokens = seen[-1].cost.tokens_generated
    assert 32 * drawn < tokens <= 32 * drawn * SHORT.max_new_tokens


def test_what_it_does_not_follow_or_cannot_learn_from_is_one_line(policy):
    mixed_dpo.check(dict.fromkeys(mixed_dpo.KNOWN))
    with pytest.raises(UsageError, match="'loss' is not followed in adapters' weights; leave"):
        mixed_dpo.check({"rounds": 2, "loss": "hinge"})
    survey = asking.Survey(PROMPTS, equal, 2, None, seed=5)
    with pytest.raises(RunError, match="all 2 answers were ties or skips"):
        plan = recipes.Rounds(rounds=1, questions=2)
        mixed_dpo.train(policy, survey, plan, seed=5, on_step=asking.ignore_step)
