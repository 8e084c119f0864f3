"""The regression of all votes: right mode and evidence, honest doubt, no order of votes."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from szpo.errors import UsageError
from szpo.optim import bradley_terry, vote_regression
from szpo.optim.vote_regression import Prior, Votes, direction, fit, mixture_moments

RADIUS = 1.8


def votes_of(seed, w, count, lead=()):
    """One vote per direction at ± RADIUS, from voters with gradient w."""
    rng, w = np.random.default_rng(seed), np.asarray(w)
    dim = len(w)
    normal = rng.normal(size=(*lead, -(-count // dim), dim, dim))
    x = 2 * RADIUS * np.linalg.qr(normal)[0].reshape(*lead, -1, dim)[..., :count, :]
    up = (rng.random((*lead, count)) < special.expit(x @ w)) * 1.0
    side = np.where(np.arange(count) % 2 == 0, 1.0, -1.0) * np.ones((*lead, 1))
    return Votes(x, up, 1 - up, side)


def one_width(dim, width):
    """The variance of the logit of a comparison along one coordinate, at length |x|, is width."""
    return Prior(np.ones((1, dim)), widths=(dim * width,))


def falling(dim):
    """Leading coordinates are expected to matter more."""
    return Prior(1 / (1 + np.arange(dim)[None] / 8))


def test_one_vote_in_one_dimension():
    """A vote for plus at x = 2 under w ~ N(0, τ²) with τ²x² = 1, so τ = ½.

    The mode solves w/τ² = x·σ(−xw); with u = xw that is u = σ(−u): u = .401058. The curvature of
    the log posterior in u is 1 + σ(u)σ(−u) = 1.240211, which gives the variance τ²/1.240211 and
    the Laplace evidence σ(u)·exp(−u²/2)/√1.240211.
    """
    votes = Votes(np.array([[2.0]]), np.ones(1), np.zeros(1))
    found = fit(votes, one_width(1, 1.0))
    u = 0.4010581375
    curvature = 1 + u * (1 - u)
    assert found.w[0] == pytest.approx(u / 2, abs=1e-9)
    assert found.covariance[0, 0] == pytest.approx(0.25 / curvature, abs=1e-9)
    evidence = math.log((1 - u) * math.exp(-u * u / 2) / math.sqrt(curvature))
    assert found.log_factor == pytest.approx(evidence + math.log(2), abs=1e-9)
    # By symmetry one vote says nothing about whether there is a signal: the exact factor is 1.
    assert found.log_factor == pytest.approx(0.0, abs=0.01)
    density = stats.norm(0, 0.5).pdf
    mean = integrate.quad(lambda w: 2 * w * special.expit(2 * w) * density(w), -9, 9)
    assert found.w[0] == pytest.approx(mean[0], abs=0.01)


@pytest.mark.parametrize("width", [0.05, 0.8, 3.2])
@pytest.mark.parametrize("dim", [1, 2])
def test_mean_spread_and_evidence_agree_with_quadrature(dim, width):
    """24 votes against sums over a fine grid of w: errors of a tenth of a standard deviation."""
    votes = dataclasses.replace(votes_of(3, [0.3] * dim, 24), plus_on_a=None)
    found = fit(votes, one_width(dim, width))
    tau = math.sqrt(width) / (2 * RADIUS)
    axis = np.linspace(-6 * tau, 6 * tau, 301)
    grid = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    sign = 2 * votes.up - 1
    log = special.log_expit(sign * (grid @ votes.x.T)).sum(-1)
    log += stats.norm.logpdf(grid, 0, tau).sum(-1) + dim * math.log(axis[1] - axis[0])
    mass = np.exp(log - special.logsumexp(log))
    mean = mass @ grid
    spread = np.sqrt(mass @ (grid - mean) ** 2)
    assert np.abs(found.w - mean).max() < 0.1 * spread.max()
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), spread, rtol=0.1)
    exact = special.logsumexp(log) + 24 * math.log(2)
    assert found.log_factor == pytest.approx(exact, abs=0.06 * dim)


def test_halved_steps_converge_where_whole_ones_diverge():
    """Five votes each way at x = 1 under a weak prior, from a start where plus seems certain.

    Far out the likelihood is straight and only the prior λ bends: a whole Newton step from u goes
    to −5/λ · sign(u), and from there back, for ever. The answer is 0 by symmetry.
    """
    five, precision = np.full(1, 5.0), np.full((1, 1), 1e-6)
    u = 9.0
    for _ in range(50):
        rate = special.expit(u)
        u += (5 - 10 * rate - 1e-6 * u) / (10 * rate * (1 - rate) + 1e-6)
    assert abs(u) > 1e6
    flat = bradley_terry.Rows(np.ones((1, 1)), five, 2 * five)
    rate, none = special.expit(9.0), np.zeros(())
    bend = np.full((1, 1), 10 * rate * (1 - rate))
    start = bradley_terry.Approximation(np.array([9.0]), bend, np.zeros(1), precision, none, none)
    found = bradley_terry.approximate(flat, np.zeros(1), precision, start)
    assert found.coef[0] == pytest.approx(0.0, abs=1e-10)
    assert found.information[0, 0] == pytest.approx(2.5)


@given(seed=st.integers(0, 1000), count=st.integers(1, 30))
def test_order_of_rows_cannot_matter(seed, count):
    votes = votes_of(seed, [0.4, 0, 0], count)
    order = np.random.default_rng(seed).permutation(count)
    other = Votes(votes.x[order], votes.up[order], votes.down[order], votes.plus_on_a[order])
    one, two = fit(votes, Prior.flat(3)), fit(other, Prior.flat(3))
    assert one.w.tobytes() == two.w.tobytes()
    assert one.log_factor.tobytes() == two.log_factor.tobytes()


@given(seed=st.integers(0, 1000))
def test_which_policy_is_plus_cannot_matter(seed):
    """x, side and votes all turned round: the same evidence."""
    votes = votes_of(seed, [0.4, 0, 0], 20)
    turned = Votes(-votes.x, votes.down, votes.up, -votes.plus_on_a)
    one, two = fit(votes, falling(3)), fit(turned, falling(3))
    np.testing.assert_allclose(one.w, two.w, atol=1e-9)
    np.testing.assert_allclose(one.log_factor, two.log_factor, atol=1e-9)
    against = fit(Votes(votes.x, votes.down, votes.up, -votes.plus_on_a), falling(3))
    np.testing.assert_allclose(one.w, -against.w, atol=1e-9)


@given(seed=st.integers(0, 1000))
def test_a_flat_prior_knows_no_axes(seed):
    votes = votes_of(seed, [0.4, 0, 0, 0], 24)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    one = fit(votes, Prior.flat(4))
    two = fit(dataclasses.replace(votes, x=votes.x @ turn), Prior.flat(4))
    np.testing.assert_allclose(one.w @ turn, two.w, atol=1e-9)
    np.testing.assert_allclose(one.signal, two.signal, atol=1e-9)


def test_leading_axes_are_single_fits():
    votes = votes_of(5, [0.5, 0, 0, 0], 20, lead=(2, 3))
    whole = fit(votes, falling(4))
    for index in np.ndindex(2, 3):
        single = Votes(votes.x[index], votes.up[index], votes.down[index], votes.plus_on_a[index])
        one = fit(single, falling(4))
        for name in ("w", "covariance", "signal", "log_factor", "side_coefficient", "weights"):
            np.testing.assert_allclose(getattr(whole, name)[index], getattr(one, name), atol=1e-9)
        np.testing.assert_allclose(direction(whole)[index], direction(one), atol=1e-9)


def test_equal_rows_are_one_and_empty_rows_are_none():
    """Ten votes on one row, ten rows of a vote, and rows that nobody voted on: one posterior."""
    x = np.array([[1.0, 2.0], [2.0, -1.0]])
    together = Votes(x, np.array([7.0, 2.5]), np.array([3.0, 2.5]))
    up = np.array([1.0] * 7 + [0.0] * 3 + [0.5] * 5 + [0.0])
    down = np.array([0.0] * 7 + [1.0] * 3 + [0.5] * 5 + [0.0])
    apart = Votes(np.vstack([np.repeat(x, [10, 5], 0), [[9.0, 9.0]]]), up, down)
    one, two = fit(together, one_width(2, 1.0)), fit(apart, one_width(2, 1.0))
    np.testing.assert_allclose(one.w, two.w, rtol=1e-12)
    np.testing.assert_allclose(one.covariance, two.covariance, rtol=1e-12)


def test_widths_are_learned_and_no_votes_leave_the_prior():
    found = fit(Votes.empty(3), Prior.flat(3))
    assert not found.w.any()
    assert not direction(found).any()
    assert found.signal == pytest.approx(Prior.flat(3).signal)
    # Strong gradients find the wide prior, weak ones the narrow.
    strong = fit(votes_of(1, [0.9] * 8, 120), Prior.flat(8))
    weak = fit(votes_of(1, [0.03] * 8, 120), Prior.flat(8))
    assert strong.weights.argmax() == 0  # the widest comes first
    assert weak.weights.argmax() == 2
    assert strong.signal > 0.999 > weak.signal
    assert np.linalg.norm(direction(strong)) > 0.9
    assert np.linalg.norm(direction(weak)) < 0.2


def test_coin_flips_move_next_to_nothing():
    """200 runs of 64 coin flips: next to none goes .2 of 4 nats, where most would by certainty."""
    found = fit(votes_of(0, np.zeros(8), 64, lead=(200,)), Prior.flat(8))
    kl = 4 * (direction(found) ** 2).sum(-1)
    assert (kl > 0.2).mean() < 0.05
    seen = np.full(200, math.log(vote_regression.BAYES_FACTOR_NEEDED))
    assert (4 * (direction(found, seen) ** 2).sum(-1) > 0.2).mean() > 0.9


def test_a_factor_once_passed_is_passed():
    found = fit(votes_of(0, np.zeros(8), 64), Prior.flat(8))
    assert found.log_factor < math.log(vote_regression.BAYES_FACTOR_NEEDED)
    closed = direction(found)
    opened = direction(found, np.log(vote_regression.BAYES_FACTOR_NEEDED))
    np.testing.assert_allclose(closed, vote_regression.UNPROVEN_SHARE * opened, rtol=1e-12)
    trace = np.trace(found.covariance)
    cosine = math.sqrt(found.w @ found.w / (found.w @ found.w + trace))
    assert np.linalg.norm(opened) == pytest.approx(math.sqrt(cosine))
    assert opened @ found.w > 0  # towards what people prefer


def test_blocks_find_where_the_taste_lies():
    """A taste in the first 8 of 16 coordinates, and one in the last 8: each by its own row."""
    prior = Prior.blocks(16)
    assert prior.variances.shape == (2, 16)
    first, last = ([0.4] * 8 + [0.0] * 8, [0.0] * 8 + [0.4] * 8)
    front, back = (fit(votes_of(3, taste, 240), prior) for taste in (first, last))
    for found, row in ((front, 0), (back, 1)):
        assert found.weights.reshape(3, 2).sum(0)[row] > 0.9
    flat = fit(votes_of(3, first, 240), Prior.flat(16))
    assert front.log_factor > flat.log_factor + 1
    assert (front.w[8:] ** 2).sum() < 0.3 * (flat.w[8:] ** 2).sum()


def test_the_bayes_factor_is_a_fair_bet():
    """Under no signal E[factor] = 1 at any time: the mean over 400 runs of 24 flips is near it."""
    factor = np.exp(fit(votes_of(9, np.zeros(2), 24, lead=(400,)), Prior.flat(2)).log_factor)
    assert factor.mean() == pytest.approx(1.0, abs=4 * factor.std() / 20 + 0.05)
    assert (factor > 20).mean() < 0.05


def test_neither_where_newton_starts_nor_what_is_not_fitted_matters(monkeypatch):
    """A width fitted after a wider one is that width fitted alone."""
    votes = votes_of(8, [0.6] * 8, 60)
    together = fit(votes, Prior.flat(8))
    widths = sorted(Prior.flat(8).widths, reverse=True)
    alone = [fit(votes, one_width(8, width / 8)) for width in widths]
    means, covariances = (np.array([getattr(f, n) for f in alone]) for n in ("w", "covariance"))
    w, covariance = mixture_moments(together.weights, means, covariances)
    np.testing.assert_allclose(together.w, w, atol=1e-9)
    np.testing.assert_allclose(together.covariance, covariance, atol=1e-9)
    votes = votes_of(7, np.linspace(-0.3, 0.3, 16), 4000)
    quick = fit(votes, Prior.blocks(16))
    monkeypatch.setattr(vote_regression, "_HOPELESS", math.inf)
    whole = fit(votes, Prior.blocks(16))
    np.testing.assert_allclose(quick.w, whole.w, atol=1e-12)
    np.testing.assert_allclose(quick.log_factor, whole.log_factor, atol=1e-9)
    assert quick.weights.min() < 1e-26


def test_wrong_input_raises_one_line():
    votes = votes_of(0, np.zeros(3), 8)
    for make, words in (
        (lambda: fit(votes, Prior.flat(4)), "4 variances, 3 axes"),
        (
            lambda: fit(dataclasses.replace(votes, down=votes.down - 2), Prior.flat(3)),
            "at least 0",
        ),
        (lambda: Prior(np.array([[1.0, 0.0]])), "must be > 0"),
        (lambda: Prior(np.ones((1, 2)), signal=1.0), "between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=words):
            make()
