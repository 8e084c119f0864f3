"""Ask and tell: what the votes do to θ, exactly, and what no votes may do."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import coordinates, estimators, optimizer
from szpo.coordinates import Space, round13
from szpo.directions import Law
from szpo.errors import RunError, UsageError
from szpo.links import LINKS
from szpo.optimizer import Adam, Schedule, Settings, defaults
from szpo.types import Query, Shift, Tally, Update

LOGISTIC = LINKS["logistic"]
SMALL = (("z", (3,)),)
WIDE = (("a", (5,)), ("b", (4,)))


def tally(plus, minus=None, tie=None, identical=None):
    plus = np.asarray(plus, dtype=float)
    minus = 0 * plus if minus is None else np.asarray(minus, dtype=float)
    tie = 0 * plus if tie is None else np.asarray(tie, dtype=float)
    same = np.zeros(plus.shape, bool) if identical is None else np.asarray(identical)
    return Tally(plus, minus, tie, same)


def random_tally(rng, settings, lead=()):
    shape = (*lead, settings.K, settings.N)
    plus = rng.integers(0, settings.M + 1, size=shape).astype(float)
    return tally(plus, settings.M - plus)


def told(settings, votes, steps=1):
    state = optimizer.init(settings)
    for _ in range(steps):
        query = optimizer.ask(state)
        state, updates, info = optimizer.tell(state, query, votes)
    return state, updates, info


# Settings and defaults


def test_defaults_are_those_of_the_design():
    small = defaults(1, (("z", (8,)),))
    assert (small.rule, small.pairing) == ("bayes", "antithetic")
    assert (small.K, small.N, small.M, small.D) == (1, 8, 1, 8)
    assert (small.kl_radius, small.kl_step, small.forget, small.steering) == (
        1.62,
        0.03,
        0.94,
        None,
    )
    assert optimizer.base_mu(small) * math.sqrt(8) == pytest.approx(1.8)
    wide = defaults(1, (("w", (40, 5)),))
    assert (wide.rule, wide.warmup, wide.law.normalise) == ("known", 5, False)
    assert defaults(1, (("w", (200,)),), alpha=0.1).warmup == 0
    # A schedule without a start still has its size measured; Adam's step needs no measure.
    assert defaults(1, (("w", (200,)),), alpha=Schedule("inverse")).warmup == 5
    assert defaults(1, (("w", (200,)),), adam=Adam()).warmup == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rule": "sign", "K": 3, "mu": Schedule("linear", 0.2, 50.0, 0.1), "alpha": 0.5},
        {"rule": "known", "adam": Adam(0.8), "alpha": Schedule("inverse")},
        {"rule": "bayes", "prior_mean": (0.1, 0.0, -1.0), "steering": (0.18, 2.88)},
        {"rule": "margin", "law": Law("block", 2), "ties": "davidson", "tie_nu": 0.5},
        {"rule": "bayes", "prior_precision": ((2.0, 1.0, 0.0), (1.0, 2.0, 0.0), (0.0, 0.0, 1.0))},
    ],
)
def test_settings_survive_json(changes):
    settings = defaults(2**62, SMALL, **changes)
    text = json.dumps(optimizer.settings_to_json(settings), allow_nan=False)
    assert optimizer.settings_from_json(json.loads(text)) == settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": "adam"}, "rule 'adam' is unknown"),
        ({"pairing": "central"}, "choose antithetic or forward"),
        ({"link": "weibull"}, "'weibull' is unknown"),
        ({"smoothing": "mean"}, "smoothing 'mean'"),
        ({"ties": "lost"}, "choose half or davidson"),
        ({"N": 0}, "N is 0"),
        ({"M": 1.5}, "M is 1.5"),
        ({"mu": float("nan")}, "mu is nan; it must be a positive number"),
        ({"alpha": -1.0, "rule": "known"}, "alpha is -1.0"),
        ({"kl_step": math.inf}, "kl_step is inf"),
        ({"forget": 1.5}, "forget is 1.5"),
        ({"momentum": 1.0, "rule": "sign"}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.5}, "bayes keeps past votes"),
        ({"steering": (0.5, 1.0)}, "must contain kl_radius"),
        ({"rule": "sign", "warmup": 5}, "set warmup = 0"),
        ({"alpha": 0.1}, "bayes takes its step from kl_step"),
        ({"link": "probit"}, "bayes knows the logistic link only"),
        ({"prior_mean": (0.0,)}, "prior_mean has 1 of 3"),
        ({"prior_mean": (0.0, math.nan, 0.0)}, "is not finite"),
        ({"prior_precision": ((1.0,) * 3,) * 2}, "must be 3 by 3"),
        ({"prior_precision": ((1.0, 0.0, 0.0),) * 3}, "finite and symmetric"),
        ({"prior_precision": ((1.0,) * 3,) * 3}, "positive definite"),
        ({"rule": "sign", "prior_mean": (0.0,) * 3}, "belongs to the rule bayes"),
        ({"rule": "known", "adam": Adam(), "warmup": 5}, "without Adam; set warmup = 0"),
        ({"rule": "known", "alpha": Schedule("inverse", 0.1), "warmup": 5}, "set warmup = 0"),
        ({"mu": Schedule("linear", 0.2)}, "mu must not fall to 0"),
        ({"adam": Adam()}, "Adam needs"),
        ({"law": Law("block", 4)}, "block of 4 in 3"),
        ({"rule": "known", "link": "probit", "ties": "davidson"}, "for the logistic link"),
        ({"rule": "known", "ties": "davidson", "smoothing": "clip"}, "haldane smoothing only"),
        ({"speed": 3}, "speed unknown to the optimizer"),
        ({"tie_nu": -1.0}, "tie_nu is -1.0"),
    ],
)
def test_bad_settings_say_what_is_wrong(changes, words):
    with pytest.raises(UsageError, match=words):
        defaults(1, SMALL, **changes)


def test_bayes_needs_one_small_tensor():
    with pytest.raises(UsageError, match="one tensor of at most 256"):
        defaults(1, WIDE, rule="bayes")
    with pytest.raises(UsageError, match="one tensor of at most 256"):
        defaults(1, (("z", (257,)),), rule="bayes")


def test_unreadable_settings_are_a_usage_error():
    body = optimizer.settings_to_json(defaults(1, SMALL))
    with pytest.raises(UsageError, match="cannot be read"):
        optimizer.settings_from_json({**body, "speed": 1})
    del body["layout"]
    with pytest.raises(UsageError, match="cannot be read"):
        optimizer.settings_from_json(body)


def test_schedules_have_their_shapes():
    assert [Schedule("inverse_sqrt", 2.0, 1.0).at(t) for t in (0, 3)] == [2.0, 1.0]
    assert [Schedule("inverse", 2.0, 1.0).at(t) for t in (0, 3)] == [2.0, 0.5]
    linear = Schedule("linear", None, 10.0, 0.2)
    assert [linear.at(t, 5.0) for t in (0, 5, 10, 99)] == pytest.approx([5.0, 3.0, 1.0, 1.0])
    with pytest.raises(UsageError, match="'cosine' is unknown"):
        Schedule("cosine")
    with pytest.raises(UsageError, match="horizon must be positive"):
        Schedule("inverse", 1.0, 0.0)


# What is asked


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
def test_a_query_shifts_both_ways_or_one(pairing):
    settings = defaults(5, SMALL, rule="sign", pairing=pairing, K=2, mu=0.3)
    query = optimizer.ask(optimizer.init(settings))
    for k, (plus, minus) in enumerate(query.shifts):
        factor = coordinates.factor(settings.space, 0, k)
        radius = float(round13(0.3 * factor))
        assert plus == Shift(0, k, 1, radius)
        assert minus == (
            Shift(0, k, -1, radius) if pairing == "antithetic" else Shift(0, k, 0, 0.0)
        )


def test_the_next_step_may_be_asked_ahead_and_no_other():
    state = optimizer.init(defaults(1, SMALL, mu=Schedule("inverse", 1.0, 1.0)))
    assert optimizer.ask(state).mu == 1.0
    assert (optimizer.ask(state, 1).step, optimizer.ask(state, 1).mu) == (1, 0.5)
    with pytest.raises(UsageError, match="ask: step 2 when votes are awaited for step 0"):
        optimizer.ask(state, 2)


def test_a_radius_that_vanishes_is_an_error():
    with pytest.raises(RunError, match="step 3: the perturbation radius mu is 0"):
        optimizer.query(defaults(1, SMALL), 3, 0.0)


def test_scale_turns_the_kl_radius_into_a_radius():
    settings = defaults(1, (("w", (100,)),), scale=0.01)
    assert optimizer.base_mu(settings) == pytest.approx(0.01 * math.sqrt(2 * 1.62 / 100))


# Coefficients, by hand


def one_step(rule, pairing, votes, **changes):
    settings = defaults(
        3, WIDE, rule=rule, pairing=pairing, N=votes.plus.shape[-1], mu=0.5, alpha=0.25, **changes
    )
    return told(settings, votes)


@pytest.mark.parametrize(("pairing", "distance"), [("antithetic", 2), ("forward", 1)])
def test_known_moves_by_alpha_delta_over_the_distance(pairing, distance):
    votes = tally([[1, 1, 0]], [[0, 0, 1]])
    _, updates, info = one_step("known", pairing, votes, law=Law())
    delta = (math.log(3) + math.log(3) - math.log(3)) / 3
    assert info.delta == (delta,)
    assert updates == (Update(0, 0, coef=float(round13(0.25 * delta / (distance * 0.5)))),)


def test_sign_takes_a_constant_step_and_none_on_an_exact_tie():
    _, updates, _ = one_step("sign", "antithetic", tally([[1, 1, 0]], [[0, 0, 1]]), law=Law())
    assert updates == (Update(0, 0, coef=0.25),)
    _, updates, _ = one_step("sign", "antithetic", tally([[0, 1]], [[1, 0]]), law=Law())
    assert updates == (Update(0, 0, coef=0.0),)


def test_margin_moves_by_the_mean_margin():
    votes = tally([[3, 0, 1]], [[1, 1, 0]], [[0, 0, 1]])
    _, updates, _ = one_step("margin", "antithetic", votes, law=Law())
    assert updates[0].coef == float(round13(0.25 * (0.5 - 1.0 + 0.5) / 3))
    votes = tally([[3, 0]], [[1, 0]], identical=[[False, True]])
    assert one_step("margin", "forward", votes, law=Law())[1][0].coef == 0.0625


def test_sign_and_margin_agree_at_one_vote_per_direction():
    votes = tally([[0.0]], [[1.0]])
    assert one_step("sign", "forward", votes)[1] == one_step("margin", "forward", votes)[1]


def test_directions_average():
    votes = tally([[1.0], [0.0]], [[0.0], [1.0]])
    _, updates, _ = one_step("sign", "antithetic", votes, law=Law(), K=2)
    assert updates == (Update(0, 0, coef=0.125), Update(0, 1, coef=-0.125))


@pytest.mark.parametrize("law", [Law("block", 3), Law(normalise=True)])
def test_factors_are_folded_into_the_coefficient(law):
    _, updates, _ = one_step("sign", "antithetic", tally([[1.0]]), law=law)
    factor = coordinates.factor(Space(3, WIDE, law), 0, 0)
    assert updates[0].coef == float(round13(0.25 * factor))


def test_an_estimate_from_elsewhere_replaces_the_votes():
    votes = tally([[1.0, 1.0]])
    for rule, coef in (("known", 0.25 * -2.0), ("sign", -0.25), ("margin", 0.25 * math.tanh(-1))):
        settings = defaults(3, WIDE, rule=rule, N=2, mu=0.5, alpha=0.25, law=Law())
        state = optimizer.init(settings)
        _, updates, info = optimizer.tell(state, optimizer.ask(state), votes, delta=[-2.0])
        assert updates[0].coef == float(round13(coef))
        assert info.delta == (-2.0,)
    state = optimizer.init(defaults(3, SMALL, N=2))
    with pytest.raises(UsageError, match="bayes takes votes"):
        optimizer.tell(state, optimizer.ask(state), votes, delta=[-2.0])


def test_davidson_reads_ties_by_their_share():
    votes = tally([[2.0]], [[0.0]], [[2.0]])
    _, _, info = one_step("known", "antithetic", votes, ties="davidson", M=4)
    nu = estimators.tie_nu(2, 4)
    assert info.delta[0] == float(estimators.davidson(2.0, 0.0, 2.0, nu))
    _, _, info = one_step("known", "antithetic", votes, ties="davidson", M=4, tie_nu=0.0)
    assert info.delta[0] == pytest.approx(math.log(3.5 / 1.5))


def test_too_large_a_coefficient_is_cut_and_recorded():
    votes = tally([[1.0]])
    _, updates, info = one_step("known", "antithetic", votes, law=Law(), coef_cap=0.25)
    assert (updates[0].coef, info.capped) == (0.125, True)
    _, updates, info = one_step("known", "antithetic", votes, law=Law())
    assert not info.capped


def test_the_report_counts_votes_and_wins():
    votes = tally([[2, 0, 9]], [[0, 1, 9]], [[1, 0, 0]], [[False, False, True]])
    _, _, info = one_step("known", "antithetic", votes, M=3)
    assert (info.votes, info.win_rate) == (4.0, 2.5 / 4)


# The gradient


def sine(theta):
    """V = sin(a·θ) + b·θ: under N(0, I) smoothing the sine shrinks by exp(−μ²|a|²/2)."""
    return np.sin(theta @ A) + theta @ B


A, B = np.array([0.9, -0.4, 0.3]), np.array([0.2, 0.5, -0.1])


def gradients(pairing, law, value, centre, mu, draws):
    """One ĝ per drawn direction, from true value differences, through `coefficients`."""
    settings = Settings(11, SMALL, law, "known", pairing, N=1, mu=mu, alpha=1.0, coef_cap=1e9)
    v = np.array(
        [
            coordinates.factor(settings.space, step, 0)
            * coordinates.direction_vector(settings.space, step, 0)
            for step in range(draws)
        ]
    )
    low = centre - mu * v if pairing == "antithetic" else centre
    delta = value(centre + mu * v) - value(low)
    votes = tally(np.ones((draws, 1, 1)))
    found = optimizer.coefficients(settings, votes, mu=mu, alpha=1.0, delta=delta[:, None])
    return found.coef * v


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
def test_true_differences_give_the_smoothed_gradient(pairing):
    centre, mu = np.array([0.3, -0.2, 0.5]), 0.8
    g = gradients(pairing, Law(), sine, centre, mu, 75_000)
    exact = np.exp(-(mu**2) * (A @ A) / 2) * np.cos(centre @ A) * A + B
    error = np.linalg.norm(g.std(0)) / math.sqrt(len(g))
    assert error <= 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(g.mean(0) - exact) < 3 * error


@pytest.mark.parametrize("law", [Law("block", 2), Law(normalise=True)], ids=["block", "sphere"])
def test_other_laws_are_unbiased_on_a_quadratic(law):
    # Odd terms of a quadratic are its gradient alone, so E[v vᵀ] = I gives it exactly.
    def value(theta):
        return theta @ B - 0.5 * (theta**2) @ np.array([1.0, 0.3, 2.0])

    centre = np.array([0.3, -0.2, 0.5])
    exact = B - centre * np.array([1.0, 0.3, 2.0])
    g = gradients("antithetic", law, value, centre, 0.5, 30_000)
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
        v = coordinates.direction_vector(settings.space, step, 0)
        x = sine(mu * v) - sine(-mu * v if pairing == "antithetic" else 0 * v)
        p = 1 / (1 + math.exp(-x))
        ways = [math.comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(votes + 1)]
        weight = np.prod(np.array(ways)[outcomes.astype(int)], axis=1)
        counted = tally(outcomes[:, None], votes - outcomes[:, None])
        found = optimizer.coefficients(settings, counted, mu=mu, alpha=1.0)
        logs = [math.log((k + 0.5) / (votes - k + 0.5)) for k in range(votes + 1)]
        exact = sum(w * log for w, log in zip(ways, logs, strict=True)) / (distance * mu)
        assert float(weight @ found.coef[:, 0]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("votes", [1, 3, 10])
def test_simulated_votes_agree_with_the_exact_expectation(votes):
    rng, mu, reps = np.random.default_rng(votes), 0.8, 400
    settings = defaults(11, SMALL, rule="known", M=votes, mu=mu, alpha=1.0, law=Law())
    v = np.array([coordinates.direction_vector(settings.space, t, 0) for t in range(200)])
    p = LOGISTIC.prob(sine(mu * v) - sine(-mu * v))
    plus = rng.binomial(votes, p[:, None, None], size=(reps, 200, 1, 8)).astype(float)
    found = optimizer.coefficients(settings, tally(plus, votes - plus), mu=mu, alpha=1.0)
    g = (found.coef * v).mean(1)  # one ĝ per repetition, averaged over the directions
    exact = (estimators.moments(p, votes)[0][:, None] / (2 * mu) * v).mean(0)
    error = np.linalg.norm(g.std(0)) / math.sqrt(reps)
    assert error <= 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(g.mean(0) - exact) < 3 * error


@pytest.mark.parametrize("rule", ["known", "sign", "margin"])
def test_one_repetition_of_the_arrays_is_the_ordinary_loop(rule):
    rng = np.random.default_rng(0)
    seeds = range(20)
    all_settings = [defaults(seed, WIDE, rule=rule, K=2, N=3, M=2) for seed in seeds]
    many = random_tally(rng, all_settings[0], (len(all_settings),))
    alpha = optimizer.default_alpha(all_settings[0])
    mu = optimizer.base_mu(all_settings[0])
    found = optimizer.coefficients(all_settings[0], many, mu=mu, alpha=alpha)
    for i, settings in enumerate(all_settings):
        one = Tally(many.plus[i], many.minus[i], many.tie[i], many.identical[i])
        _, updates, info = told(settings, one)
        for k, update in enumerate(updates):
            factor = coordinates.factor(settings.space, 0, k)
            assert update.coef == float(round13(found.coef[i, k] * factor))
        assert info.delta == tuple(found.delta[i])


def test_radius_and_step_size_may_differ_between_repetitions():
    settings = defaults(0, WIDE, rule="sign", N=1)
    votes = tally(np.ones((2, 1, 1)))
    found = optimizer.coefficients(settings, votes, mu=[1.0, 0.001], alpha=[0.5, 0.5])
    assert found.coef.tolist() == [[0.5], [0.01]]
    assert found.capped.tolist() == [[False], [True]]


# Step sizes


@pytest.mark.parametrize("rule", ["known", "margin", "sign"])
@pytest.mark.parametrize(("K", "N", "M"), [(1, 7, 1), (3, 4, 3)])
def test_default_step_has_the_length_of_kl_step(rule, K, N, M):
    rng = np.random.default_rng(0)
    settings = defaults(1, (("z", (16,)),), rule=rule, K=K, N=N, M=M)
    plus = rng.binomial(M, 0.5, size=(20_000, K, N)).astype(float)
    alpha, mu = optimizer.default_alpha(settings), optimizer.base_mu(settings)
    found = optimizer.coefficients(settings, tally(plus, M - plus), mu=mu, alpha=alpha)
    length = math.sqrt((found.coef**2).sum(-1).mean() * settings.dim)
    # With N·M even the sign is now and then an exact tie, which moves nothing.
    tied = (plus.sum(-1) * 2 == N * M).mean() if rule == "sign" else 0.0
    assert length == pytest.approx(math.sqrt(2 * 0.03 * (1 - tied)), rel=0.02)


def test_an_estimator_that_is_always_zero_is_refused():
    with pytest.raises(UsageError, match="clip with M = 1 is 0 whatever the votes"):
        optimizer.init(defaults(1, SMALL, rule="known", smoothing="clip"))


@pytest.mark.parametrize("rule", ["known", "margin"])
def test_warmup_spends_votes_moves_nothing_and_sets_alpha(rule):
    rng = np.random.default_rng(3)
    settings = defaults(1, (("w", (100,)),), rule=rule, M=3, law=Law())
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
            one = info.delta[0]
            if rule == "margin":
                one = ((votes.plus - votes.minus) / 3).mean()
            squares.append(one**2)
    mu = optimizer.base_mu(settings)
    wanted = mu * math.sqrt(0.03 / 1.62) / math.sqrt(np.mean(squares))
    assert state.alpha == pytest.approx(wanted * (2 * mu if rule == "known" else 1), rel=1e-12)
    assert updates[0].coef != 0.0


def test_a_warmup_of_ties_falls_back_to_vote_noise():
    settings = defaults(1, (("w", (100,)),), N=2, warmup=1)
    state, _, _ = told(settings, tally([[1, 0]], [[0, 1]]))
    assert state.alpha == optimizer.default_alpha(settings)


def test_what_nobody_voted_on_measures_nothing():
    # Closed by a deadline: a direction without votes is no spread of 0, which would inflate α.
    settings = defaults(1, (("w", (100,)),), N=2, K=2, warmup=2)
    state = optimizer.init(settings)
    for votes in (tally([[0, 0], [1, 1]]), tally(np.zeros((2, 2)))):
        state, _, _ = optimizer.tell(state, optimizer.ask(state), votes)
    assert state.warm == (math.log(3) ** 2,)
    assert state.alpha == optimizer.default_alpha(settings, math.log(3))


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
    assert state.alpha == optimizer.default_alpha(settings, math.log(3))
    assert info.extra["alpha"] == state.alpha / 2


def test_alpha_follows_its_schedule():
    settings = defaults(1, WIDE, rule="sign", N=1, alpha=Schedule("inverse", 1.0, 1.0), law=Law())
    _, updates, info = told(settings, tally([[1.0]]), steps=4)
    assert updates[0].coef == 0.25
    assert info.extra["alpha"] == 0.25


# Momentum and Adam


def test_full_space_momentum_is_a_fold_of_undecayed_rows():
    settings = defaults(
        1, WIDE, rule="sign", K=2, N=1, alpha=1.0, momentum=0.5, momentum_terms=2, law=Law()
    )
    state, rows = optimizer.init(settings), []
    for step in range(4):
        votes = tally([[1.0], [0.0]], [[0.0], [1.0]])
        state, updates, _ = optimizer.tell(state, optimizer.ask(state), votes)
        assert [u.coef for u in updates] == [0.5, -0.5]  # undecayed
        rows.extend(updates)
        added = optimizer.fold(settings, rows, step)
        expected = [
            Update(step - j, k, coef=sign * 0.5 * 0.5**j)
            for j in range(min(step, 2) + 1)
            for k, sign in ((0, 1), (1, -1))
        ]
        assert list(added) == expected
        # Later rows and the order of the record do not matter.
        assert optimizer.fold(settings, [*reversed(rows), Update(9, 0, coef=1.0)], step) == added


def test_folded_coefficients_are_rounded_again():
    settings = defaults(1, WIDE, rule="sign", momentum=0.9, momentum_terms=3)
    coef = float(round13(0.1234567))
    added = optimizer.fold(settings, [Update(0, 0, coef=coef)], 3)
    assert added == (Update(0, 0, coef=float(round13(0.9 * 0.9 * 0.9 * coef))),)
    assert optimizer.fold(settings, [Update(0, 0, coef=coef)], 4) == ()


def test_without_momentum_a_fold_is_the_step_itself():
    settings = defaults(1, WIDE, rule="sign", K=2)
    rows = [Update(1, 1, coef=1.0), Update(1, 0, coef=0.0), Update(0, 0, coef=2.0)]
    assert optimizer.fold(settings, rows, 1) == (rows[1], rows[0])


def test_small_momentum_and_fold_tell_the_same_story():
    """The vector of a small space is the untruncated fold, up to rounding."""
    rng = np.random.default_rng(0)
    layout = (("z", (6,)),)
    small = defaults(4, layout, rule="sign", N=1, alpha=0.5, momentum=0.7, law=Law())
    full = defaults(4, layout, rule="sign", N=1, alpha=0.5, law=Law())

    def v(step):
        return coordinates.direction_vector(full.space, step, 0)

    a, b, rows = optimizer.init(small), optimizer.init(full), []
    for step in range(12):
        votes = random_tally(rng, small)
        a, updates, _ = optimizer.tell(a, optimizer.ask(a), votes)
        b, plain, _ = optimizer.tell(b, optimizer.ask(b), votes)
        rows.extend(plain)
        expected = sum(0.7 ** (step - row.step) * row.coef * v(row.step) for row in rows)
        assert updates == (Update(step, 0, vector=updates[0].vector),)
        assert updates[0].vector == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_adam_by_hand():
    settings = defaults(4, SMALL, rule="known", N=1, alpha=0.1, mu=0.5, adam=Adam(), law=Law())
    state = optimizer.init(settings)
    first, second = np.zeros(3), np.zeros(3)
    for t, vote in enumerate([1.0, 0.0, 1.0], start=1):
        query = optimizer.ask(state)
        state, updates, _ = optimizer.tell(state, query, tally([[vote]], [[1 - vote]]))
        v = coordinates.direction_vector(settings.space, t - 1, 0)
        g = (2 * vote - 1) * math.log(3) / (2 * 0.5) * v
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        move = 0.1 * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        assert updates[0].vector == pytest.approx(move, rel=1e-6)


def test_adam_sees_the_size_of_a_gradient_at_a_small_radius():
    # Its input is Δ̂/2μ, far beyond coef_cap · μ, a bound for steps: unanimous votes must count
    # for more than split ones.
    settings = defaults(4, SMALL, rule="known", N=4, mu=0.01, adam=Adam(), law=Law())
    state, _, info = told(settings, tally([[1.0, 1, 1, 1]]))
    assert not info.capped
    split, _, _ = told(settings, tally([[1.0, 1, 1, 0]], [[0.0, 0, 0, 1]]))
    assert state.memory.first == pytest.approx(2 * split.memory.first, rel=1e-12)


def test_a_vector_step_is_capped_too():
    settings = defaults(4, SMALL, rule="sign", N=1, alpha=9.0, momentum=0.5, mu=0.1, coef_cap=2.0)
    _, updates, info = told(settings, tally([[1.0]]))
    assert info.capped
    assert np.linalg.norm(updates[0].vector) == pytest.approx(2.0 * 0.1 * math.sqrt(3), rel=1e-6)


# Steering


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


# Errors, and telling again


@pytest.mark.parametrize("rule", ["known", "sign", "margin", "bayes"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["plus", "minus", "tie"])
def test_non_finite_votes_name_step_and_source(rule, bad, side):
    settings = defaults(1, SMALL, rule=rule, N=2)
    state = optimizer.init(settings)
    query = optimizer.ask(state)
    good = tally([[1.0, 0.0]], [[0.0, 1.0]])
    votes = replace(good, **{side: np.array([[0.0, bad]])})
    with pytest.raises(RunError, match=f"step 0: {side} votes of direction 0, comparison 1 are"):
        optimizer.tell(state, query, votes)
    after = optimizer.tell(state, query, good)[0]  # the state is as it was
    assert after.step == 1


def test_a_non_finite_estimate_names_the_step():
    state = optimizer.init(defaults(1, SMALL, rule="known", N=1))
    with pytest.raises(RunError, match="step 0: value difference 0 is nan; nothing was applied"):
        optimizer.tell(state, optimizer.ask(state), tally([[1.0]]), delta=[math.nan])


def test_votes_that_do_not_fit_are_refused():
    state = optimizer.init(defaults(1, SMALL, N=2))
    query = optimizer.ask(state)
    with pytest.raises(UsageError, match=r"votes of shape \(1, 3\), expected \(1, 2\)"):
        optimizer.tell(state, query, tally([[1.0, 0.0, 0.0]]))
    with pytest.raises(UsageError, match="count a vote of negative weight for the other"):
        optimizer.tell(state, query, tally([[-1.0, 0.0]]))
    with pytest.raises(UsageError, match="votes of step 1, awaited are those of 0"):
        optimizer.tell(state, Query(1, query.shifts, query.mu, None), tally([[1.0, 0.0]]))
    with pytest.raises(UsageError, match="different shapes"):
        optimizer.tell(state, query, replace(tally([[1.0, 0.0]]), minus=np.zeros((1, 1))))


@pytest.mark.parametrize("rule", ["known", "sign", "margin", "bayes"])
def test_identical_comparisons_everywhere_move_nothing(rule):
    settings = defaults(1, SMALL, rule=rule, N=2)
    _, updates, info = told(settings, tally([[0.0, 0.0]], identical=[[True, True]]))
    assert not np.any(updates[0].vector if rule == "bayes" else updates[0].coef)
    assert (info.delta, info.stderr, info.win_rate, info.votes) == ((0.0,), (0.0,), 0.5, 0.0)


CASES = [
    {"rule": "known", "M": 3},
    {"rule": "known", "smoothing": "pooled", "M": 2, "pairing": "forward"},
    {"rule": "known", "warmup": 3},
    {"rule": "known", "adam": Adam(), "K": 2},
    {"rule": "sign", "momentum": 0.8},
    {"rule": "margin", "K": 3, "mu": Schedule("inverse_sqrt")},
    {"rule": "bayes", "M": 2, "steering": (0.18, 2.88)},
    {"rule": "bayes", "K": 2, "pairing": "forward"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_is_rebuilt_by_telling_again(case):
    rng = np.random.default_rng(1)
    settings = defaults(6, SMALL, **case)
    state, tallies, mus, rows = optimizer.init(settings), [], [], []
    for _ in range(12):
        query = optimizer.ask(state)
        tallies.append(random_tally(rng, settings))
        mus.append(query.mu)
        state, updates, _ = optimizer.tell(state, query, tallies[-1])
        rows.append(updates)
    stored = json.loads(json.dumps(optimizer.settings_to_json(settings)))
    again = optimizer.settings_from_json(stored)
    for rebuilt in (optimizer.retell(again, tallies), optimizer.retell(again, tallies, mus)):
        assert optimizer.state_to_json(rebuilt) == optimizer.state_to_json(state)
    json.dumps(optimizer.state_to_json(state), allow_nan=False)
    half = optimizer.retell(again, tallies[:11])
    assert optimizer.tell(half, optimizer.ask(half), tallies[11])[1] == rows[11]


@given(st.integers(0, 2**32), st.sampled_from(["known", "sign", "margin", "bayes"]))
def test_swapping_all_votes_turns_the_step_around(seed, rule):
    settings = defaults(2, SMALL, rule=rule, N=3, M=2)
    rng = np.random.default_rng(seed)
    votes = random_tally(rng, settings)
    _, one, _ = told(settings, votes)
    _, other, _ = told(settings, tally(votes.minus, votes.plus))
    if rule == "bayes":
        assert one[0].vector == pytest.approx([-v for v in other[0].vector], abs=1e-9)
    else:
        assert one[0].coef == -other[0].coef


def climbed(rule, goal, steps, **changes):
    """Share of the way to the top of V = −½|θ − θ*|² in ten dimensions, N = 4, M = 10."""
    rng = np.random.default_rng(0)
    layout = (("z", (10,)),)
    settings = defaults(0, layout, rule=rule, N=4, M=10, kl_radius=0.72, **changes)
    state, theta = optimizer.init(settings), coordinates.zeros(layout)
    for _ in range(steps):
        query = optimizer.ask(state)
        plus, minus = (
            coordinates.shifted(settings.space, theta, shift)["z"] for shift in query.shifts[0]
        )
        delta = 0.5 * ((minus - goal) ** 2).sum() - 0.5 * ((plus - goal) ** 2).sum()
        p = LOGISTIC.prob(delta + 0.25 * rng.normal(size=(1, 4)))
        wins = rng.binomial(10, p).astype(float)
        state, updates, _ = optimizer.tell(state, query, tally(wins, 10 - wins))
        for update in updates:
            theta = coordinates.applied(settings.space, theta, update)
    return 1 - float(((theta["z"] - goal) ** 2).sum() / (goal**2).sum())


@pytest.mark.parametrize("rule", ["known", "sign", "margin", "bayes"])
def test_a_quadratic_is_climbed_by_every_rule(rule):
    # Under bayes the window must be shorter than the way to the top, else it circles there.
    changes = {"forget": 0.8} if rule == "bayes" else {}
    assert climbed(rule, np.full(10, 2 / math.sqrt(10)), 60, **changes) > 0.5
