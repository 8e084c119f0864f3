"""Variational preference learning: golden pieces of the models, learning two users, collapse."""

import dataclasses
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import UsageError
from szpo_simulators import vpl
from szpo_simulators.worlds import vpl as data
from szpo_simulators.worlds.vpl import (
    Encoder,
    Pairs,
    Recipe,
    beats,
    contexts,
    divergence,
    fit,
    hash_words,
    latent,
    margins,
    scores,
    weight,
)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_divergences_and_comparisons_of_atoms_by_hand():
    # KL(N(1, e) ‖ N(0, 1)) = ½(e + 1 − 1 − 1)
    assert divergence(rows(1.0), rows(1.0)).item() == pytest.approx((np.e - 1) / 2)
    assert divergence(rows(0.0), rows(0.0)).item() == 0
    # p = (½, ½), q = (¾, ¼): P(>) = ½·¾, P(=) = ½·¾ + ½·¼
    q = rows(log(3), 0.0)
    assert beats(rows(0.0, 0.0), q).item() == pytest.approx(3 / 8 + 1 / 4)
    assert (beats(rows(0.0, 0.0), q) + beats(q, rows(0.0, 0.0))).item() == pytest.approx(1)


def test_the_encoder_reads_a_set_within_its_bounds():
    torch.manual_seed(1)
    encoder = Encoder(3, hidden=8, latent=2)
    one, other = 50 * torch.randn(1, 4, 3), 50 * torch.randn(1, 4, 3)
    there = torch.tensor([[True, True, True, False]])
    mean, log_variance = encoder(one, other, there)
    assert mean.abs().max() <= 1 and log_variance.abs().max() <= 1
    order = torch.tensor([2, 0, 1, 3])
    again, _ = encoder(one[:, order], other[:, order], there)
    assert torch.allclose(mean, again, atol=1e-5)
    one[:, 3] = 99.0  # what is not there is not read
    assert torch.equal(encoder(one, other, there)[0], mean)


def test_annealing_stays_between_its_baseline_and_beta_and_a_user_needs_two_pairs():
    recipe = Recipe(beta=2.0, cycles=4)
    found = [weight(recipe, step, 400) for step in range(400)]
    assert min(found) == pytest.approx(0.2) and max(found) == pytest.approx(2.0)
    assert [i for i in range(1, 400) if found[i] < found[i - 1]] == [100, 200, 300]
    lone = Pairs(np.zeros((3, 1)), np.zeros((3, 1)), np.array([0, 0, 1]), np.zeros(3, dtype=bool))
    with pytest.raises(UsageError, match="a user has a single pair"):
        fit(lone, Recipe(epochs=1), 0)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=30), st.integers(0, 1000))
def test_a_context_is_the_users_own_and_never_the_pair_itself(users, seed):
    of = np.array(sorted([*users, 0, 0, 1, 1, 2, 2, 3, 3]))
    n = len(of)
    known = Pairs(np.zeros((n, 1)), np.zeros((n, 1)), of, np.zeros(n, dtype=bool))
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = rng.integers(1, 6, n)
    found = contexts(known, of, size, rng.random((n, 5)), np.arange(n))
    there = found >= 0
    assert (there.sum(1) == size).all()
    assert (of[found][there] == np.repeat(of, size)).all()
    assert not (found == np.arange(n)[:, None]).any()


SMALL = Recipe(epochs=8)


@pytest.fixture(scope="module")
def two():
    return vpl.two_users(4000, 0), vpl.two_users(4000, 0, "test")


@pytest.fixture(scope="module")
def two_users_model(two):
    return fit(two[0], SMALL, 0)


@pytest.mark.full
def test_a_latent_tells_two_users_apart(two, two_users_model):
    _, controversial = scores(two_users_model, two[1])
    assert (controversial.value or 0) >= 0.95
    used = latent(two_users_model, two[1])
    assert used["active"] >= 1 and not used["collapsed"]


@pytest.mark.full
def test_without_a_latent_controversial_pairs_are_a_coin(two):
    recipe = dataclasses.replace(SMALL, kind="base")
    fitted = fit(two[0], recipe, 1)
    every, controversial = scores(fitted, two[1])
    assert 0.45 <= (controversial.value or 0) <= 0.55
    assert 0.70 <= (every.value or 0) <= 0.80
    with pytest.raises(UsageError, match="base has no latent"):
        latent(fitted, two[1])


@pytest.mark.full
def test_a_heavy_prior_collapses_the_posterior_and_that_is_seen(two):
    fitted = fit(two[0], dataclasses.replace(SMALL, epochs=2, beta=10.0), 1)
    used = latent(fitted, two[1])
    assert used["collapsed"] and used["active"] == 0 and used["kl"] < 0.05
    assert (scores(fitted, two[1])[1].value or 0) <= 0.55


def test_the_same_seed_gives_the_same_model(two):
    few, recipe = two[0].take(np.arange(200)), dataclasses.replace(SMALL, epochs=1)
    fitted = [fit(few, recipe, seed) for seed in (1, 1, 2)]
    one, again, other = (margins(each, few).tolist() for each in fitted)
    assert one == again != other


def test_hashed_words_are_the_same_on_every_machine():
    row = np.array(hash_words("The sea, the sea.", 8))
    # the ×2, sea ×2, "the sea" ×2, "sea the" ×1, each at its place with its sign
    assert row @ row == pytest.approx(1)
    assert hash_words("") == (0.0,) * data.WIDTH
    warm, cold, other = map(hash_words, ("a warm sea", "a cold sea", "quite another thing"))
    assert np.dot(warm, cold) > np.dot(warm, other)
