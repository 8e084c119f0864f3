"""Votes to value differences: the bias is known exactly, the standard errors are honest."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.analysis import feature_weights as bt
from szpo.analysis.feature_weights import FeatureVotes
from szpo.errors import RunError, UsageError
from szpo.optim import known_and_sign
from szpo.optim import links as e
from szpo.optim.links import LINKS, link
from szpo.types import Floats, Ints, Tally
from tests.support.cases import case
from tests.support.tallies import tally

LOGISTIC = LINKS["logistic"]
# Bias and root mean square error of haldane at difference x under Bradley–Terry, by exact
# summation over the binomial, as published with the derivation of the estimators, by (M, x).
BIAS_TABLE = {
    (1, 0.5): (-0.231, 1.09), (3, 1.0): (-0.138, 0.99), (5, 1.0): (-0.042, 0.91),
    (10, 1.0): (0.001, 0.73), (20, 2.0): (-0.006, 0.70), (50, 2.0): (0.002, 0.45),
    (100, 2.0): (0.000, 0.31),
}  # fmt: skip


def counts(*rows):
    return np.array(rows, dtype=float)


def test_bias_table():
    for (votes, x), (bias, rmse) in BIAS_TABLE.items():
        with case(votes, x):
            mean, sd = e.moments(LOGISTIC.prob(x), votes)
            assert round(float(mean) - x, 3) == pytest.approx(bias, abs=1e-9)
            assert round(math.hypot(float(mean) - x, float(sd)), 2) == pytest.approx(rmse)


@given(st.integers(0, 200), st.integers(1, 100))
def test_haldane_is_rounded_once(doubled, votes):
    doubled = min(doubled, 2 * votes)
    with localcontext() as context:
        context.prec = 80
        exact = (Decimal(doubled + 1) / Decimal(2 * votes - doubled + 1)).ln()
    found = e.haldane(counts(doubled / 2), counts(votes))[0]
    assert found == float(exact)
    assert found == -e.haldane(counts(votes - doubled / 2), counts(votes))[0]


def test_haldane_takes_weighted_votes_too():
    k, m = counts(1.3, 2.0), counts(2.7, 3.0)
    assert e.haldane(k, m) == pytest.approx(np.log((k + 0.5) / (m - k + 0.5)), rel=1e-12)


def test_other_links_are_odd_and_finite():
    for smoothing in ["haldane", "trim"]:
        for name in ["probit", "cauchit", "cloglog", "linear:3"]:
            with case(name, smoothing):
                k, m = counts(0, 1, 2, 3), counts(3, 3, 3, 3)
                found = e.inversion(smoothing, link(name))(k, m)
                assert np.isfinite(found).all()
                assert found == pytest.approx(-found[::-1], abs=1e-12)
                assert all(a <= b for a, b in pairwise(found))


def test_no_votes_give_zero_whatever_the_estimator_and_unknown_ones_are_refused():
    for name in ("haldane", "trim"):
        assert e.inversion(name)(counts(0), counts(0)).tolist() == [0.0]
    with pytest.raises(UsageError, match="'mean' is unknown"):
        e.inversion("mean")


def test_estimates_are_averaged_after_inversion_and_ties_are_half_a_vote_each():
    found = e.estimate(tally([[3, 0]], [[0, 1]]))
    assert found.delta[0] == (math.log(7) - math.log(3)) / 2
    found = e.estimate(tally([[1, 2]], [[0, 1]], [[2, 0]]))
    assert found.delta[0] == (math.log(2.5 / 1.5) + math.log(2.5 / 1.5)) / 2


def test_identical_comparisons_count_as_zero_unread_and_unanswered_ones_not_at_all():
    one_is_identical = tally([[1, 0, 1]], identical=[[False, True, False]])
    found = e.estimate(one_is_identical)
    assert found.delta[0] == 2 * math.log(3) / 3
    assert found.counted.tolist() == [3]
    unanswered = e.estimate(tally([[1, 0, 1]]))
    assert unanswered.delta[0] == math.log(3)
    assert unanswered.counted.tolist() == [2]
    assert known_and_sign.majority(one_is_identical).tolist() == [1.0]
    first = [[True, False]]
    assert known_and_sign.majority(tally([[0, 0]], [[9, 1]], identical=first)).tolist() == [-1.0]
    assert e.estimate(tally([[9, 1]], identical=first)).delta.tolist() == [math.log(3) / 2]
    assert e.estimate(tally([[0, 0]])).stderr.tolist() == [np.inf]
    assert e.estimate(tally([[0, 0]], identical=[[True, True]])).stderr.tolist() == [0.0]
    assert e.estimate(tally([[1]])).stderr[0] > 0.8


def test_leading_axes_are_repetitions():
    rng = np.random.default_rng(0)
    plus, minus, tie = rng.integers(0, 4, size=(3, 5, 2, 6)).astype(float)
    identical = rng.random((5, 2, 6)) < 0.2
    whole = e.estimate(Tally(plus, minus, tie, identical))
    for i in np.ndindex(5, 2):
        one = e.estimate(Tally(plus[i], minus[i], tie[i], identical[i]))
        assert whole.delta[i] == one.delta
        assert whole.stderr[i] == pytest.approx(one.stderr, rel=1e-12)


SPREADS = [(smoothing, votes) for smoothing in ("haldane", "trim") for votes in (1, 3, 10)]


def test_standard_error_is_the_spread_of_the_estimate():
    for noise in [0.0, 1.0]:
        for smoothing, votes in SPREADS:
            with case(smoothing, noise, votes):
                rng = np.random.default_rng(votes)
                x = 0.6 + noise * rng.normal(size=(4000, 8))
                plus = rng.binomial(votes, LOGISTIC.prob(x)).astype(float)
                found = e.estimate(tally(plus, votes - plus), e.inversion(smoothing))
                ratio = np.sqrt((found.stderr**2).mean()) / found.delta.std()
                assert 0.9 < ratio < 1.3


def test_null_spread_is_exact():
    assert e.null_rms(1) == math.log(3)
    # M = 2: ±log 5 with probability ¼ each, 0 with ½.
    assert e.null_rms(2) == math.sqrt(0.25 * math.log(5) ** 2 + 0.25 * math.log(5) ** 2)
    assert e.null_rms(2000) == pytest.approx(2 / math.sqrt(2000), rel=2e-3)


KEY = seeds.derive(3, "test")


def pair_counts(plus: int, minus: int, tie: int = 0) -> tuple[Floats, Floats]:
    """One comparison with difference 1, voted on so often."""
    y = np.repeat([1.0, 0.0, 0.5], [plus, minus, tie])
    return np.ones((len(y), 1)), y


def seeds_rng(seed: int) -> np.random.Generator:
    key = int.from_bytes(seeds.derive(seed, "test rng"), "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw_votes(seed: int, w: Floats, n: int) -> tuple[Floats, Floats]:
    """Votes (n,) on random differences by a voter with these weights."""
    rng = seeds_rng(seed)
    x = rng.normal(size=(n, len(w)))
    return x, (rng.random(n) < 1 / (1 + np.exp(-x @ w))).astype(float)


def test_ties_shift_the_log_odds_by_halves_or_as_davidson_has_it():
    # 6 + 2 halves against 2 + 2 halves
    assert bt.newton(*pair_counts(6, 2, 4), ridge=1e-9).weights[0] == pytest.approx(log(8 / 4))
    # At x = 1 throughout three free frequencies are fitted by two numbers and one constraint:
    # P ∝ (e^{w/2}, e^{−w/2}, ν) gives w = log(6/2) and ν = 4/√(6·2).
    fit = bt.newton(*pair_counts(6, 2, 4), ridge=1e-9, ties="davidson")
    assert fit.weights[0] == pytest.approx(log(3))
    assert np.exp(fit.weights[1]) == pytest.approx(4 / 12**0.5)
    x, y = draw_votes(1, np.array([1.0, -2.0]), 200)
    who, asked = ["ann"] * 200, [str(i) for i in range(200)]
    one, other = (
        bt.fit_taste(FeatureVotes(x, y, who, asked), seed=0, ties=t) for t in ("half", "davidson")
    )
    assert other.nu is None and other.weights.tolist() == one.weights.tolist()
    with pytest.raises(RunError, match="Davidson's model needs a tie"):
        bt.newton(x, y, ties="davidson")


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_derivatives_are_those_of_the_likelihood(ties):
    x, y = draw_votes(2, np.array([1.0, -2.0]), 40)
    y[::4] = 0.5
    fit = bt.newton(x, y, ties=ties)

    def loss(w):
        u = x @ w[:2]
        nu = np.exp(w[2]) if ties == "davidson" else 0.0
        z = np.exp(u / 2) + np.exp(-u / 2) + nu
        if ties == "half":
            chance = y * (u / 2) + (1 - y) * (-u / 2) - np.log(z)
        else:
            chance = np.where(y == 0.5, np.log(nu), (y - 0.5) * u) - np.log(z)
        return float(-chance.sum() + bt.RIDGE / 2 * (w[:2] ** 2).sum())

    size, h = len(fit.weights), 1e-4
    step = np.eye(size) * h
    for i in range(size):
        for j in range(size):
            w = fit.weights
            ends = [a * b * loss(w + a * step[i] + b * step[j]) for a in (1, -1) for b in (1, -1)]
            assert sum(ends) / (4 * h * h) == pytest.approx(fit.information[i, j], abs=2e-3)


@given(st.integers(0, 10_000), st.lists(st.booleans(), min_size=30, max_size=30))
def test_which_side_is_plus_means_nothing(seed, swapped):
    x, y = draw_votes(seed, np.array([1.0, -0.5]), 30)
    sign = np.where(swapped, -1.0, 1.0)
    other = bt.newton(x * sign[:, None], 0.5 + sign * (y - 0.5))
    assert other.weights == pytest.approx(bt.newton(x, y).weights, abs=1e-8)


def test_units_change_nothing_but_the_deviation():
    x, y = draw_votes(4, np.array([1.0, -0.5]), 120)
    who, asked = ["ann"] * 120, [str(i) for i in range(120)]
    one = bt.fit_taste(FeatureVotes(x, y, who, asked), seed=5)
    other = bt.fit_taste(FeatureVotes(x * [1000.0, 1.0], y, who, asked), seed=5)
    assert other.weights == pytest.approx(one.weights) and other.held_out == one.held_out
    assert other.scale == pytest.approx(one.scale * [1000, 1])
    utility = x @ (one.weights / one.scale)
    assert (x * [1000.0, 1.0]) @ (other.weights / other.scale) == pytest.approx(utility)


def test_repetitions_at_once_are_repetitions_one_by_one():
    worlds = [draw_votes(seed, np.array([1.0, 2.0]), 50) for seed in range(3)]
    x, y = (np.stack(part) for part in zip(*worlds, strict=True))
    who = np.arange(50) % 5
    fit = bt.newton(x, y)
    together, _ = bt.halves(x, y, who, fit)
    for i, (one_x, one_y) in enumerate(worlds):
        alone = bt.newton(one_x, one_y)
        assert fit.weights[i] == pytest.approx(alone.weights)
        assert together[i] == pytest.approx(bt.halves(one_x, one_y, who, alone)[0])


def test_the_jackknife_is_that_of_leaving_panelists_out():
    x, y = draw_votes(6, np.array([1.0, -0.5]), 400)
    who = np.arange(400) % 8
    fit = bt.newton(x, y)
    others = np.array([bt.newton(x[who != g], y[who != g]).weights for g in range(8)])
    around = others - fit.weights
    exact = 7 / 8 * around.T @ around
    assert bt.over_panelists(x, y, who, fit) == pytest.approx(exact, rel=0.1, abs=1e-4)


def test_weights_are_recovered_and_their_intervals_cover():
    """Weights of norm 2 from 200 pairs whose answers are standard, fifty repetitions."""
    rng = seeds_rng(4)
    w = rng.normal(size=(50, 4))
    w *= 2 / np.linalg.norm(w, axis=-1, keepdims=True)
    x = np.sqrt(2) * rng.normal(size=(50, 200, 4))
    y = (rng.random((50, 200)) < 1 / (1 + np.exp(-(x @ w[..., None])[..., 0]))).astype(float)
    fit = bt.newton(x, y)
    half, _ = bt.halves(x, y, np.zeros(200, dtype=np.int64), fit)
    cosine = (fit.weights * w).sum(-1) / (2 * np.linalg.norm(fit.weights, axis=-1))
    assert cosine.mean() > 0.95
    assert 0.90 <= (np.abs(fit.weights - w) <= half).mean() <= 0.98


def test_intervals_over_panelists_hold_where_tastes_scatter():
    """Eight panelists around weights of 0: their panel's weights are 0 by symmetry."""
    rng, who = seeds_rng(5), who_of(400, 8)
    own = 0.7 * rng.normal(size=(100, 8, 4))
    x = rng.normal(size=(100, 400, 4))
    y = (rng.random((100, 400)) < 1 / (1 + np.exp(-(x * own[:, who]).sum(-1)))).astype(float)
    fit = bt.newton(x, y)
    half, _ = bt.halves(x, y, who, fit)
    alone = 1.96 * np.sqrt(np.diagonal(np.linalg.inv(fit.information), axis1=-2, axis2=-1))
    assert 0.90 <= (np.abs(fit.weights) <= half).mean() <= 0.99
    assert (np.abs(fit.weights) <= alone).mean() < 0.85  # Laplace's would promise and not keep


