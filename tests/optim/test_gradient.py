"""What `known` estimates is the smoothed gradient, and every rule climbs by it."""

import functools
import itertools
import math

import numpy as np
import pytest

from szpo.aggregation import estimators
from szpo.aggregation.links import LINKS
from szpo.optim import optimizer, parameters
from szpo.optim.checked_settings import defaults
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.optim.settings import Settings
from tests.support.tallies import SMALL, coefficients, tally

LOGISTIC = LINKS["logistic"]


def sine(theta):
    """V = sin(a·θ) + b·θ: under N(0, I) smoothing the sine shrinks by exp(−μ²|a|²/2)."""
    return np.sin(theta @ A) + theta @ B


A, B = np.array([0.9, -0.4, 0.3]), np.array([0.2, 0.5, -0.1])


@functools.cache
def unit_directions(law, draws):
    """The first directions of a run, of unit variance, (draws, 3)."""
    space = Space(11, SMALL, law)
    made = [parameters.direction_vector(space, step, 0) for step in range(draws)]
    return np.array([parameters.factor(space, t, 0) * v for t, v in enumerate(made)])


def gradients(pairing, law, value, centre, mu, draws):
    """One ĝ per drawn direction, from true value differences, through `coefficients`."""
    settings = Settings(11, SMALL, law, "known", pairing, N=1, mu=mu, alpha=1.0, coef_cap=1e9)
    v = unit_directions(law, draws)
    low = centre - mu * v if pairing == "antithetic" else centre
    delta = value(centre + mu * v) - value(low)
    votes = tally(np.ones((draws, 1, 1)))
    found = coefficients(settings, votes, mu=mu, alpha=1.0, delta=delta[:, None])
    return found.coef * v


@pytest.mark.full
@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
def test_true_differences_give_the_smoothed_gradient(pairing):
    centre, mu = np.array([0.3, -0.2, 0.5]), 0.8
    g = gradients(pairing, Law(), sine, centre, mu, 75_000)
    exact = np.exp(-(mu**2) * (A @ A) / 2) * np.cos(centre @ A) * A + B
    error = np.linalg.norm(g.std(0)) / math.sqrt(len(g))
    assert error <= 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(g.mean(0) - exact) < 3 * error


def test_the_sphere_is_unbiased_on_a_quadratic():
    # Odd terms of a quadratic are its gradient alone, so E[v vᵀ] = I gives it exactly.
    def value(theta):
        return theta @ B - 0.5 * (theta**2) @ np.array([1.0, 0.3, 2.0])

    centre = np.array([0.3, -0.2, 0.5])
    exact = B - centre * np.array([1.0, 0.3, 2.0])
    g = gradients("antithetic", Law(normalise=True), value, centre, 0.5, 30_000)
    error = np.linalg.norm(g.std(0)) / math.sqrt(len(g))
    assert error <= 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(g.mean(0) - exact) < 3 * error


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
@pytest.mark.parametrize("votes", [1, 3, 10])
def test_votes_give_the_exact_expectation_of_the_gradient(votes, pairing):
    """Every outcome of N = 2 comparisons, weighted by its probability, through `tell`'s sums."""
    mu, settings = (
        0.8,
        defaults(
            11, SMALL, rule="known", pairing=pairing, N=2, M=votes, mu=0.8, alpha=1.0, law=Law()
        ),
    )
    distance = 2 if pairing == "antithetic" else 1
    outcomes = np.array(list(itertools.product(range(votes + 1), repeat=2)), dtype=float)
    for step in range(3):
        v = parameters.direction_vector(settings.space, step, 0)
        x = sine(mu * v) - sine(-mu * v if pairing == "antithetic" else 0 * v)
        p = 1 / (1 + math.exp(-x))
        ways = [math.comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(votes + 1)]
        weight = np.prod(np.array(ways)[outcomes.astype(int)], axis=1)
        counted = tally(outcomes[:, None], votes - outcomes[:, None])
        found = coefficients(settings, counted, mu=mu, alpha=1.0)
        logs = [math.log((k + 0.5) / (votes - k + 0.5)) for k in range(votes + 1)]
        exact = sum(w * log for w, log in zip(ways, logs, strict=True)) / (distance * mu)
        assert float(weight @ found.coef[:, 0]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("votes", [1, 3, 10])
def test_simulated_votes_agree_with_the_exact_expectation(votes):
    rng, mu, reps = np.random.default_rng(votes), 0.8, 400
    settings = defaults(11, SMALL, rule="known", M=votes, mu=mu, alpha=1.0, law=Law())
    v = np.array([parameters.direction_vector(settings.space, t, 0) for t in range(200)])
    p = LOGISTIC.prob(sine(mu * v) - sine(-mu * v))
    plus = rng.binomial(votes, p[:, None, None], size=(reps, 200, 1, 8)).astype(float)
    found = coefficients(settings, tally(plus, votes - plus), mu=mu, alpha=1.0)
    g = (found.coef * v).mean(1)  # one ĝ per repetition, averaged over the directions
    exact = (estimators.moments(p, votes)[0][:, None] / (2 * mu) * v).mean(0)
    error = np.linalg.norm(g.std(0)) / math.sqrt(reps)
    assert error <= 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(g.mean(0) - exact) < 3 * error


def climbed(rule, goal, steps, **changes):
    """Share of the way to the top of V = −½|θ − θ*|² in ten dimensions, N = 4, M = 10."""
    rng = np.random.default_rng(0)
    layout = (("z", (10,)),)
    settings = defaults(0, layout, rule=rule, N=4, M=10, kl_radius=0.72, **changes)
    state, theta = optimizer.init(settings), parameters.zeros(layout)
    for _ in range(steps):
        query = optimizer.ask(state)
        plus, minus = (
            parameters.shift(settings.space, theta, shift)["z"] for shift in query.shifts[0]
        )
        delta = 0.5 * ((minus - goal) ** 2).sum() - 0.5 * ((plus - goal) ** 2).sum()
        p = LOGISTIC.prob(delta + 0.25 * rng.normal(size=(1, 4)))
        wins = rng.binomial(10, p).astype(float)
        state, updates, _ = optimizer.tell(state, query, tally(wins, 10 - wins))
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
    return 1 - float(((theta["z"] - goal) ** 2).sum() / (goal**2).sum())


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_a_quadratic_is_climbed_by_the_counting_rules(rule):
    assert climbed(rule, np.full(10, 2 / math.sqrt(10)), 60) > 0.5
