"""The posterior of the gradient: right mode, honest intervals, no order of votes."""

import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from szpo.aggregation.links import LINKS
from szpo.errors import UsageError
from szpo.optim import optimizer, parameters, posterior, step_size
from szpo.optim.checked_settings import defaults
from szpo.optim.settings import Schedule
from szpo.types import Tally
from tests.support.cases import case

SIGMA = LINKS["logistic"].prob
MU, DIM, N = 0.4243, 8, 8
PRIOR = posterior.prior_precision(MU, 2, DIM)


def features(rng, lead, dim=DIM):
    v = rng.normal(size=(*lead, dim))
    return 2 * MU * v * math.sqrt(dim) / np.linalg.norm(v, axis=-1, keepdims=True)


def filled(rng, w, steps, votes, noise=0.0, *, forget=0.97, n=N):
    """A window of ``steps`` steps of simulated votes, one repetition per row of w."""
    lead, dim = w.shape[:-1], w.shape[-1]
    window = posterior.Window.empty(dim, n, lead)
    for step in range(steps):
        x = features(rng, (*lead, 1), dim)
        eta = np.einsum("...kd,...d->...k", x, w)[..., None]
        p = SIGMA(eta + noise * rng.normal(size=(*eta.shape[:-1], n)))
        plus = rng.binomial(votes, p).astype(float)
        none = np.zeros_like(plus)
        window = posterior.add(
            window, step, x, Tally(plus, votes - plus, none, none > 0), forget=forget
        )
    return window


@pytest.mark.full
def test_intervals_cover():
    """95 % intervals of xᵀw for new directions x, with w drawn from the prior.

    At M = 1 comparison noise cannot be seen: what is covered is the attenuated xᵀw.
    """
    votes_cases = [(1, 0.0), (1, 1.0), (3, 0.0), (3, 1.0), (10, 0.0), (10, 1.0)]
    for votes, noise in votes_cases:
        for steps in [3, 10, 30]:
            with case(votes, noise, steps):
                rng = np.random.default_rng(votes + steps)
                w = rng.normal(size=(120, DIM)) / math.sqrt(PRIOR)
                window = filled(rng, w, steps, votes, noise)
                fit = posterior.posterior(window, precision=PRIOR, forget=0.97)
                shrink = posterior.attenuation(noise) if votes == 1 else 1.0
                inside = []
                for _ in range(20):
                    x = features(rng, (len(w),))
                    low, high = fit.interval(x)
                    truth = shrink * (x * w).sum(-1)
                    inside.append((low <= truth) & (truth <= high))
                assert 0.90 <= np.mean(inside) <= 0.98
                if votes > 1 and steps == 30:
                    assert fit.s.mean() == pytest.approx(noise, abs=0.2)


def test_order_of_votes_and_comparisons_does_not_matter():
    rng = np.random.default_rng(0)
    plus, minus, tie = rng.integers(0, 3, size=(3, 5, 2, 6)).astype(float)
    settings = defaults(1, (("z", (4,)),), K=2, N=6, M=6)
    state, shuffled = optimizer.init(settings), optimizer.init(settings)
    for t in range(5):
        order = rng.permutation(6)
        no = np.zeros((2, 6), dtype=bool)
        one = Tally(plus[t], minus[t], tie[t], no)
        other = Tally(plus[t][:, order], minus[t][:, order], tie[t][:, order], no)
        query = optimizer.ask(state)
        state, a, _ = optimizer.tell(state, query, one)
        shuffled, b, _ = optimizer.tell(shuffled, query, other)
        assert a == b


