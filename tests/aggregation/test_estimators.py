"""Votes to value differences: the bias is known exactly, the standard errors are honest."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.aggregation import estimators as e
from szpo.aggregation.links import LINKS, link
from szpo.errors import UsageError
from szpo.types import Tally
from tests.support.cases import case

LOGISTIC = LINKS["logistic"]
COLUMNS = ("clip", "haldane", "laplace", "second", "posterior", "score")

# Bias and root mean square error of Δ̂ at difference x under Bradley–Terry, by exact summation
# over the binomial, as published with the derivation of the estimators: rows (M, x).
BIAS_TABLE = {
    (1, 0.5): ((-0.500, 0.50), (-0.231, 1.09), (-0.330, 0.75), (-0.500, 0.50), (-0.399, 0.57), (-0.010, 1.94)),  # noqa: E501
    (3, 1.0): ((-0.214, 0.88), (-0.138, 0.99), (-0.375, 0.80), (-0.579, 0.74), (-0.575, 0.74), (-0.076, 1.03)),  # noqa: E501
    (5, 1.0): ((0.034, 0.89), (-0.042, 0.91), (-0.243, 0.73), (-0.302, 0.65), (-0.439, 0.66), (-0.076, 0.80)),  # noqa: E501
    (10, 1.0): ((0.123, 0.80), (0.001, 0.73), (-0.120, 0.61), (-0.069, 0.60), (-0.266, 0.54), (-0.076, 0.57)),  # noqa: E501
    (20, 2.0): ((0.168, 0.75), (-0.006, 0.70), (-0.195, 0.59), (-0.118, 0.53), (-0.472, 0.60), (-0.477, 0.56)),  # noqa: E501
    (50, 2.0): ((0.086, 0.51), (0.002, 0.45), (-0.074, 0.42), (-0.006, 0.44), (-0.221, 0.39), (-0.477, 0.51)),  # noqa: E501
    (100, 2.0): ((0.039, 0.33), (0.000, 0.31), (-0.037, 0.30), (-0.001, 0.31), (-0.115, 0.29), (-0.477, 0.49)),  # noqa: E501
}  # fmt: skip


def counts(*rows):
    return np.array(rows, dtype=float)


def no(array):
    return np.zeros(array.shape, dtype=bool)


def test_bias_table():
    for row in BIAS_TABLE:
        for column in range(6):
            with case(row, column):
                votes, x = row
                bias, rmse = BIAS_TABLE[row][column]
                mean, sd = e.moments(LOGISTIC.prob(x), votes, e.inversion(COLUMNS[column]))
                assert round(float(mean) - x, 3) == pytest.approx(bias, abs=1e-9)
                assert round(math.hypot(float(mean) - x, float(sd)), 2) == pytest.approx(
                    rmse, abs=1e-9
                )


@pytest.mark.parametrize(
    ("votes", "p", "clip", "clip_sd", "mean", "sd"),
    [
        (5, 0.7, 0.8954, 0.917, 0.8211, 0.908),
        (10, 0.6, 0.4582, 0.737, 0.4073, 0.655),
        (10, 0.7, 0.9552, 0.779, 0.8497, 0.705),
        (20, 0.7, 0.9045, 0.540, 0.8486, 0.496),
        (20, 0.9, 2.3657, 0.738, 2.1794, 0.729),
        (50, 0.5, 0.0, 0.289, 0.0, 0.283),
    ],
)
def test_exact_expectations(votes, p, clip, clip_sd, mean, sd):
    found = e.moments(p, votes, e.inversion("clip"))
    assert found == pytest.approx((clip, clip_sd), abs=6e-4)
    assert e.moments(p, votes) == pytest.approx((mean, sd), abs=6e-4)


@pytest.mark.parametrize(
    ("votes", "gain"), [(1, 0.549), (2, 0.805), (3, 0.921), (5, 0.995), (10, 1.005)]
)
def test_slope_of_haldane_at_zero(votes, gain):
    h = 1e-4
    up, down = (float(e.moments(LOGISTIC.prob(x), votes)[0]) for x in (h, -h))
    assert (up - down) / (2 * h) == pytest.approx(gain, abs=5e-4)


@pytest.mark.parametrize(("votes", "gain"), [(1, 8.0), (2, 8.0), (3, 6.3), (5, 3.3), (10, 1.26)])
def test_slope_of_the_published_trim_at_zero(votes, gain):
    h, trim = 1e-4, e.inversion("trim", trim=16.0)
    up, down = (float(e.moments(LOGISTIC.prob(x), votes, trim)[0]) for x in (h, -h))
    assert (up - down) / (2 * h) == pytest.approx(gain, abs=0.06)


def test_clip_says_nothing_at_one_vote():
    assert e.inversion("clip")(counts(0, 1), counts(1, 1)).tolist() == [0.0, 0.0]
    assert e.null_rms(1, e.inversion("clip")) == 0.0


def test_trim_at_one_vote_is_a_rescaled_sign():
    found = e.inversion("trim", trim=4.0)(counts(0, 1), counts(1, 1))
    assert found == pytest.approx([-4.0, 4.0])


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
    for smoothing in ["haldane", "clip", "laplace", "score", "trim"]:
        for name in ["probit", "cauchit", "cloglog", "linear:3"]:
            with case(name, smoothing):
                k, m = counts(0, 1, 2, 3), counts(3, 3, 3, 3)
                found = e.inversion(smoothing, link(name))(k, m)
                assert np.isfinite(found).all()
                assert found == pytest.approx(-found[::-1], abs=1e-12)
                assert all(a <= b for a, b in pairwise(found))


def test_no_votes_give_zero_whatever_the_estimator():
    for name in (*COLUMNS, "trim", "pooled"):
        assert e.inversion(name)(counts(0), counts(0)).tolist() == [0.0]


def test_unknown_estimator_is_refused():
    with pytest.raises(UsageError, match="'mean' is unknown"):
        e.inversion("mean")


def test_davidson_without_ties_is_haldane():
    w, l = counts(0, 1, 2, 7), counts(3, 1, 0, 2)
    assert e.davidson(w, l, 0 * w, 0.0) == pytest.approx(e.haldane(w, w + l), abs=1e-14)


@given(st.floats(-3, 3), st.floats(0, 3))
def test_davidson_inverts_its_own_model(x, nu):
    # With very many votes the closed form finds the x that made their shares.
    parts = np.array([np.exp(x / 2), np.exp(-x / 2), nu])
    plus, minus, tie = 1e9 * parts / parts.sum()
    assert float(e.davidson(plus, minus, tie, nu)) == pytest.approx(x, abs=1e-6)


def test_nu_comes_from_the_share_of_ties():
    # P(tie) = ν/(2 + ν) between equals: a share of ⅓ is ν = 1.
    assert e.tie_nu(1e9, 3e9) == pytest.approx(1.0, abs=1e-8)
    assert e.tie_nu(0, 0) > 0


def test_estimates_are_averaged_after_inversion():
    plus, minus = counts([3, 0]), counts([0, 1])
    found = e.estimate(Tally(plus, minus, 0 * plus, no(plus)))
    assert found.delta[0] == (math.log(7) - math.log(3)) / 2
    pooled = e.estimate(Tally(plus, minus, 0 * plus, no(plus)), pool=True)
    assert pooled.delta[0] == pytest.approx(math.log(3.5 / 1.5))


def test_identical_counts_as_zero_and_unanswered_not_at_all():
    plus = counts([1, 0, 1])
    minus = counts([0, 0, 0])
    identical = np.array([[False, True, False]])
    found = e.estimate(Tally(plus, minus, 0 * plus, identical))
    assert found.delta[0] == 2 * math.log(3) / 3
    assert found.counted.tolist() == [3]
    unanswered = e.estimate(Tally(plus, minus, 0 * plus, no(plus)))
    assert unanswered.delta[0] == math.log(3)
    assert unanswered.counted.tolist() == [2]
    assert e.majority(Tally(plus, minus, 0 * (plus), identical)).tolist() == [1.0]
    pooled = e.estimate(Tally(plus, minus, 0 * plus, identical), pool=True)
    assert pooled.delta[0] == pytest.approx(2 / 3 * math.log(5))


def test_votes_on_identical_comparisons_are_not_read():
    plus, identical = counts([9, 1]), np.array([[True, False]])
    assert e.majority(Tally(0 * plus, plus, 0 * (0 * plus), identical)).tolist() == [-1.0]
    assert e.estimate(Tally(plus, 0 * plus, 0 * plus, identical)).delta.tolist() == [
        math.log(3) / 2
    ]


def test_nothing_counted_has_infinite_error_and_all_identical_none():
    none = counts([0, 0])
    assert e.estimate(Tally(none, none, none, no(none))).stderr.tolist() == [np.inf]
    assert e.estimate(Tally(none, none, none, ~no(none))).stderr.tolist() == [0.0]


def test_ties_are_half_a_vote_each():
    plus, tie = counts([1, 2]), counts([2, 0])
    minus = counts([0, 1])
    found = e.estimate(Tally(plus, minus, tie, no(plus)))
    assert found.delta[0] == (math.log(2.5 / 1.5) + math.log(2.5 / 1.5)) / 2


def test_leading_axes_are_repetitions():
    rng = np.random.default_rng(0)
    plus, minus, tie = rng.integers(0, 4, size=(3, 5, 2, 6)).astype(float)
    identical = rng.random((5, 2, 6)) < 0.2
    for pool in (False, True):
        whole = e.estimate(Tally(plus, minus, tie, identical), pool=pool)
        for i in np.ndindex(5, 2):
            one = e.estimate(Tally(plus[i], minus[i], tie[i], identical[i]), pool=pool)
            assert whole.delta[i] == one.delta
            assert whole.stderr[i] == pytest.approx(one.stderr, rel=1e-12)


SPREADS = [
    (smoothing, votes)
    for smoothing in ("haldane", "clip", "laplace", "score", "trim", "pooled")
    for votes in (1, 3, 10)
    if (smoothing, votes) != ("clip", 1)  # is 0 whatever the vote: no spread to compare with
]


def test_standard_error_is_the_spread_of_the_estimate():
    for noise in [0.0, 1.0]:
        for smoothing, votes in SPREADS:
            with case(smoothing, noise, votes):
                rng = np.random.default_rng(votes)
                x = 0.6 + noise * rng.normal(size=(4000, 8))
                plus = rng.binomial(votes, LOGISTIC.prob(x)).astype(float)
                invert, pool = e.inversion(smoothing), smoothing == "pooled"
                found = e.estimate(
                    Tally(plus, votes - plus, 0 * plus, no(plus)), invert, pool=pool
                )
                ratio = np.sqrt((found.stderr**2).mean()) / found.delta.std()
                assert 0.9 < ratio < 1.3


def test_one_unanimous_comparison_still_has_an_error():
    found = e.estimate(Tally(counts([1]), counts([0]), counts([0]), np.array([[False]])))
    assert found.stderr[0] > 0.8


def test_null_spread_is_exact():
    assert e.null_rms(1) == math.log(3)
    # M = 2: ±log 5 with probability ¼ each, 0 with ½.
    assert e.null_rms(2) == math.sqrt(0.25 * math.log(5) ** 2 + 0.25 * math.log(5) ** 2)
    assert e.null_rms(2000) == pytest.approx(2 / math.sqrt(2000), rel=2e-3)


@pytest.mark.parametrize("votes", [1, 3, 10])
def test_votes_have_their_exact_expectation(votes):
    x = 0.8
    rng = np.random.default_rng(votes)
    plus = rng.binomial(votes, LOGISTIC.prob(x), size=(200_000, 1)).astype(float)
    found = e.estimate(Tally(plus, votes - plus, 0 * plus, no(plus)))
    mean, sd = e.moments(LOGISTIC.prob(x), votes)
    assert abs(found.delta.mean() - mean) < 3 * sd / math.sqrt(len(plus))
    assert found.delta.std() == pytest.approx(float(sd), rel=0.01)
