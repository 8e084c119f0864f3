"""The world of recorded answers: it moves as policies do, and runs in it find tastes."""

import json
import math

import numpy as np
import pytest

from szpo.optim.named_features import NamedFeatures
from szpo.optim.sparse_prior import SparsePrior
from szpo.types import FEATURE_GRID
from szpo_simulators import surrogate
from szpo_simulators.surrogate import GATE, Recorded, recommend, run

K = 8


def make_world(seed=0, prompts=24, answers=120, components=0):
    """Answers whose features are the scores themselves; feature 2 is the reward."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(prompts * answers, K))
    of = np.repeat(np.arange(prompts), answers)
    names = tuple(f"f{i}" for i in range(K))
    own = tuple(map(tuple, (FEATURE_GRID * np.eye(K, dtype=int)).tolist()))
    grids = (FEATURE_GRID,) * K
    named = NamedFeatures(names, tuple(range(K)), grids, own, components, "0" * 64)
    return Recorded(of, features, features, named, features[:, 2])


def test_a_move_shifts_each_feature_by_the_metric():
    world, rng = make_world(), np.random.default_rng(1)
    move = np.zeros((2, K))
    move[1, 0] = 0.8
    shown = np.array([world.draw(move, 8, rng) for _ in range(1500)])
    shift = np.diff(world.features[shown].mean((0, 2)), axis=0)[0]
    assert shift == pytest.approx(move[1], abs=0.06)  # four standard errors
    assert (world.prompts[shown[:, 0]] == world.prompts[shown[:, 1]]).all()


@pytest.mark.full
def test_the_voter_agrees_with_itself_as_often_as_meant():
    world, rng = make_world(), np.random.default_rng(2)
    beta = world.voter(4, rng)
    shown = np.array([world.draw(np.zeros((2, K)), 4, rng) for _ in range(3000)])
    chance = 1 / (1 + np.exp(-beta * np.diff(world.reward[shown].mean(2), axis=1)))
    assert (chance**2 + (1 - chance) ** 2).mean() == pytest.approx(0.7, abs=0.015)


def test_a_run_names_the_taste_and_goes_there():
    world, rng = make_world(), np.random.default_rng(3)
    prior = SparsePrior(np.arange(K), np.full(K, 0.5))
    last = run(world, prior, 3, beta=world.voter(8, rng), votes=64)[-1]
    assert last.log_factor > GATE
    assert last.found.more[2] > 0.8
    point = recommend(last)
    assert np.linalg.norm(point) > 1.5
    assert world.mean_gain(point) > 0.8 * np.linalg.norm(point)  # the reward is a feature


@pytest.mark.full
def test_a_run_of_chance_votes_stays_near_the_start():
    world, prior = make_world(), SparsePrior(np.arange(K), np.full(K, 0.5))
    for seed in range(4):
        last = run(world, prior, seed, beta=0.0, votes=40)[-1]
        if last.log_factor < GATE:
            assert np.linalg.norm(recommend(last)) <= 0.5 + 1e-9
        assert last.log_factor < math.log(100)


@pytest.mark.full
def test_the_bench_says_what_a_taste_gains_and_counts_runs_of_chance_votes():
    world = make_world(components=K)
    spec = {"class": "named", "taste": "third", "seeds": 3}
    row = surrogate.compare_coordinates(world, {"third": world.reward}, spec)
    assert row["said"] == 3 and row["mostly"].endswith("f2 (3)")
    assert row["features 120"] > row["features 40"] > 0.8
    chance = surrogate.count_chance(world, {"chance": True, "seeds": 3})
    assert chance["opened"] <= 1  # a ninth of them at most, by Ville's inequality
    assert max(chance["said"], chance["far"]) <= chance["opened"]
    assert json.dumps([row, chance])  # as cells are stored


def test_a_move_gains_what_weighted_answers_gain():
    world, z = make_world(), np.array([0.0, 0.0, 1.5])
    assert world.mean_gain(z) == pytest.approx(1.5, abs=0.1)  # of a normal feature, tilted
    assert world.mean_gain(np.zeros(3)) == pytest.approx(0.0, abs=1e-12)
