"""Score features against finite differences, and what must not change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from szpo.errors import UsageError
from szpo.generation.sampling import Sampling
from szpo.models import loading
from szpo.models.batched_lora import attach_deltas
from szpo.policies import subspace_setup
from szpo.policies.lora_policy import AnswerSampling, LoraPolicy
from szpo.policies.subspaces import SetupSettings
from szpo.types import Answer, Comparison, Prompt, Row, Update
from tests.support import tiny_models

ASKED = [Prompt.user(f"w{7 + 3 * i} w{9 + i}") for i in range(12)]
SHORT = Sampling(max_new_tokens=5)


def make(kind: Any = "score", sampling: Sampling = SHORT) -> LoraPolicy:
    loaded = tiny_models.loaded("llama")
    setup = SetupSettings(kind, dim=3, samples=96, kl_samples=16, sampling=SHORT)
    space = subspace_setup.set_up_subspace(loaded, ASKED, setup)
    return LoraPolicy(loaded, space, root_seed=1, answering=AnswerSampling(sampling))


@pytest.fixture(scope="module")
def policy():
    return make()


def answer(*words: int, end: Any = "length") -> Answer:
    return Answer(" ".join(f"w{w}" for w in words), end, len(words))


ROWS = [
    (Row(ASKED[0], answer(40, 41), answer(60, end="stop")),
     Row(ASKED[1], answer(90, 91, 92), answer(17, 18))),
    (Row(ASKED[2], answer(33), answer(33)), Row(ASKED[0], answer(60, end="stop"), answer(70))),
    (Row(ASKED[3], answer(12, 13), Answer("", "length", 0)), Row(ASKED[4], answer(8), answer(9))),
    (Row(ASKED[5], answer(200), answer(201)), Row(ASKED[1], answer(17, 18), answer(99))),
]  # fmt: skip
STEP = [Comparison(f"c{i}", 0, i // 2, i % 2, rows) for i, rows in enumerate(ROWS)]


def logp(policy: LoraPolicy, prompt: Prompt, shown: Answer, z: np.ndarray) -> float:
    """Log-probability of a text at z, by a plain pass over its own tokens."""
    words = loading.answer_tokens(policy.loaded, shown)
    ids = torch.tensor([[*policy.encode(prompt), *words]])
    model = policy.loaded.model
    with (
        torch.no_grad(),
        attach_deltas(model, policy.subspace.sites, policy.deltas([{"z": z.astype(np.float32)}])),
    ):
        rows = model(ids).logits[0].double().log_softmax(-1)
    first = ids.shape[1] - len(words) - 1
    return sum(float(rows[first + t, word]) for t, word in enumerate(words))


@pytest.mark.full
def test_features_are_the_slopes_of_log_probabilities_in_z(policy):
    """Central differences of Σ log π(plus) − Σ log π(minus), over the rows of a comparison."""
    found = policy.score_features(STEP)
    assert found.shape == (2, 2, 3)
    step = 0.02
    for comparison in STEP:
        slopes = []
        for unit in np.eye(3):
            sides = [
                sum(
                    logp(policy, row.prompt, row.plus, z) - logp(policy, row.prompt, row.minus, z)
                    for row in comparison.rows
                )
                for z in (step * unit, -step * unit)
            ]
            slopes.append((sides[0] - sides[1]) / (2 * step) / len(comparison.rows))
        np.testing.assert_allclose(found[comparison.k, comparison.n], slopes, rtol=0.02, atol=5e-3)


def test_features_depend_neither_on_order_nor_position_and_change_sign_with_the_sides(policy):
    found = policy.score_features(STEP)
    swapped = [
        Comparison(c.id, 0, c.k, c.n, tuple(Row(r.prompt, r.minus, r.plus) for r in c.rows))
        for c in reversed(STEP)
    ]
    np.testing.assert_allclose(policy.score_features(swapped), -found, atol=1e-5)
    policy.apply(Update(0, 0, vector=(0.5, -1.0, 0.25)))
    np.testing.assert_array_equal(policy.score_features(STEP), found)
    policy.move_to(policy.start())


@pytest.mark.full
def test_the_scores_of_the_policys_own_answers_have_unit_covariance(policy):
    """What "whitened" promises, over 512 answers that the set-up did not see."""
    drawn = policy.sample(ASKED, 43, seed=5)
    pairs = [
        Comparison(str(i), 0, 0, i, (Row(prompt, plus, minus),))
        for i, (prompt, plus, minus) in enumerate(
            (prompt, a, b)
            for prompt, answers in zip(ASKED, drawn, strict=True)
            for a, b in zip(answers[::2], answers[1::2], strict=False)
        )
    ]
    found = policy.score_features(pairs)[0]
    # The difference of two independent scores has twice their covariance.
    F = found.T @ found / (2 * len(found))
    assert 0.6 < np.trace(F) / 3 < 1.6


@pytest.mark.full
def test_scores_of_a_centre_are_those_of_the_start_nearby_and_not_far_away(policy):
    cosines = []
    for length in (0.0, 0.3, 6.0):
        policy.move_to({"z": np.array([length, 0, 0], np.float32)})
        cosines.append(policy.score_cosine(ASKED, seed=3))
    policy.move_to(policy.start())
    assert cosines[0] == pytest.approx(1, abs=1e-6)
    assert 1 - 1e-9 > cosines[1] > 0.8 > cosines[2]


@pytest.mark.full
def test_what_has_no_scores_is_refused():
    full = make("full")
    with pytest.raises(UsageError, match=r"subspace\.kind full every weight is a coordinate"):
        full.score_features(STEP)
    with pytest.raises(UsageError, match="temperature 0 has no score"):
        make(sampling=Sampling(0.0, max_new_tokens=5)).score_features(STEP)
