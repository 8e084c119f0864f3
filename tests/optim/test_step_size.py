"""How far a step goes: default and measured step sizes, schedules, the steered radius."""

import math
from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.optim import optimizer, step_size
from szpo.optim.checked_settings import defaults
from szpo.optim.directions import Law
from szpo.optim.settings import Schedule
from szpo.types import Update
from tests.support.tallies import (
    SMALL,
    WIDE,
    coefficients,
    default_alpha,
    random_tally,
    tally,
    told,
)


@pytest.mark.parametrize("rule", ["known", "sign"])
@pytest.mark.parametrize(("K", "N", "M"), [(1, 7, 1), (3, 4, 3)])
def test_default_step_has_the_length_of_kl_step(rule, K, N, M):
    rng = np.random.default_rng(0)
    settings = defaults(1, (("z", (16,)),), rule=rule, K=K, N=N, M=M)
    plus = rng.binomial(M, 0.5, size=(20_000, K, N)).astype(float)
    alpha, mu = default_alpha(settings), step_size.base_mu(settings)
    found = coefficients(settings, tally(plus, M - plus), mu=mu, alpha=alpha)
    length = math.sqrt((found.coef**2).sum(-1).mean() * settings.dim)
    # With N·M even the sign is now and then an exact tie, which moves nothing.
    tied = (plus.sum(-1) * 2 == N * M).mean() if rule == "sign" else 0.0
    assert length == pytest.approx(math.sqrt(2 * 0.03 * (1 - tied)), rel=0.02)


def test_an_estimator_that_is_always_zero_is_refused():
    with pytest.raises(UsageError, match="clip with M = 1 is 0 whatever the votes"):
        optimizer.init(defaults(1, SMALL, rule="known", smoothing="clip"))


def test_warmup_spends_votes_moves_nothing_and_sets_alpha():
    rng = np.random.default_rng(3)
    settings = defaults(1, (("w", (100,)),), rule="known", M=3, law=Law())
    assert settings.warmup == 5
    state = optimizer.init(settings)
    squares = []
    for step in range(6):
        query = optimizer.ask(state)
        votes = random_tally(rng, settings)
        assert (query.alpha is None) == (step < 5)
        state, updates, info = optimizer.tell(state, query, votes)
        assert info.warmup == (step < 5)
        if step < 5:
            assert updates == (Update(step, 0, coef=0.0),)
            squares.append(info.delta[0] ** 2)
    mu = step_size.base_mu(settings)
    wanted = mu * math.sqrt(0.03 / 1.62) / math.sqrt(np.mean(squares))
    assert state.carried.alpha == pytest.approx(wanted * 2 * mu, rel=1e-12)
    assert updates[0].coef != 0.0


def test_a_warmup_of_ties_falls_back_to_vote_noise():
    settings = defaults(1, (("w", (100,)),), N=2, warmup=1)
    state, _, _ = told(settings, tally([[1, 0]], [[0, 1]]))
    assert state.carried.alpha == default_alpha(settings)


def test_what_nobody_voted_on_measures_nothing():
    # Closed by a deadline: a direction without votes is no spread of 0, which would inflate α.
    settings = defaults(1, (("w", (100,)),), N=2, K=2, warmup=2)
    state = optimizer.init(settings)
    for votes in (tally([[0, 0], [1, 1]]), tally(np.zeros((2, 2)))):
        state, _, _ = optimizer.tell(state, optimizer.ask(state), votes)
    assert state.carried.warm == (math.log(3) ** 2,)
    assert state.carried.alpha == default_alpha(settings, math.log(3))


def test_a_warmup_whose_last_step_is_void_measures_one_later():
    settings = defaults(1, (("w", (100,)),), N=2, warmup=1)
    state = replace(optimizer.init(settings), step=1)  # step 0 was given up
    state, updates, info = optimizer.tell(state, optimizer.ask(state), tally([[1, 1]]))
    assert (updates[0].coef, info.warmup) == (0.0, True)
    state, updates, info = optimizer.tell(state, optimizer.ask(state), tally([[1, 1]]))
    assert updates[0].coef != 0.0
    assert not info.warmup


def test_a_warmup_measures_the_size_of_a_schedule():
    settings = defaults(1, (("w", (100,)),), N=1, warmup=1, alpha=Schedule("inverse", None, 1.0))
    state, _, info = told(settings, tally([[1]]), steps=2)
    assert state.carried.alpha == default_alpha(settings, math.log(3))
    assert info.extra["alpha"] == state.carried.alpha / 2


def test_alpha_follows_its_schedule():
    settings = defaults(1, WIDE, rule="sign", N=1, alpha=Schedule("inverse", 1.0, 1.0), law=Law())
    _, updates, info = told(settings, tally([[1.0]]), steps=4)
    assert updates[0].coef == 0.25
    assert info.extra["alpha"] == 0.25


@pytest.mark.parametrize(
    ("wins", "radius"), [(8, 1.62 / 1.25), (6, 1.62), (4, 1.62 * 1.25)], ids=str
)
def test_steering_moves_the_radius_every_ten_steps(wins, radius):
    # 8 of 8: rate 1; 6 of 8: (36+4−8... ) → pairs agree to 1/7, rate .69; 4 of 8: rate ½.
    settings = defaults(1, SMALL, rule="sign", steering=(0.18, 2.88))
    votes = tally([[1.0] * wins + [0.0] * (8 - wins)], [[0.0] * wins + [1.0] * (8 - wins)])
    state, _, info = told(settings, votes, steps=9)
    assert state.kl_radius == 1.62
    state, _, info = told(settings, votes, steps=10)
    assert info.kl_radius == 1.62
    assert state.kl_radius == pytest.approx(radius)
    assert optimizer.ask(state).mu == pytest.approx(math.sqrt(2 * radius / 3))


def test_steering_stays_within_its_bounds():
    settings = defaults(1, SMALL, rule="sign", N=2, steering=(1.5, 1.8))
    unanimous, split = tally([[1.0, 1.0]]), tally([[1.0, 0.0]], [[0.0, 1.0]])
    assert told(settings, unanimous, steps=50)[0].kl_radius == 1.5
    assert told(settings, split, steps=50)[0].kl_radius == 1.8


def test_steering_is_not_fooled_by_chance_majorities():
    # Votes at random at M = 1: majority shares are far from ½, agreement between pairs is not.
    rng = np.random.default_rng(0)
    settings = defaults(1, SMALL, rule="sign", N=4, steering=(0.1, 100.0))
    state = optimizer.init(settings)
    for _ in range(200):
        state, _, _ = optimizer.tell(state, optimizer.ask(state), random_tally(rng, settings))
    assert state.kl_radius > 1.62 * 1.25**10