def test_separable():
    x, y = draw_votes(7, np.array([1.0, -0.5]), 60)
    sure = (x @ [1.0, -0.5] > 0).astype(float)
    assert bt.separable(x, sure) and not bt.separable(x, y)
    assert not bt.separable(x, np.where(np.arange(60) == 9, 1 - sure, sure))
    assert not bt.separable(x, np.full(60, 0.5))
    # A tie between different batches pins w to a plane: on it the others can still be split.
    assert bt.separable(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.5, 1.0]))
    assert not bt.separable(np.array([[1.0], [2.0]]), np.array([0.5, 1.0]))


def who_of(n: int, groups: int) -> Ints:
    return np.arange(n) % groups


def test_shuffles_tell_two_tastes_from_one():
    likes = np.array([1.5, 0.0])
    x, y = draw_votes(8, likes, 200)
    who = who_of(200, 10)
    assert bt.heterogeneity_p(x, y, who, bt.newton(x, y), KEY) > 0.05
    opposed = np.where(who < 5, y, 1 - y)
    fit = bt.newton(x, opposed)
    assert bt.heterogeneity_p(x, opposed, who, fit, KEY) == 0.001  # none of 999 shuffles
    first, again = (bt.heterogeneity_p(x, opposed, who, fit, KEY) for _ in range(2))
    assert first == again
    assert np.isnan(bt.heterogeneity_p(x, y, np.zeros(200, dtype=np.int64), fit, KEY))


