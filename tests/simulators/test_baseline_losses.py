"""Losses and gradients of the baselines in worlds: golden numbers and finite differences."""

import numpy as np
import pytest

from szpo.baselines.advantages import gae, returns_to_go
from szpo_simulators.worlds import gridworld, rivals

MOVES, CELLS = gridworld.MOVES, 4
D = MOVES * CELLS


@pytest.fixture
def draw():
    return np.random.default_rng(5)


def pairs(draw, runs=2, n=30, horizon=6):
    """Differences of counts (S, n, d), shares won (S, n) and logits (S, d)."""
    index = draw.integers(0, D, (2, runs, n, horizon))
    x = gridworld.sum_by_index(index[0], D) - gridworld.sum_by_index(index[1], D)
    return x, draw.random((runs, n)), draw.normal(size=(runs, D))


def differences(function, at, h=1e-6):
    """Central differences of (S,) values with respect to (S, d) numbers."""
    found = np.empty_like(at)
    for i in range(at.shape[-1]):
        step = np.zeros(at.shape[-1])
        step[i] = h
        found[:, i] = (function(at + step) - function(at - step)) / (2 * h)
    return found


def test_dpo_pulls_along_the_gradient_of_its_loss(draw):
    """−log σ(m) where plus won, −log σ(−m) where minus did."""
    x, won, theta = pairs(draw)
    reference = draw.normal(size=theta.shape)

    def loss(t):
        ratio = gridworld.log_policy(t, MOVES) - gridworld.log_policy(reference, MOVES)
        m = 0.4 * np.einsum("snd,sd->sn", x, ratio)
        return (won * np.logaddexp(0, -m) + (1 - won) * np.logaddexp(0, m)).mean(-1)

    slope = rivals.dpo_gradient(theta, reference, x, won, beta=0.4)
    assert slope == pytest.approx(differences(loss, theta), abs=1e-7)


def test_the_clipped_gradient_in_a_table_is_that_of_the_objective_over_steps(draw):
    _, _, old = pairs(draw)
    theta = old + draw.normal(size=old.shape) / 3
    index = draw.integers(0, D, (2, 5, 7))
    advantage = draw.normal(size=index.shape)

    def objective(t):
        log_ratio = gridworld.log_policy(t, MOVES) - gridworld.log_policy(old, MOVES)
        taken = np.take_along_axis(log_ratio, index.reshape(2, -1), -1).reshape(index.shape)
        ratio = np.exp(taken)
        clipped = np.clip(ratio, 0.8, 1.2) * advantage
        return np.minimum(ratio * advantage, clipped).sum((1, 2)) / 5

    up, down = rivals.sum_advantages(index, advantage, D)
    slope = rivals.ppo_gradient(theta, old, up, down, clip=0.2, moves=MOVES)
    assert slope == pytest.approx(differences(objective, theta), abs=1e-7)


def test_reinforce_is_the_gradient_of_weighted_log_probability(draw):
    _, _, theta = pairs(draw)
    index, advantage = draw.integers(0, D, (2, 9, 5)), draw.normal(size=(2, 9, 5))

    def value(t):
        logs = gridworld.log_policy(t, MOVES)
        taken = np.take_along_axis(logs[:, None, :], index.reshape(2, 1, -1), axis=-1)
        return (taken.reshape(index.shape) * advantage).sum((1, 2)) / 9

    found = rivals.true_gradient(theta, index, advantage)
    assert found == pytest.approx(differences(value, theta), abs=1e-7)


def test_advantages_at_both_ends_of_lambda(draw):
    rewards, values = draw.normal(size=(2, 4)), draw.normal(size=(2, 5))
    values[:, -1] = 0
    errors = rewards + values[:, 1:] - values[:, :-1]
    assert gae(rewards, values, 0.0) == pytest.approx(errors)
    to_go = returns_to_go(rewards)
    assert gae(rewards, values, 1.0) == pytest.approx(to_go - values[:, :-1])
    one = gae(np.array([1.0, 2.0]), np.array([0.5, 0.25, 0.0]), 0.5)
    assert one == pytest.approx([0.75 + 0.5 * 1.75, 1.75])


def test_the_fit_is_finite_for_separable_votes():
    found = rivals.fit_reward(np.ones((1, 20, 1)), np.ones((1, 20)), 1e-3)
    # 0 = −σ(−w) + w/1000: w = 5.24
    assert found[0, 0] == pytest.approx(5.2446, abs=1e-3)
