"""Prompts that leave no room for an answer teach nothing: they are left out, with a remark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from szpo.baselines import dpo, reward_model, sft, simpo
from szpo.baselines.costs import Trained
from szpo.baselines.questions import Preferences
from szpo.data.pairs import Pair
from szpo.errors import RunError
from szpo.models.loading import encode
from szpo.types import Answer, Prompt, Verdict
from tests.support.baseline_actors import pairs, tiny_actor

LONG = Prompt.user(" ".join(f"w{i}" for i in range(20, 80)))
HOW = {"steps": 1, "batch": 4, "learning_rate": 1e-3}


def of_pairs(method: Any) -> Callable[[Sequence[Pair], int], tuple[Trained, Any]]:
    def train(data: Sequence[Pair], limit: int) -> tuple[Trained, Any]:
        actor = tiny_actor()
        done = method.train(
            actor, Preferences(data), method.Recipe(**HOW, max_length=limit), seed=0
        )
        return done, actor.theta()

    return train


def of_rewards(data: Sequence[Pair], limit: int) -> tuple[Trained, Any]:
    recipe = reward_model.Recipe(**HOW, rank=2, max_length=limit)
    model, done = reward_model.train(tiny_actor().loaded, Preferences(data), recipe, seed=0)
    return done, {**model.factors, "head": model.head}


def of_examples(data: Sequence[Pair], limit: int) -> tuple[Trained, Any]:
    actor = tiny_actor()
    examples = [(pair.prompt, pair.chosen) for pair in data]
    done = sft.train(actor, examples, sft.Recipe(**HOW, max_length=limit), seed=0)
    return done, actor.theta()


TRAIN = {
    "dpo": of_pairs(dpo), "simpo": of_pairs(simpo), "reward-model": of_rewards, "sft": of_examples,
}  # fmt: skip


@pytest.mark.parametrize("method", TRAIN)
def test_what_has_no_room_is_left_out_and_counted(method):
    """A prompt as long as the limit changes nothing: not the weights, not the loss."""
    size = len(encode(tiny_actor().loaded.tokenizer, LONG))
    short = pairs()[:4]
    long = Pair(LONG, short[0].chosen, short[0].rejected)
    plain, weights = TRAIN[method](short, size)
    done, others = TRAIN[method]([*short[:2], long, *short[2:]], size)
    assert done.remark == "1 of 5 do not fit into max_length and were left out"
    assert plain.remark == "" and done.pairs == plain.pairs == 4
    assert done.log[0]["loss"] == plain.log[0]["loss"]
    assert all(np.array_equal(value, weights[name]) for name, value in others.items())


class First:
    """Always prefers the first answer."""

    def pairs(
        self, prompts: Sequence[Prompt], first: Sequence[Answer], second: Sequence[Answer], *,
        key: bytes,
    ) -> list[Verdict]:  # fmt: skip
        return ["plus"] * len(prompts)


def test_iterative_dpo_says_so_of_the_pairs_of_its_last_round():
    size = len(encode(tiny_actor().loaded.tokenizer, LONG))
    plan = dpo.Rounds(rounds=2, questions=4, recipe=dpo.Recipe(**HOW, max_length=size))
    prompts = [LONG, *(pair.prompt for pair in pairs()[:3])]  # each once in each round
    done = dpo.iterative(tiny_actor(), prompts, First(), plan, seed=0)
    assert done.remark == "2 of 8 do not fit into max_length and were left out"
    assert done.pairs == 8  # asked for, and paid for


@pytest.mark.parametrize("method", TRAIN)
def test_where_nothing_fits_a_line_says_how_long_the_shortest_is(method):
    words = rf"{method}: nothing to learn from: none of 4 fits into max_length 2; the shortest "
    with pytest.raises(RunError, match=words + r"needs \d+ tokens$"):
        TRAIN[method](pairs()[:4], 2)
