"""The Bradley–Terry posterior, Stein particles over it, their entropy, and what to ask next."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from szpo.active import acquisition, entropy, svgd
from szpo.active.posterior import BradleyTerry, orient
from szpo.errors import UsageError
from szpo.seeds import derive
from szpo.types import Floats
from tests.support.cases import case

TRUE = math.log(2 * math.pi * math.e)
"""Entropy of N(0, I₂): 2 · ½ log 2πe = 2.838 nats."""


class Gaussian:
    """N(0, I)."""

    def __init__(self, dim: int):
        self.dim = dim

    def log_density(self, w: Floats) -> Floats:
        return np.asarray(-0.5 * (w * w).sum(1))

    def score(self, w: Floats) -> Floats:
        return -w


def normals(name: str, *shape: int) -> Floats:
    return svgd.normals(derive(7, "test active", name=name), shape)


def random_answers(count: int = 12, dim: int = 2) -> BradleyTerry:
    """Answers of somebody who likes the first feature."""
    delta = normals("answered", count, dim)
    return BradleyTerry(delta * np.sign(delta[:, :1]), np.ones(count), 2.0)


# ---- posterior ----


def test_the_likelihood_at_zero_is_a_coin():
    target = random_answers(9)
    assert target.log_likelihood(np.zeros((1, 2)))[0] == pytest.approx(-9 * math.log(2))


def test_delta_is_winner_minus_loser():
    target = BradleyTerry.of([[1.0, 0.0]], ["A"])
    mode, _ = target.laplace()
    assert mode[0] > 0 == mode[1]
    mode, _ = BradleyTerry.of([[1.0, 0.0]], ["B"]).laplace()
    assert mode[0] < 0


@given(st.integers(0, 30), st.floats(0.1, 5))
def test_the_score_is_the_gradient(count, tau):
    target = BradleyTerry(normals("s", 30, 3)[:count], np.full(count, 0.5), tau)
    w = normals("at", 4, 3)
    for axis in range(3):
        h = np.zeros(3)
        h[axis] = 1e-5
        slope = (target.log_density(w + h) - target.log_density(w - h)) / 2e-5
        assert target.score(w)[:, axis] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_sums_in_parts_are_the_sum(monkeypatch):
    target, w = random_answers(50), normals("w", 7, 2)
    whole = target.log_density(w), target.score(w)
    monkeypatch.setattr("szpo.active.posterior.BLOCK", 21)  # three answers at a time
    assert target.log_density(w) == pytest.approx(whole[0], rel=1e-12)
    assert target.score(w) == pytest.approx(whole[1], rel=1e-12)


def test_laplace_of_no_answers_is_the_prior():
    mode, covariance = BradleyTerry.prior(3, tau=2.0).laplace()
    assert mode.tolist() == [0, 0, 0]
    assert np.allclose(covariance, 4 * np.eye(3), rtol=1e-12)


def test_laplace_arrives_where_newton_overshoots():
    # Far apart and never contradicted: the log-density is flat far out, and a full step jumps.
    target = BradleyTerry(np.array([[300.0], [-1.0]]), np.array([50.0, 40.0]), 100.0)
    mode, _ = target.laplace()
    assert abs(target.score(mode[None])[0, 0]) < 1e-6


def test_skips_say_nothing():
    rows, weight = orient(np.ones((2, 3)), ["skip", "skip"])
    assert rows.shape == (0, 3) and weight.shape == (0,)


def test_wrong_input_is_refused():
    cases = [
        (lambda: BradleyTerry(np.ones((2, 2)), np.ones(3)), "shape"),
        (lambda: BradleyTerry(np.full((1, 2), np.nan), np.ones(1)), "answer 0 is not finite"),
        (lambda: BradleyTerry(np.ones((1, 2)), np.zeros(1)), "positive"),
        (lambda: BradleyTerry.prior(0), "no feature"),
        (lambda: BradleyTerry.prior(2, tau=0.0), "tau is 0.0"),
        (lambda: orient(np.ones((1, 2)), ["C"]), "'C' is unknown"),
        (lambda: orient(np.ones((1, 2)), []), "0 of them for 1"),
        (lambda: svgd.Sampler(np.zeros(2), np.ones(2)).draw(1, bytes(16)), "at least 2"),
        (lambda: svgd.train(Gaussian(2), key=bytes(16), steps=0), "at least 1"),
        (lambda: entropy.nearest(np.zeros((3, 2))), "at least"),
        (lambda: entropy.gaussian(np.full((3, 2), np.inf)), "not finite"),
        (lambda: acquisition.gains(np.ones((3, 2)), np.ones((3, 1))), "do not fit"),
        (lambda: acquisition.gains(np.ones((3, 2)), np.ones((3, 2)), "luck"), "bald or entropy"),
        (
            lambda: acquisition.select(
                np.ones((3, 2)), acquisition.Candidates(np.ones((3, 2))), 0, key=bytes(16)
            ),
            "at least",
        ),
    ]
    for make, message in cases:
        with case(make, message), pytest.raises(UsageError, match=message):
            make()  # type: ignore[operator]


# ---- entropy ----


def test_entropy_of_normal_numbers():
    """Nearest neighbours and Gaussian: means of 20 draws within ±.05, each within ±.15."""
    draws = normals("entropy", 20, 2000, 2)
    for estimate in (entropy.nearest, entropy.gaussian):
        found = np.array([estimate(x) for x in draws])
        assert abs(found.mean() - TRUE) < 0.05
        assert np.abs(found - TRUE).max() < 0.15


def test_entropy_moves_with_scale():
    x = normals("scale", 300, 3)
    for estimate in (entropy.nearest, entropy.gaussian):
        assert estimate(5 * x) - estimate(x) == pytest.approx(3 * math.log(5))


def test_entropy_of_a_plane_is_minus_infinity():
    x = np.zeros((50, 2))
    x[:, 0] = np.arange(50)
    assert entropy.gaussian(x) == -math.inf
    assert entropy.nearest(np.ones((50, 2))) == -math.inf


# ---- particles ----


def test_the_trained_sampler_finds_a_gaussian():
    """The ELBO of a Gaussian target is largest at the target itself."""
    target = svgd.Whitened(Gaussian(2), np.array([1.0, -1.0]), np.diag([0.5, 2.0]))
    sampler = svgd.train(target, key=derive(0, "t"), steps=400)
    # In z the target is N(−R⁻¹c, (RᵀR)⁻¹): mean (−2, ½), sd (2, ½).
    assert sampler.mean == pytest.approx([-2, 0.5], abs=0.03)
    assert sampler.sd == pytest.approx([2, 0.5], rel=0.03)


def test_stein_steps_bring_particles_to_the_target():
    start = svgd.Sampler(np.array([4.0, 4.0]), np.full(2, 0.3)).draw(100, derive(0, "far"))
    end = svgd.run(Gaussian(2), start, steps=300, epsilon=1.0)[-1]
    assert np.abs(end.x.mean(0)).max() < 0.1
    assert np.cov(end.x.T) == pytest.approx(np.eye(2), abs=0.2)
    before = svgd.convergence(Gaussian(2), start.x)
    after = svgd.convergence(Gaussian(2), end.x)
    assert after.discrepancy < 0.1 < 2 < before.discrepancy
    assert after.moved < 0.02 < before.moved
    assert after.moment < 0.2 < before.moment


def test_the_stein_discrepancy_is_the_norm_of_phi():
    """KSD² = (1/m²) Σ u(xᵢ, xⱼ), here by two loops with h from `bandwidth`."""
    x = normals("ksd", 6, 2)
    h, total = svgd.bandwidth(x), 0.0
    for a, b in itertools.product(x, x):
        k, apart = math.exp(-((a - b) @ (a - b)) / (2 * h)), a - b
        total += k * (a @ b + apart @ (-a + b) / h + 2 / h - apart @ apart / h**2)
    found = svgd.convergence(Gaussian(2), x).discrepancy
    assert found == pytest.approx(math.sqrt(total / 36), rel=1e-9)


def test_the_trace_is_the_divergence_of_phi():
    """Divergence at xᵢ of φ made by the other particles, by differences."""
    x = normals("trace", 5, 3)
    h = svgd.bandwidth(x)

    def phi(at: Floats, others: Floats) -> Floats:
        k = np.exp(-((at - others) ** 2).sum(1) / (2 * h))[:, None]
        return np.asarray((k * -others + k * (at - others) / h).sum(0) / 5)

    before = svgd.Particles(x, np.zeros(5))
    after = svgd.step(Gaussian(3), before, 0.1)
    for i in range(5):
        others, divergence = np.delete(x, i, 0), 0.0
        for axis in range(3):
            e = np.eye(3)[axis] * 1e-5
            up, down = phi(x[i] + e, others), phi(x[i] - e, others)
            divergence += (up - down)[axis] / 2e-5
        assert after.log_q[i] == pytest.approx(-0.1 * divergence, rel=1e-6)


def test_particles_over_a_posterior_match_it():
    """Mean and covariance against quadrature on a grid."""
    target = random_answers()
    axis = np.linspace(-10, 10, 201)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    share = special.softmax(target.log_density(grid))
    mean = share @ grid
    covariance = (grid - mean).T @ ((grid - mean) * share[:, None])
    found = svgd.spread(target, key=derive(1, "p"), count=200, steps=100, every=50)
    assert [p.steps for p in found] == [0, 50, 100]
    x = found[-1].x
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((x.mean(0) - mean) / sd).max() < 0.15
    assert np.cov(x.T) / np.outer(sd, sd) == pytest.approx(covariance / np.outer(sd, sd), abs=0.25)
    again = svgd.spread(target, key=derive(1, "p"), count=200, steps=100)[-1]
    assert (again.x == x).all()


def test_steps_in_blocks_are_the_step(monkeypatch):
    start = svgd.Sampler(np.zeros(2), np.ones(2)).draw(30, bytes(16))
    whole = svgd.step(Gaussian(2), start, 0.5)
    monkeypatch.setattr(svgd, "BLOCK", 100)
    parts = svgd.step(Gaussian(2), start, 0.5)
    assert np.allclose(parts.x, whole.x, rtol=1e-12)
    assert np.allclose(parts.log_q, whole.log_q, rtol=1e-9)


# ---- selection ----


def test_bald_by_hand():
    # p = σ(0), σ(log 3) = ½, ¾; H(5/8) − (H(½) + H(¾))/2
    x = np.array([[0.0], [math.log(3)]])

    def h(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert acquisition.bald(x, np.ones((1, 1)))[0] == pytest.approx(
        h(5 / 8) - (h(0.5) + h(0.75)) / 2
    )


def test_entropy_gain_of_two_particles_by_hand():
    # s = ±1 with p = σ(±1) = .731, .269: either answer has probability ½ and leaves the variance
    # 1 − (.731 − .269)² of s: the gain is −½ log(1 − .4621²).
    x = np.array([[1.0], [-1.0]])
    tilt = math.tanh(0.5)
    found = acquisition.entropy_gain(x, np.ones((1, 1)))[0]
    assert found == pytest.approx(-0.5 * math.log(1 - tilt**2))


@pytest.mark.parametrize("rule", acquisition.RULES)
def test_gains_do_not_depend_on_the_sides(rule):
    x, delta = normals("x", 50, 3), normals("d", 20, 3)
    assert acquisition.gains(x, delta, rule) == pytest.approx(acquisition.gains(x, -delta, rule))


def test_a_batch_adds_up_to_the_joint_information():
    """The sum of gains is I(answers; w), by enumeration of all 2⁴ answers."""
    x, delta = normals("x", 30, 2), 2 * normals("d", 12, 2)
    batch = acquisition.select(x, acquisition.Candidates(delta), 4, key=bytes(16))
    p = special.expit(delta[batch.index] @ x.T)
    joint, own = 0.0, 0.0
    for answers in itertools.product((0, 1), repeat=4):
        each = np.prod([q if a else 1 - q for a, q in zip(answers, p, strict=True)], axis=0)
        joint += special.entr(each.mean())
        own += special.entr(each).mean()
    assert batch.gain.sum() == pytest.approx(joint - own, rel=1e-9)
    assert batch.certain


def test_a_batch_does_not_ask_the_same_twice():
    """Two copies of the best question and a lesser one on another weight: the copy comes last."""
    delta = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    x = normals("x", 500, 2)
    assert acquisition.select(
        x, acquisition.Candidates(delta), 3, key=bytes(16)
    ).index.tolist() == [0, 2, 1]


def test_the_shortlist_loses_nothing_when_it_says_so():
    x, delta = normals("x", 60, 2), normals("d", 400, 2)
    whole = acquisition.select(x, acquisition.Candidates(delta), 3, key=bytes(16))
    short = acquisition.select(x, acquisition.Candidates(delta), 3, key=bytes(16), shortlist=200)
    assert short.certain and (short.index == whole.index).all()
    assert not acquisition.select(
        x, acquisition.Candidates(delta, beyond=1.0), 3, key=bytes(16)
    ).certain


@pytest.mark.parametrize("rule", acquisition.RULES)
def test_little_to_choose_from(rule):
    x = normals("x", 20, 2)
    none = acquisition.select(
        x, acquisition.Candidates(np.zeros((0, 2))), 3, key=bytes(16), rule=rule
    )
    assert len(none.index) == 0
    one = acquisition.select(
        x, acquisition.Candidates(np.ones((1, 2))), 3, key=bytes(16), rule=rule
    )
    assert one.index.tolist() == [0]
    constant = acquisition.select(
        x, acquisition.Candidates(np.zeros((5, 2))), 3, key=bytes(16), rule=rule
    )
    assert len(constant.index) == 0
    some = acquisition.Candidates(normals("d", 3, 2), allowed=np.array([False, True, False]))
    left = acquisition.select(x, some, 3, key=bytes(16), rule=rule)
    assert left.index.tolist() == [1]
