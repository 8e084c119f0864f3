"""The worth of a verdict on a pair: mutual information with what the votes may be about."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.optim import informative
from szpo.optim.informative import UNITS
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import Kept, SparseFit, fit_sparse
from szpo.optim.vote_regression import Votes

PRIOR = SparsePrior(np.arange(4), np.full(4, math.sqrt(2)))


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def fit_with(*kept):
    zero = np.zeros(4)
    return SparseFit(zero, np.zeros((4, 4)), 1.0, 0.0, zero, zero, 0.0, kept)


def test_two_explanations_that_disagree_are_told_apart_and_those_that_agree_are_not():
    # Each is sure of its own verdict: σ(±3). Where they disagree the verdict is worth
    # H(½) − H(σ(3)) = .6931 − .1909 = .5023 nats, where they agree nothing.
    fit = fit_with(Kept((0,), 0.0, 0.5, np.array([3.0])), Kept((1,), 0.0, 0.5, np.array([3.0])))
    found = informative.worth(np.array([[1.0, -1, 0, 0], [1, 1, 0, 0], [0, 0, 5, 0]]), fit, PRIOR)
    p = 1 / (1 + math.exp(-3))
    assert found[0] == round(UNITS * (math.log(2) - entropy(p)))
    assert found[1] == found[2] == 0


def test_what_no_kept_explanation_is_about_may_still_decide_a_verdict():
    # Half of the probability is kept, and sure of plus: p = σ(3). The rest is even, as the prior
    # is: of the entropy of (p + ½)/2 the kept part takes H(p)/2 away, the prior's half the rest.
    fit, x = fit_with(Kept((0,), 0.0, 0.5, np.array([3.0]))), np.array([[1.0, 0, 0, 0]])
    p = 1 / (1 + math.exp(-3))
    before = math.log(2) - informative.worth(x, None, PRIOR)[0] / UNITS
    known = entropy(p / 2 + 1 / 4) - entropy(p) / 2 - before / 2
    assert informative.worth(x, fit, PRIOR)[0] == pytest.approx(UNITS * known, abs=2)


def test_before_any_vote_the_pair_that_differs_most_and_in_most_features_is_worth_most():
    x = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0]])
    nothing, one, twice, two = informative.worth(x, None, PRIOR)
    assert nothing == 0 < one < twice
    assert two == pytest.approx(2 * one, abs=2)
    # A quarter of the prior is on this feature, its logit N(0, (2/√2)²): by quadrature .2127 nats.
    nodes = np.linspace(-8, 8, 20001)
    density = np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
    p = 1 / (1 + np.exp(-math.sqrt(2) * nodes))
    known = (math.log(2) + (density * (p * np.log(p) + (1 - p) * np.log(1 - p))).sum()) / 4
    assert one / UNITS == pytest.approx(known, rel=2e-3)


@given(st.integers(0, 2**32 - 1))
def test_worth_is_between_nothing_and_a_bit_and_does_not_depend_on_sides(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 4))
    up = (rng.random(30) < 0.5).astype(float)
    fit = fit_sparse(Votes(x, up, 1 - up), PRIOR)
    asked = rng.normal(size=(50, 4))
    found = informative.worth(asked, fit, PRIOR)
    assert (found >= -1).all() and (found <= UNITS * math.log(2)).all()
    assert np.abs(found - informative.worth(-asked, fit, PRIOR)).max() <= 1


def test_one_row_of_eight_is_drawn_by_chance_and_the_seed_draws_it():
    worths = np.arange(20)
    places = ((step, row) for step in range(100) for row in range(8))
    chosen = [informative.choose_pair(5, step, row, worths) for step, row in places]
    assert sum(each != 19 for each in chosen) == pytest.approx(800 / 8 * 19 / 20, abs=30)
    assert chosen[:8] == [informative.choose_pair(5, 0, row, worths) for row in range(8)]