@pytest.mark.full
def test_shuffles_are_right_as_often_as_they_say():
    """Under one taste p-values are even: 60 worlds, below .25 in 15 ± 3.4 of them."""
    low = 0
    for seed in range(60):
        x, y = draw_votes(100 + seed, np.array([1.0, -1.0, 0.0]), 90)
        fitted = bt.newton(x, y)
        low += bt.heterogeneity_p(x, y, who_of(90, 9), fitted, seeds.derive(seed, "t")) < 0.25
    assert 5 <= low <= 25


def test_a_panelist_with_few_votes_is_near_the_panel():
    x, y = draw_votes(9, np.array([2.0, 0.0]), 203)
    who = ["ann"] * 100 + ["ben"] * 100 + ["cho"] * 3
    y[100:200] = 1 - y[100:200]
    votes = FeatureVotes(x, y, who, [str(i) for i in range(203)])
    panel = bt.fit_taste(votes, seed=1)
    own = bt.fit_panelists(votes, panel)
    low, high = ({who: each[end][0] for who, each in own.items()} for end in (2, 3))
    assert low["ann"] > 0 > high["ben"]
    assert own["cho"][0] == 3 and abs(own["cho"][1][0] - panel.weights[0]) < 1
    assert high["cho"] - low["cho"] > high["ann"] - low["ann"]


def test_nothing_differs():
    with pytest.raises(RunError, match="no feature differs"):
        bt.fit_taste(FeatureVotes(np.zeros((2, 1)), np.ones(2), ["a", "b"], ["1", "2"]), seed=0)


def test_predicting_what_was_left_out_is_no_better_than_chance_on_noise():
    """Votes by a coin: in-sample fits beat it, left-out ones may not."""
    x, y = draw_votes(10, np.zeros(8), 120)
    found = bt.held_out(bt.foretell(x, y, np.arange(120), KEY), y)
    inside = np.mean(((x @ bt.newton(x, y).weights) > 0) == (y > 0.5))
    assert found.unsure() and inside > found.high