def log_posterior(w, window, precision, s, weight):
    """Written down from the model, with the noise integrated by quadrature."""
    total = -0.5 * precision * (w @ w)
    for r in range(len(window.steps)):
        eta = window.x[r] @ w
        for a, b in zip(window.plus[r], window.minus[r], strict=True):
            if a + b == 0:
                continue
            if s == 0:
                like = SIGMA(eta) ** a * (1 - SIGMA(eta)) ** b
            else:
                like = integrate.quad(
                    lambda u, a=a, b=b, eta=eta: (
                        stats.norm.pdf(u, scale=s)
                        * SIGMA(eta + u) ** a
                        * (1 - SIGMA(eta + u)) ** b
                    ),
                    -8 * s,
                    8 * s,
                )[0]
            total += weight[r] * math.log(like)
    return total


@pytest.mark.parametrize("s", [0.0, pytest.param(1.2, marks=pytest.mark.slow)])
def test_mode_and_covariance_are_those_of_the_model(s):
    rng = np.random.default_rng(2)
    window = filled(rng, rng.normal(size=2), 4, 3, n=3)
    fit = posterior.posterior(window, precision=2.0, forget=0.8, s=s)
    weight = 0.8 ** (3 - window.steps)

    def loss(w):
        return -log_posterior(w, window, 2.0, s, weight)

    best = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-7})
    assert fit.w == pytest.approx(best.x, abs=2e-5)
    h = 1e-3
    hessian = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            e, f = h * np.eye(2)[i], h * np.eye(2)[j]
            ends = [(a * b, loss(fit.w + a * e + b * f)) for a in (1, -1) for b in (1, -1)]
            corners = sum(sign * value for sign, value in ends)
            hessian[i, j] = corners / (4 * h * h)
    assert np.linalg.inv(fit.covariance) == pytest.approx(hessian, rel=1e-3, abs=1e-3)


def test_repetitions_are_fitted_together_as_one_by_one():
    rng = np.random.default_rng(5)
    w = rng.normal(size=(4, 3))
    window = filled(rng, w, 6, 4, 1.0, n=5)
    fit = posterior.posterior(window, precision=1.0, forget=0.97)
    for i in range(4):
        alone = posterior.Window(
            window.steps, window.x[i], window.plus[i], window.minus[i], window.ties[i]
        )
        one = posterior.posterior(alone, precision=1.0, forget=0.97)
        assert one.w == pytest.approx(fit.w[i], abs=1e-9)
        assert one.covariance == pytest.approx(fit.covariance[i], abs=1e-9)
        assert one.s == pytest.approx(fit.s[i], abs=1e-9)


def test_no_votes_give_the_prior():
    empty = posterior.Window.empty(3, 2)
    fit = posterior.posterior(empty, precision=4.0, mean=[1.0, 0.0, -1.0], forget=0.97)
    assert fit.w.tolist() == [1.0, 0.0, -1.0]
    assert fit.covariance == pytest.approx(np.eye(3) / 4)


def test_a_prior_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"prior of \(2, 2\) and \(3,\) for 3 coordinates"):
        posterior.posterior(posterior.Window.empty(3, 2), precision=np.eye(2), forget=0.97)


def test_prior_variance_makes_a_vote_of_unit_variance():
    # τ² E|x|² = 1 with |x| = 2μ√d.
    x = features(np.random.default_rng(0), (5,))
    assert (x**2).sum(-1) / PRIOR == pytest.approx(1.0)


def test_identical_comparisons_do_not_enter():
    x, one = np.ones((1, 2)), np.ones((1, 3))
    identical = np.array([[False, True, True]])
    empty = posterior.Window.empty(2, 3)
    window = posterior.add(empty, 0, x, Tally(one, 0 * one, 0 * one, identical), forget=0.97)
    alone = posterior.add(
        empty,
        0,
        x,
        Tally(np.array([[1.0, 0, 0]]), 0 * one, 0 * one, identical & False),
        forget=0.97,
    )
    assert posterior.posterior(window, precision=1.0, forget=0.97).w.tolist() == (
        posterior.posterior(alone, precision=1.0, forget=0.97).w.tolist()
    )


