"""PPO's arithmetic against sums done by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.baselines import ppo_loss
from szpo.baselines.advantages import gae, returns_to_go, standardise, token_rewards


def test_returns_of_the_notebook():
    # 1; 1 + .99·1 = 1.99; 1 + .99·1.99 = 2.9701
    assert returns_to_go(np.ones(3), 0.99).tolist() == pytest.approx(
        [2.9701, 1.99, 1.0], abs=1e-12
    )


def test_clipped_loss_by_hand():
    # ρ = 1.5, 1.1, .5, .9 with A = 2, −1, −3, 1 and ε = .2:
    # min(3, 2.4) = 2.4; −1.1; min(−1.5, −2.4) = −2.4; .9: mean −.2/4 = −.05, loss .05.
    ratio = torch.tensor([1.5, 1.1, 0.5, 0.9], dtype=torch.float64)
    old = torch.log(torch.tensor([0.2, 0.3, 0.4, 0.5], dtype=torch.float64))
    logp = (old + ratio.log()).requires_grad_()
    advantages = torch.tensor([2.0, -1.0, -3.0, 1.0], dtype=torch.float64)
    found = ppo_loss.policy_loss(logp, old, advantages)
    assert found.loss.item() == pytest.approx(0.05, abs=1e-6)
    assert found.ratio.tolist() == pytest.approx(ratio.tolist(), abs=1e-12)
    assert found.clipped == 0.5
    found.loss.backward()
    # Nothing pulls where the clipped term is the smaller one; elsewhere −ρA/4.
    assert logp.grad.tolist() == pytest.approx([0, 0.275, 0, -0.225], abs=1e-6)


def test_value_loss_by_hand():
    # V = 1, 0; V_old = .5, 0; R = 2, 1; ε = .2: V_clip = .7, 0;
    # ½·mean(max(1, 1.69), max(1, 1)) = ½·1.345 = .6725; without clipping ½·1 = .5.
    values, old, returns = (torch.tensor(v) for v in ([1.0, 0.0], [0.5, 0.0], [2.0, 1.0]))
    assert ppo_loss.value_loss(values, old, returns).item() == pytest.approx(0.6725, abs=1e-6)
    plain = ppo_loss.value_loss(values, old, returns, clip=math.inf)
    assert plain.item() == pytest.approx(0.5, abs=1e-6)


def test_rewards_per_token_add_up_to_the_penalised_reward():
    # Two tokens: r = 1.5 − .1·((−1 + 3) + (−2 + 1)) = 1.5 − .1 = 1.4; one token: −1 − .1·.5.
    logp = np.array([[-1.0, -2.0, 0.0], [-0.5, 9.0, 9.0]])
    reference = np.array([[-3.0, -1.0, 0.0], [-1.0, -9.0, 9.0]])
    there = np.array([[True, True, False], [True, False, False]])
    found = token_rewards(np.array([1.5, -1.0]), logp, reference, there, beta=0.1)
    assert found == pytest.approx(np.array([[-0.2, 1.6, 0.0], [-1.05, 0.0, 0.0]]), abs=1e-12)
    assert found.sum(1) == pytest.approx([1.4, -1.05], abs=1e-12)
    free = token_rewards(np.array([1.5, -1.0]), logp, reference, there, beta=0.0)
    assert free.sum(1).tolist() == [1.5, -1.0]  # β = 0: r_φ alone


def test_an_answer_of_no_token_earns_nothing_and_leaves_its_neighbours_alone():
    logp, there = np.array([[0.0, 0.0], [-1.0, -1.0]]), np.array([[False] * 2, [True] * 2])
    found = token_rewards(np.array([7.0, 2.0]), logp, logp, there, beta=0.3)
    assert found.tolist() == [[0.0, 0.0], [0.0, 2.0]]


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=6),
    st.integers(0, 4),
    st.floats(0, 1),
    st.floats(0.5, 1),
)
def test_padding_behind_an_end_changes_no_advantage(rewards, pad, lam, gamma):
    values = np.array([*(0.3 * np.arange(len(rewards))), 0.0])
    short = gae(np.array(rewards), values, lam, gamma)
    longer = gae(np.array(rewards + [0.0] * pad), np.append(values, [0.0] * pad), lam, gamma)
    assert longer.tolist() == pytest.approx([*short, *[0.0] * pad], abs=1e-12)


def test_standardised_values_ignore_what_is_not_there():
    values, there = np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]])
    assert standardise(values, there) == pytest.approx(np.array([[-1.0, 1.0, 0.0]]), abs=1e-6)
    assert not standardise(values, np.zeros((1, 3), bool)).any()
