"""What more votes would buy, whether the taste turned, and what older preferences are worth."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import special, stats

from szpo.errors import UsageError
from szpo.optim import vote_forecast, vote_regression
from szpo.optim.vote_forecast import RunPosition, drift, gain, outlook, win_rates
from szpo.optim.vote_regression import Prior, Votes, direction, fit, warm_start
from tests.support.frames import RADIUS, votes_of


def both(votes, prior):
    """Fits without and with a curvature, of which votes around the start say nothing."""
    bent = dataclasses.replace(votes, curvature_term=0 * votes.up)
    return fit(votes, prior), fit(bent, prior)


W = np.array([0.8, 0.0, 0.0, 0.3])


def test_the_gain_of_a_point_is_that_of_a_mixture_of_gaussians():
    """Two Gaussians and the chance of no signal, for z = (1): quantiles by hand.

    Weights .6·.5, .4·.5 and .5 at 0; means 1 and 3, variances 1 and 4. The mean is .5·(.6 + 1.2).
    """
    found = dataclasses.replace(
        fit(Votes.empty(1), Prior(np.ones((1, 1)), widths=(1.0, 4.0))),
        weights=np.array([0.6, 0.4]), modes=np.array([[1.0], [3.0]]),
        covariances=np.array([[[1.0]], [[4.0]]]), signal=np.array(0.5),
    )  # fmt: skip
    at = gain(found, np.ones(1))
    assert at.value == pytest.approx(0.9)

    def below(value):
        normals = 0.3 * stats.norm.cdf(value, 1, 1) + 0.2 * stats.norm.cdf(value, 3, 2)
        return normals + (0.5 if value >= 0 else 0.0)

    assert below(float(at.low)) == pytest.approx(0.025, abs=1e-9)
    assert below(float(at.high)) == pytest.approx(0.975, abs=1e-9)
    # Half of the mass lies at 0, above .061 of the Gaussians': the middle tenth is that point.
    middle = gain(found, np.ones(1), 0.1)
    assert -1e-9 < middle.low <= 0 <= middle.high < 1e-9


def test_an_interval_of_a_win_rate_allows_for_votes_without_a_look():
    rate = vote_forecast.Interval(np.array(3.0), np.array(2.0), np.array(4.0)).rate()
    assert rate.value == pytest.approx(special.expit(3.0))
    assert rate.low == pytest.approx(0.95 * special.expit(2.0) + 0.025)
    assert rate.high == pytest.approx(special.expit(4.15))
    other = vote_forecast.Interval(np.array(-3.0), np.array(-4.0), np.array(-2.0)).rate()
    np.testing.assert_allclose([other.low, other.high], [1 - rate.high, 1 - rate.low])


def test_an_outlook_for_no_more_votes_is_today():
    votes = votes_of(0, W, 80)
    fits = both(votes, Prior.flat(4))
    point = 2.3 * direction(fits[0])
    standing = RunPosition(0 * point, point, float(fits[0].log_factor))
    now, today = outlook(fits, standing, 0, 2.3), gain(fits[1], point)
    assert now.kl.low == now.kl.high == pytest.approx(point @ point / 2)
    assert now.gain.value == pytest.approx(today.value, abs=0.1)
    assert now.gain.low == pytest.approx(today.low, abs=0.3)
    assert now.gain.high == pytest.approx(today.high, abs=0.3)


def test_more_votes_buy_more():
    """Expected gain and certainty rise with votes, and the interval of the KL holds what came."""
    votes = votes_of(1, W, 40)
    fits = both(votes, Prior.flat(4))
    point = 2.3 * direction(fits[0])
    standing = RunPosition(np.zeros(4), point, float(fits[0].log_factor))
    seen = [outlook(fits, standing, more, 2.3) for more in (0, 20, 40, 80, 1000)]
    means = [float(each.gain.value) for each in seen]
    assert means == sorted(means)
    assert seen[0].evidence <= seen[1].evidence <= seen[3].evidence
    assert float(seen[-1].kl.high) <= 2.3**2 / 2 + 1e-9
    assert seen == [outlook(fits, standing, more, 2.3) for more in (0, 20, 40, 80, 1000)]


def test_outlooks_hold_what_comes():
    """60 runs of tastes from the prior: 80 votes now, 160 later; 95 % intervals of the gain."""
    rng, prior, inside = np.random.default_rng(4), Prior(np.ones((1, 4)), widths=(16.0,)), []
    for run in range(60):
        w = rng.normal(size=4) * math.sqrt(16.0 / (2 * RADIUS) ** 2 / 4)
        late = votes_of(run, w, 160)
        early = vote_forecast._rows(late, late.steps < 10)
        fits = both(early, prior)
        point = 2.3 * direction(fits[0])
        found = outlook(fits, RunPosition(0 * point, point, float(fits[0].log_factor)), 80, 2.3)
        later = fit(late, prior)
        factor = np.maximum(later.log_factor, fits[0].log_factor)
        inside.append(found.gain.low <= w @ (2.3 * direction(later, factor)) <= found.gain.high)
    assert 0.85 <= np.mean(inside) <= 1.0


def test_win_rates_are_those_of_the_posterior():
    """For certain w they are σ(xᵀw); for none they are one half."""
    votes = votes_of(2, W, 4000)
    found = fit(votes, Prior.flat(4))
    here = dataclasses.replace(votes_of(3, W, 8), plus_on_a=np.zeros(8))
    np.testing.assert_allclose(win_rates(found, here), special.expit(here.x @ W), atol=0.05)
    nothing = fit(Votes.empty(4), Prior.flat(4))
    np.testing.assert_allclose(win_rates(nothing, dataclasses.replace(here, plus_on_a=None)), 0.5)


@pytest.mark.full
def test_a_taste_that_turns_is_seen_and_a_steady_one_is_not():
    steady = votes_of(5, W, 160, lead=(60,))
    turned = votes_of(6, W, 160, lead=(60,), turn=80)
    assert (drift(steady, Prior.flat(4)) > vote_forecast.DRIFT_NATS).mean() <= 0.05
    assert (drift(turned, Prior.flat(4)) > vote_forecast.DRIFT_NATS).mean() >= 0.5


def test_drift_of_one_step_by_hand():
    """Two steps, the second predicted from the first, where nothing can be forgotten: 0.

    With three, the first step weighs ``forget`` in the prediction of the third.
    """
    votes = votes_of(7, W, 16)
    assert drift(votes, Prior.flat(4), last=8) == pytest.approx(0.0, abs=1e-12)
    votes = votes_of(7, W, 24)
    past = vote_forecast._rows(votes, votes.steps < 2)
    here = vote_forecast._rows(votes, votes.steps == 2)
    score = []
    for weight in (0.5, 1.0):
        fading = past.scale(np.where(past.steps == 0, weight, 1.0))
        rate = win_rates(fit(fading, Prior.flat(4)), here)
        score.append(np.log(np.where(here.up > 0, rate, 1 - rate)).sum())
    found = drift(votes, Prior.flat(4), forget=0.5, last=8)
    assert found == pytest.approx(score[0] - score[1], abs=1e-12)


def pairs(seed, w, count):
    """Features of preferred minus other texts, of people with taste w."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, len(w))) * math.sqrt(2)
    sign = np.where(rng.random(count) < special.expit(x @ w), 1.0, -1.0)
    return sign[:, None] * x