def test_a_tie_is_half_a_vote_for_either_side():
    x, two = np.ones((1, 1)), np.full((1, 1), 2.0)
    window = posterior.add(
        posterior.Window.empty(1, 1), 0, x, Tally(0 * two, 0 * two, two, two < 0), forget=0.97
    )
    assert (window.plus.item(), window.minus.item(), window.ties.item()) == (1.0, 1.0, 2.0)
    assert posterior.posterior(window, precision=1.0, forget=0.97).w.tolist() == [0.0]


def test_old_votes_weigh_less_and_leave():
    x, one = np.ones((1, 1)), np.ones((1, 1))
    window = posterior.Window.empty(1, 1)
    for step in range(300):
        window = posterior.add(window, step, x, Tally(one, 0 * one, 0 * one, one < 0), forget=0.97)
    # .97^226 = .00102 stays, .97^227 = .00099 leaves.
    assert window.steps.tolist() == list(range(73, 300))
    single = posterior.add(
        posterior.Window.empty(1, 1), 0, x, Tally(one, 0 * one, 0 * one, one < 0), forget=0.5
    )
    fresh = posterior.posterior(single, precision=1.0, forget=0.5)
    old = posterior.posterior(single, precision=1.0, forget=0.5, step=3)
    assert 0 < old.w.item() < fresh.w.item()
    assert old.covariance.item() > fresh.covariance.item()
    # Weight λ³ = 1/8 is an eighth of a vote.
    eighth = posterior.Window(single.steps, x, one / 8, 0 * one, 0 * one)
    assert posterior.posterior(eighth, precision=1.0, forget=0.97).w == pytest.approx(
        old.w, abs=1e-12
    )


