"""SimPO: its loss at zero margin, a step's loss by hand, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from szpo.baselines import simpo
from szpo.baselines.questions import Preferences
from szpo.data.pairs import Pair
from szpo.errors import RunError
from szpo.models.loading import answer_tokens
from szpo.types import Answer, Prompt
from tests.support.baseline_actors import (
    diary_actor,
    diary_pairs,
    mean_mood,
    move,
    pairs,
    tiny_actor,
)

ONE = simpo.Recipe(steps=1, batch=4)


def test_at_zero_margin_the_loss_is_softplus_of_the_margin_asked_for():
    # The same answer on both sides: −log σ(0 − γ) = log(1 + e^.5) = .974077 for γ = .5.
    same = [Pair(Prompt.user(f"w{i}"), Answer("w7 w8"), Answer("w7 w8")) for i in range(20, 24)]
    log = simpo.train(tiny_actor(), Preferences(same), ONE, seed=0).log
    assert log[0]["loss"] == pytest.approx(0.974077, abs=1e-6)


def test_the_loss_is_that_of_a_hand_calculation():
    actor = move(tiny_actor())
    data = pairs()[:4]
    deltas = actor.policy.deltas([actor.theta()])

    def per_token(side: str) -> torch.Tensor:
        rows = [answer_tokens(actor.loaded, getattr(pair, side)) for pair in data]
        ids = [actor.encode(pair.prompt) for pair in data]
        logp = actor.policy.engine.logprobs(ids, rows, [0] * len(rows), deltas)
        return torch.tensor([values.mean() for values in logp])

    margin = 2.0 * (per_token("chosen") - per_token("rejected")) - 0.5
    expected = float(-torch.nn.functional.logsigmoid(margin).mean())
    log = simpo.train(actor, Preferences(data), ONE, seed=0).log
    assert log[0]["loss"] == pytest.approx(expected, abs=1e-6)


def test_it_learns_what_is_preferred_and_twice_the_same():
    recipe = simpo.Recipe(steps=10, batch=16, learning_rate=1e-2)
    actor, again = diary_actor(), diary_actor()
    before, data = mean_mood(actor), diary_pairs(actor)
    losses = [
        figures["loss"] for figures in simpo.train(actor, Preferences(data), recipe, seed=3).log
    ]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.15
    assert mean_mood(actor) > before + 0.2
    simpo.train(again, Preferences(data), recipe, seed=3)
    assert again.digest() == actor.digest()


def test_nothing_to_learn_from_is_one_line():
    with pytest.raises(RunError, match="simpo: no pair to learn from: there is no vote"):
        simpo.train(tiny_actor(), Preferences([]), seed=0)
