"""Settings of the optimizer: defaults, what is refused, and schedules."""

import math
from dataclasses import replace

import numpy as np
import pytest

from szpo.config.optimizer import make_settings, read_settings, record_settings
from szpo.errors import UsageError
from szpo.optim import optimizer
from szpo.optim.parameters import round13
from szpo.optim.sample_directions import Law
from szpo.optim.schedule import alpha_share, base_mu
from szpo.types import Update
from tests.support.cases import case
from tests.support.tallies import (
    SMALL,
    WIDE,
    coefficients,
    default_alpha,
    random_tally,
    tally,
    told,
)


def test_defaults_are_those_of_the_design():
    small = make_settings(1, (("z", (8,)),))
    o = small.section
    assert (o.rule, o.pairing) == ("regression", "antithetic")
    assert (o.K, o.N, o.M, o.D) == (8, 1, 1, 1)
    assert o.kl_radius == 4.5
    assert small.horizon == math.inf
    assert base_mu(small) * math.sqrt(8) == pytest.approx(3.0)
    wide = make_settings(1, (("w", (40, 5)),))
    assert (wide.section.rule, wide.warmup, wide.law) == ("known", 5, Law())
    assert make_settings(1, (("w", (200,)),), alpha=0.1).warmup == 0
    assert make_settings(1, (("w", (200,)),), horizon=9.0).warmup == 5  # its start is measured


def test_bad_settings_say_what_is_wrong():
    cases = [
        ({"rule": "sign", "warmup": 5}, "warmup plays no part in the rule sign"),
        ({"rule": "known", "alpha": 0.1, "warmup": 5}, "set warmup = 0"),
    ]
    for changes, words in cases:
        with case(changes, words):
            with pytest.raises(UsageError, match=words) as caught:
                make_settings(1, SMALL, **changes)
            assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="one tensor of at most 256"):
        make_settings(1, (("z", (300,)),), rule="regression")


def test_recorded_settings_that_cannot_be_read_are_refused():
    body = record_settings(make_settings(1, SMALL))
    for wrong in ({**body, "speed": 1}, {**body, "features": {}}, {}):
        with pytest.raises(UsageError):
            read_settings(wrong, 1, SMALL)


@pytest.mark.parametrize("rule", ["known", "sign"])
@pytest.mark.parametrize(("K", "N", "M"), [(1, 7, 1), (3, 4, 3)])
def test_default_step_has_the_length_of_kl_step(rule, K, N, M):
    rng = np.random.default_rng(0)
    settings = make_settings(1, (("z", (16,)),), rule=rule, K=K, N=N, M=M)
    plus = rng.binomial(M, 0.5, size=(20_000, K, N)).astype(float)
    alpha, mu = default_alpha(settings), base_mu(settings)
    found = coefficients(settings, tally(plus, M - plus), mu=mu, alpha=alpha)
    length = math.sqrt((found.coef**2).sum(-1).mean() * settings.dim)
    # With N·M even the sign is now and then an exact tie, which moves nothing.
    tied = (plus.sum(-1) * 2 == N * M).mean() if rule == "sign" else 0.0
    assert length == pytest.approx(math.sqrt(2 * 0.03 * (1 - tied)), rel=0.02)


def test_warmup_spends_votes_moves_nothing_and_sets_alpha():
    rng = np.random.default_rng(3)
    settings = make_settings(1, (("w", (100,)),), rule="known", M=3, law="gaussian")
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
    mu = base_mu(settings)
    wanted = mu * math.sqrt(0.03 / 1.62) / math.sqrt(np.mean(squares))
    assert state.carried.alpha == pytest.approx(wanted * 2 * mu, rel=1e-12)
    assert updates[0].coef != 0.0


def test_a_warmup_without_a_measure_falls_back_to_vote_noise():
    settings = make_settings(1, (("w", (100,)),), N=2, warmup=1)
    state, _, _ = told(settings, tally([[1, 0]], [[0, 1]]))
    assert state.carried.alpha == default_alpha(settings)
    # Closed by a deadline: a direction without votes is no spread of 0, which would inflate α.
    settings = make_settings(1, (("w", (100,)),), N=2, K=2, warmup=2)
    state = optimizer.init(settings)
    for votes in (tally([[0, 0], [1, 1]]), tally(np.zeros((2, 2)))):
        state, _, _ = optimizer.tell(state, optimizer.ask(state), votes)
    assert state.carried.warmup_squares == (math.log(3) ** 2,)
    assert state.carried.alpha == default_alpha(settings, math.log(3))


def test_a_warmup_measures_the_first_step_size_later_where_its_last_step_is_void():
    settings = make_settings(1, (("w", (100,)),), N=1, warmup=1, horizon=1.0)
    state, _, info = told(settings, tally([[1]]), steps=2)
    assert state.carried.alpha == default_alpha(settings, math.log(3))
    assert info.extra["alpha"] == state.carried.alpha / 2
    settings = make_settings(1, (("w", (100,)),), N=2, warmup=1)
    state = replace(optimizer.init(settings), step=1)  # step 0 was given up
    state, updates, info = optimizer.tell(state, optimizer.ask(state), tally([[1, 1]]))
    assert (updates[0].coef, info.warmup) == (0.0, True)
    state, updates, info = optimizer.tell(state, optimizer.ask(state), tally([[1, 1]]))
    assert updates[0].coef != 0.0
    assert not info.warmup


def test_the_radius_and_the_step_size_fall_with_the_step():
    falling = {"mu": 0.5, "narrows": True, "alpha": 1.0, "horizon": 3.0}
    settings = make_settings(1, WIDE, rule="sign", N=1, law="gaussian", **falling)
    assert [alpha_share(settings, step) for step in (0, 3, 9, 10**9)] == [1.0, 0.5, 0.25, 0.01]
    assert alpha_share(replace(settings, horizon=math.inf), 10**9) == 1.0
    state, coefs, radii = optimizer.init(settings), [], []
    for _ in range(46):
        query = optimizer.ask(state)
        radii.append(query.mu)
        assert query.shifts[0][0].radius == float(round13(query.mu))
        state, updates, info = optimizer.tell(state, query, tally([[1.0]]))
        coefs.append(updates[0].coef)
        assert info.extra["mu"] == query.mu and info.extra["alpha"] == query.alpha
    assert [coefs[step] for step in (0, 3, 9)] == [1.0, 0.5, 0.25]
    assert (radii[0], radii[45]) == (0.5, 0.25)
    assert radii[17] == pytest.approx(0.5 * (1 + 17 / 3) ** -0.25, rel=1e-15)