def test_pairs_of_a_like_taste_save_votes_and_of_another_are_overruled():
    w = np.array([0.8, 0, 0, 0, 0, 0, 0, 0])
    limit = np.full(8, 3.5)
    like, other = (warm_start(pairs(1, s * w, 300), limit, Prior.flat(8)) for s in (1, -1))

    def cosine(prior, count):
        found = fit(votes_of(8, w, count, lead=(40,)), prior)
        return float((found.w[:, 0] / np.linalg.norm(found.w, axis=1)).mean())

    assert cosine(like, 8) > cosine(Prior.flat(8), 8) + 0.2
    assert cosine(other, 120) > cosine(Prior.flat(8), 120) - 0.1
    assert fit(Votes.empty(8), like).w[0] > 0


def test_a_warm_start_weighs_at_most_twenty_votes_on_average():
    """Mean precision that pairs add over the levels, in units of a vote's x xᵀ/4."""
    prior = warm_start(pairs(1, W, 4000), np.full(4, 3.5), Prior.flat(4))
    votes = dataclasses.replace(votes_of(8, W, 8), plus_on_a=None)
    flat_precision = fit(votes, Prior.flat(4)).precisions
    warm = fit(votes, prior).precisions.reshape(3, 4, 4, 4)
    added = np.trace(warm - flat_precision[:, None], axis1=-2, axis2=-1)
    worth = added / ((2 * RADIUS) ** 2 / 4)
    np.testing.assert_allclose(worth, np.tile([0, 5, 20, 80], (3, 1)), atol=1e-6)
    chances = np.array([chance for _, chance in vote_regression._LEVELS])
    assert chances.sum() == pytest.approx(1)
    assert worth[0] @ chances <= vote_regression.WORTH


def test_a_far_pair_weighs_no_more_than_the_limit():
    limit = np.full(2, 3.0)
    near, far = (
        warm_start(np.array([[3.0, 0.5], [size, 0.0]]), limit, Prior.flat(2))
        for size in (3.0, 1e6)
    )
    np.testing.assert_allclose(near.mean, far.mean)


def test_wrong_input_raises_one_line():
    with pytest.raises(UsageError, match="pairs of"):
        warm_start(np.zeros((0, 2)), np.ones(2), Prior.flat(2))
    with pytest.raises(UsageError, match="must be > 0"):
        warm_start(np.ones((1, 2)), np.zeros(2), Prior.flat(2))
    with pytest.raises(UsageError, match="mean and precision must fit 2"):
        dataclasses.replace(Prior.flat(2), mean=np.ones(3), precision=np.eye(3))
    fits = both(votes_of(0, W, 8), Prior.flat(4))
    with pytest.raises(UsageError, match="needs votes"):
        outlook((fits[0], fits[0]), RunPosition(np.zeros(4), np.zeros(4), 0.0), 20, 2.0)


def test_fewer_votes_than_coefficients_have_an_outlook():
    """Their information is singular: rounding may leave an eigenvalue below 0."""
    w = np.array([0.8, 0, 0, 0, 0, 0, 0, 0])
    for seed in range(12):
        fits = both(votes_of(seed, w, 8), Prior.blocks(8))  # and a side: nine coefficients
        found = outlook(fits, RunPosition(np.zeros(8), np.zeros(8), 0.0), 20, 2.0)
        assert math.isfinite(float(found.gain.value)) and float(found.kl.high) <= 2.0 + 1e-9