@pytest.mark.full
@pytest.mark.parametrize("true", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("votes", [2, 10])
def test_noise_of_comparisons_is_found(true, votes):
    rng = np.random.default_rng(7)
    w = rng.normal(size=(60, 4)) / math.sqrt(posterior.prior_precision(MU, 2, 4))
    window = filled(rng, w, 60, votes, true, forget=1.0)
    fit = posterior.posterior(window, precision=1.0, forget=1.0)
    # s is cut at 0, so where there is no noise only what two votes cannot exclude remains.
    assert np.sqrt((fit.s**2).mean()) == pytest.approx(true, abs=0.2 if true else 0.35)


def test_noise_is_not_made_up_from_ties():
    # Ties at random, no comparison noise: y = 0 is no agreement of a vote with itself.
    rng = np.random.default_rng(1)
    votes = rng.multinomial(4, [1 / 3] * 3, size=(4000, 4)).astype(float)
    window = posterior.Window.empty(1, 4)
    window = posterior.add(
        window,
        0,
        np.ones((4000, 1)),
        Tally(*np.moveaxis(votes, -1, 0), votes[..., 0] < 0),
        forget=1.0,
    )
    assert posterior.posterior(window, precision=1.0, forget=0.97).s < 0.25


def test_noise_cannot_be_seen_at_one_vote():
    rng = np.random.default_rng(0)
    window = filled(rng, rng.normal(size=3), 10, 1, 2.0)
    assert posterior.posterior(window, precision=1.0, forget=0.97).s == 0.0


def test_attenuation_is_that_of_a_logistic_averaged_over_noise():
    s, x = 1.3, 0.2
    mean = integrate.quad(lambda u: stats.norm.pdf(u, scale=s) * SIGMA(x + u), -12, 12)[0]
    shrunk = math.log(mean / (1 - mean)) / x
    assert float(posterior.attenuation(s)) == pytest.approx(shrunk, rel=0.04)


def test_step_is_short_when_uncertain_and_full_when_sure():
    w = np.array([3.0, 4.0])
    sure = posterior.Posterior(w, np.zeros((2, 2)), np.array(0.0))
    assert posterior.step_vector(sure, 0.5) == pytest.approx(0.5 * w / 5)
    unsure = posterior.Posterior(w, np.diag([60.0, 15.0]), np.array(0.0))
    assert posterior.step_vector(unsure, 0.5) == pytest.approx(0.5 * w / 10)


@pytest.mark.parametrize(("pairing", "distance"), [("antithetic", 2), ("forward", 1)])
def test_a_first_step_by_hand(pairing, distance):
    """One vote: w = λx with λ solving λ/τ² = 1 − σ(λ|x|²), a step along the direction."""
    settings = defaults(4, (("z", (8,)),), N=1, pairing=pairing)
    state = optimizer.init(settings)
    query = optimizer.ask(state)
    one = np.ones((1, 1))
    state, updates, info = optimizer.tell(state, query, Tally(one, 0 * one, 0 * one, one < 0))
    mu = 1.8 / math.sqrt(8)
    x = step_size.base_mu(settings) * distance * _unit(settings, 0)
    square = (distance * mu) ** 2 * 8  # = 1/τ² = |x|²
    lam = optimize.brentq(lambda a: a * square - 1 + SIGMA(a * square), 0, 1)
    bend = SIGMA(lam * square) * (1 - SIGMA(lam * square))
    trace = 7 / square + 1 / (square + bend * square)
    w = lam * x
    expected = math.sqrt(2 * 0.03) * w / math.sqrt(w @ w + trace)
    assert updates[0].k == 0
    # The radius is rounded to 13 bits, so to about 1e-4.
    assert updates[0].vector == pytest.approx(expected, rel=5e-4)
    assert info.extra["gradient"] == pytest.approx(np.linalg.norm(w), rel=5e-4)


def test_the_step_never_exceeds_kl_step():
    settings = defaults(4, (("z", (4,)),), N=8, M=10, scale=0.5)
    state, plus = optimizer.init(settings), np.full((1, 8), 10.0)
    for _ in range(30):
        query = optimizer.ask(state)
        state, updates, _ = optimizer.tell(state, query, Tally(plus, 0 * plus, 0 * plus, plus < 0))
        assert np.linalg.norm(updates[0].vector) < 0.5 * math.sqrt(2 * 0.03)
    assert np.linalg.norm(updates[0].vector) > 0.3 * math.sqrt(2 * 0.03)


def test_a_schedule_shapes_the_step():
    layout = (("z", (4,)),)
    plain = defaults(4, layout, N=1)
    fading = defaults(4, layout, N=1, alpha=Schedule("inverse", None, 1.0))
    a, b = optimizer.init(plain), optimizer.init(fading)
    one = np.ones((1, 1))
    votes = Tally(one, 0 * one, 0 * one, one < 0)
    for t in range(3):
        a, left, _ = optimizer.tell(a, optimizer.ask(a), votes)
        b, right, _ = optimizer.tell(b, optimizer.ask(b), votes)
        assert np.array(right[0].vector) * (1 + t) == pytest.approx(left[0].vector, rel=1e-6)


def test_a_warm_start_is_a_prior_on_the_gradient():
    goal = (1.0, 0.0, 0.0, 0.0)
    settings = defaults(4, (("z", (4,)),), N=1, prior_mean=goal)
    state, none = optimizer.init(settings), np.zeros((1, 1))
    votes = Tally(none, none, none, none < 0)
    _, updates, _ = optimizer.tell(state, optimizer.ask(state), votes)
    assert updates[0].vector[0] > 0
    assert updates[0].vector[1:] == (0.0, 0.0, 0.0)
    sharp = np.diag([1e6] * 4).tolist()
    settings = defaults(
        4, (("z", (4,)),), N=1, prior_mean=goal, prior_precision=tuple(map(tuple, sharp))
    )
    state = optimizer.init(settings)
    _, updates, _ = optimizer.tell(state, optimizer.ask(state), votes)
    assert updates[0].vector[0] == pytest.approx(math.sqrt(2 * 0.03), rel=1e-5)


def _unit(settings, step):
    return parameters.factor(settings.space, step, 0) * parameters.direction_vector(
        settings.space, step, 0
    )
