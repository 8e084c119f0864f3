"""What is no recipe is refused where it is made: method, field, value and range in one line."""

from __future__ import annotations

import math

import pytest

from szpo.baselines import (
    dpo,
    grpo,
    notebook_dpo,
    ppo,
    registry,
    reward_model,
    self_rewarding,
    sft,
    simpo,
)
from szpo.errors import UsageError

STEPPED = {
    "dpo": dpo.Recipe,
    "simpo": simpo.Recipe,
    "reward-model": reward_model.Recipe,
    "sft": sft.Recipe,
}


@pytest.mark.parametrize("method", STEPPED)
@pytest.mark.parametrize(
    ("field", "value", "range_"),
    [
        ("steps", 0, "at least 1"),
        ("steps", -3, "at least 1"),
        ("batch", 0, "at least 1"),
        ("accumulation", 0, "at least 1"),
        ("max_length", 0, "at least 1"),
        ("epochs", 0.0, "above 0"),
        ("epochs", math.inf, "below inf"),
        ("learning_rate", -1e-3, "above 0"),
        ("learning_rate", math.nan, "above 0"),
        ("schedule", "foo", "one of constant, linear, cosine"),
        ("optimizer", "foo", "such as adamw_torch"),
    ],
)
def test_steps_and_rates(method, field, value, range_):
    with pytest.raises(UsageError) as caught:
        STEPPED[method](**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{method}: {field} must be ") and range_ in message
    assert message.endswith(f"(got {value!r})")


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (dpo.Recipe, {"beta": -1.0}, "dpo: beta must be above 0 (got -1.0)"),
        (dpo.Recipe, {"loss": "foo"}, "sft (got 'foo')"),
        (dpo.Recipe, {"prompt_tokens": -5}, "dpo: prompt_tokens must be at least 1 (got -5)"),
        (dpo.Recipe, {"dropout": 1.0}, "dropout must be at least 0 and below 1 (got 1.0)"),
        (dpo.Recipe, {"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        (dpo.Recipe, {"loss": "exo_pair"}, "label_smoothing must be above 0 for exo_pair"),
        (dpo.Recipe, {"reference": "then"}, "dpo: reference must be one of start, now"),
        (dpo.Rounds, {"rounds": 0}, "iterative-dpo: rounds must be at least 1 (got 0)"),
        (dpo.Rounds, {"rows": 0}, "iterative-dpo: rows must be at least 1 (got 0)"),
        (simpo.Recipe, {"beta": 0.0}, "simpo: beta must be above 0 (got 0.0)"),
        (simpo.Recipe, {"gamma": -0.5}, "simpo: gamma must be at least 0 (got -0.5)"),
        (reward_model.Recipe, {"rank": 0}, "reward-model: rank must be at least 1 (got 0)"),
        (reward_model.Recipe, {"center": -1.0}, "center must be at least 0 (got -1.0)"),
        (sft.Recipe, {"dropout": -0.1}, "sft: dropout must be at least 0 and below 1"),
        (grpo.Recipe, {"loss": "foo"}, "grpo: loss must be one of grpo, bnpo, dr_grpo, dapo"),
        (ppo.Recipe, {"steps": 0}, "steps must be at least 1"),
        (ppo.Recipe, {"rate": 0.0}, "rate must be above 0"),
        (ppo.Recipe, {"clip": math.nan}, "clip must be above 0"),
        (ppo.Recipe, {"beta": -0.1}, "beta must be 0 to inf"),
        (ppo.Recipe, {"gamma": 1.5}, "gamma must be 0 to 1"),
        (ppo.Recipe, {"minibatches": 99}, "99 minibatches of 32 answers"),
        (self_rewarding.Recipe, {"temperature": -1.0}, "self-rewarding: temperature must be"),
        (self_rewarding.Recipe, {"top_p": 1.5}, "top_p must be at most 1 (got 1.5)"),
        (self_rewarding.Recipe, {"candidates": 1}, "candidates must be at least 2 (got 1)"),
    ],
)
def test_fields_of_one_method(kind, given, words):
    with pytest.raises(UsageError) as caught:
        kind(**given)
    assert words in str(caught.value)


@pytest.mark.parametrize("method", registry.NAMES)
def test_the_default_recipe_of_every_method_is_one(method):
    assert registry.recipe(method, {}) == registry.recipe(method, {})


def test_a_recipe_that_is_changed_by_name_is_looked_at_again():
    with pytest.raises(UsageError, match="dpo: steps must be at least 1"):
        registry.recipe("notebook-dpo", {"steps": "0"})
    assert notebook_dpo.RECIPE.steps == 50
