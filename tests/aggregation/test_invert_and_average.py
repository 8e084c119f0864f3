"""Votes to value differences: the bias is known exactly, the standard errors are honest."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.optimizer import make_settings
from szpo.errors import UsageError
from szpo.optim import known_and_sign
from szpo.optim import links as e
from szpo.optim.links import LINKS, link
from szpo.types import Tally
from tests.support.cases import case
from tests.support.tallies import tally, told

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


def test_all_votes_for_one_side_are_told_as_h_by_every_link():
    """k/M is trimmed to [σ(−H), σ(H)] of the run's own link, as published."""
    for name in ["logistic", "probit", "cauchit", "cloglog"]:
        with case(name):
            settings = make_settings(
                1, (("z", (4,)),), rule="known", pairing="forward", link=name, K=2, N=2, M=3
            )
            _, _, info = told(settings, tally([[3, 3], [0, 0]], [[0, 0], [3, 3]]))
            assert info.delta == pytest.approx((e.TRIM, -e.TRIM), rel=1e-6)


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


def test_many_votes_are_summed_up_by_the_delta_method():
    """Of k votes of M for plus, the logit at p has the standard deviation 1/√(M p (1 − p))."""
    for smoothing in ("haldane", "trim"):
        mean, sd = e.moments([0.5, 0.7], 2**12, e.inversion(smoothing))
        assert mean == pytest.approx([0.0, math.log(7 / 3)], abs=1e-3)
        assert sd == pytest.approx([1 / 32, 1 / math.sqrt(2**12 * 0.21)], rel=2e-3)
    exact = e.moments([0.5, 0.7], 2**12 - 1, e.inversion("trim"))
    np.testing.assert_allclose(exact, (mean, sd), rtol=2e-3, atol=1e-3)
