"""Ask and tell: what the votes do to θ, exactly, and what no votes may do."""

import functools
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.optimizer import make_settings, read_settings, record_settings
from szpo.errors import RunError, UsageError
from szpo.optim import known_and_sign, optimizer, parameters
from szpo.optim.parameters import Space, round13
from szpo.optim.sample_directions import Law
from szpo.optim.schedule import base_mu
from szpo.types import Query, Shift, Update
from tests.support.cases import case
from tests.support.tallies import (
    SMALL,
    WIDE,
    coefficients,
    random_tally,
    state_to_json,
    tally,
    told,
)


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
def test_a_query_shifts_both_ways_or_one(pairing):
    settings = make_settings(5, SMALL, rule="sign", pairing=pairing, K=2, mu=0.3)
    query = optimizer.ask(optimizer.init(settings))
    for k, (plus, minus) in enumerate(query.shifts):
        factor = parameters.factor(settings.space, 0, k)
        radius = float(round13(0.3 * factor))
        assert plus == Shift(0, k, 1, radius)
        both = pairing == "antithetic"
        assert minus == Shift(0, k, -both, radius if both else 0.0)


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_with_more_directions_a_step_is_as_large_as_if_there_had_been_so_many(rule):
    one, four = (optimizer.init(make_settings(5, SMALL, rule=rule, K=K, mu=0.3)) for K in (1, 4))
    found = optimizer.with_directions(one, 4)
    assert optimizer.alpha_at(found, 0) == pytest.approx(optimizer.alpha_at(four, 0))


def test_a_step_is_asked_ahead_by_one_and_never_at_no_radius():
    state = optimizer.init(make_settings(1, SMALL, rule="sign", mu=1.0, alpha=1.0, horizon=1.0))
    assert (optimizer.ask(state).mu, optimizer.ask(state).alpha) == (1.0, 1.0)
    ahead = optimizer.ask(state, 1)
    assert (ahead.step, ahead.mu, ahead.alpha) == (1, 1.0, 0.5)
    with pytest.raises(UsageError, match="ask: step 2 when votes are awaited for step 0"):
        optimizer.ask(state, 2)
    with pytest.raises(RunError, match="step 3: the perturbation radius mu is 0"):
        optimizer.query(make_settings(1, SMALL), 3, 0.0)
    settings = make_settings(1, (("w", (100,)),), scale=0.01)
    assert base_mu(settings) == pytest.approx(0.01 * math.sqrt(2 * 1.62 / 100))


def one_step(rule, pairing, votes, **changes):
    settings = make_settings(
        3, WIDE, rule=rule, pairing=pairing, N=votes.plus.shape[-1], mu=0.5, alpha=0.25, **changes
    )
    return told(settings, votes)


def test_a_step_as_published_is_what_it_is_by_hand():
    """θ against θ + μv, N = 8, M = 5: two comparisons are unanimous, against each other.

    Σ σ⁻¹(k/5) = 4 − 4 + 2 ln 4 + 2 ln 1.5 − 2 ln 1.5; σ⁻¹(1) is trimmed to 4. So Δ̂ = ln 2 / 2
    and α Δ̂ / μ = .07 · .346574 / .3 = .0808672. Of 40 votes 23 are for plus, so sign moves by α.

    What is recorded has 13 bits, so that θ + coef · v is exact. .07 is 4587.52 · 2⁻¹⁶, and both of
    its neighbours of 13 bits, 4587 · 2⁻¹⁶ = .0699921 and 4588 · 2⁻¹⁶ = .0700073, are further than
    1e-4 of it away: the nearer by .48 / 4587.52 = 1.05e-4.
    """
    plus = np.array([[5.0, 0.0, 4.0, 4.0, 3.0, 2.0, 3.0, 2.0]])
    votes = tally(plus, 5 - plus)
    for rule, own, coef, recorded in (
        ("known", {}, 0.0808672, 5300 / 2**16),
        ("sign", {}, 0.07, 4588 / 2**16),
    ):
        settings = make_settings(
            3, (("w", (20, 10)),), rule=rule, pairing="forward", law="gaussian",
            N=8, M=5, mu=0.3, alpha=0.07, **own,
        )  # fmt: skip
        _, updates, _ = told(settings, votes)
        exact = coefficients(settings, votes, mu=0.3, alpha=0.07).coef
        assert exact == pytest.approx(coef, rel=1e-6)
        assert updates == (Update(0, 0, coef=recorded),)
        v = parameters.direction(settings.space, 0, 0)["w"]
        theta = parameters.apply_update(settings.space, {"w": 0 * v}, updates[0])
        np.testing.assert_allclose(theta["w"], updates[0].coef * v, rtol=1e-6)


def test_sign_steps_are_constant_averaged_over_directions_and_of_the_laws_length():
    _, updates, _ = one_step("sign", "antithetic", tally([[1, 1, 0]], [[0, 0, 1]]), law="gaussian")
    assert updates == (Update(0, 0, coef=0.25),)
    _, updates, _ = one_step("sign", "antithetic", tally([[0, 1]], [[1, 0]]), law="gaussian")
    assert updates == (Update(0, 0, coef=0.0),)
    votes = tally([[1.0], [0.0]], [[0.0], [1.0]])
    _, updates, _ = one_step("sign", "antithetic", votes, law="gaussian", K=2)
    assert updates == (Update(0, 0, coef=0.125), Update(0, 1, coef=-0.125))
    law = "normalised"
    _, updates, _ = one_step("sign", "antithetic", tally([[1.0]]), law=law)
    factor = parameters.factor(Space(3, WIDE, Law(normalise=True)), 0, 0)
    assert updates[0].coef == float(round13(0.25 * factor))


def test_an_estimate_from_elsewhere_replaces_the_votes():
    votes = tally([[1.0, 1.0]])
    for rule, coef in (("known", 0.25 * -2.0), ("sign", -0.25)):
        settings = make_settings(3, WIDE, rule=rule, N=2, mu=0.5, alpha=0.25, law="gaussian")
        state = optimizer.init(settings)
        _, updates, info = optimizer.tell(state, optimizer.ask(state), votes, delta=[-2.0])
        assert updates[0].coef == float(round13(coef))
        assert info.delta == (-2.0,)
    state = optimizer.init(make_settings(3, SMALL, K=1, N=2))
    with pytest.raises(UsageError, match="regression takes votes"):
        optimizer.tell(state, optimizer.ask(state), votes, delta=[-2.0])


def test_too_large_a_coefficient_is_cut_and_recorded(monkeypatch):
    votes = tally([[1.0]])
    _, updates, info = one_step("known", "antithetic", votes, law="gaussian")
    assert not info.capped
    monkeypatch.setattr(known_and_sign, "COEF_CAP", 0.25)
    _, updates, info = one_step("known", "antithetic", votes, law="gaussian")
    assert (updates[0].coef, info.capped) == (0.125, True)


def test_the_report_counts_votes_and_wins():
    votes = tally([[2, 0, 9]], [[0, 1, 9]], [[1, 0, 0]], [[False, False, True]])
    _, _, info = one_step("known", "antithetic", votes, M=3)
    assert (info.votes, info.win_rate) == (4.0, 2.5 / 4)


def test_non_finite_votes_name_step_and_source():
    for side in ["plus", "minus", "tie"]:
        for bad in [math.nan, math.inf]:
            for rule in ["known", "sign", "regression"]:
                with case(rule, bad, side):
                    settings = make_settings(1, SMALL, rule=rule, K=1, N=2)
                    state = optimizer.init(settings)
                    query = optimizer.ask(state)
                    good = tally([[1.0, 0.0]], [[0.0, 1.0]])
                    votes = replace(good, **{side: np.array([[0.0, bad]])})
                    with pytest.raises(
                        RunError, match=f"step 0: {side} votes of direction 0, comparison 1 are"
                    ):
                        optimizer.tell(state, query, votes)
                    after = optimizer.tell(state, query, good)[0]  # the state is as it was
                    assert after.step == 1


def test_votes_and_estimates_that_do_not_fit_are_refused():
    state = optimizer.init(make_settings(1, SMALL, K=1, N=2))
    query = optimizer.ask(state)
    with pytest.raises(UsageError, match=r"votes of shape \(1, 3\), expected \(1, 2\)"):
        optimizer.tell(state, query, tally([[1.0, 0.0, 0.0]]))
    with pytest.raises(UsageError, match="count a vote of negative weight for the other"):
        optimizer.tell(state, query, tally([[-1.0, 0.0]]))
    with pytest.raises(UsageError, match="votes of step 1; expected those of step 0"):
        optimizer.tell(state, Query(1, query.shifts, query.mu, None), tally([[1.0, 0.0]]))
    with pytest.raises(UsageError, match="different shapes"):
        optimizer.tell(state, query, replace(tally([[1.0, 0.0]]), minus=np.zeros((1, 1))))
    state = optimizer.init(make_settings(1, SMALL, rule="known", N=1))
    with pytest.raises(RunError, match="step 0: value difference 0 is nan; nothing was applied"):
        optimizer.tell(state, optimizer.ask(state), tally([[1.0]]), delta=[math.nan])


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_identical_comparisons_everywhere_move_nothing(rule):
    settings = make_settings(1, SMALL, rule=rule, N=2)
    _, updates, info = told(settings, tally([[0.0, 0.0]], identical=[[True, True]]))
    assert not np.any(updates[0].coef)
    assert (info.delta, info.stderr, info.win_rate, info.votes) == ((0.0,), (0.0,), 0.5, 0.0)


CASES = [
    {"rule": "known", "M": 3},
    {"rule": "known", "M": 2, "pairing": "forward"},
    {"rule": "known", "warmup": 3},
    {"rule": "known", "K": 2, "horizon": 30.0},
    {"rule": "sign", "K": 3, "law": "gaussian"},
    {"rule": "regression", "M": 2, "kl_budget": 2.5},
    {"rule": "regression", "K": 2, "pairing": "forward"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_is_rebuilt_by_telling_again(case):
    rng = np.random.default_rng(1)
    settings = make_settings(6, SMALL, **case)
    state, tallies, mus, rows = optimizer.init(settings), [], [], []
    for _ in range(12):
        query = optimizer.ask(state)
        tallies.append(random_tally(rng, settings))
        mus.append(query.mu)
        state, updates, _ = optimizer.tell(state, query, tallies[-1])
        rows.append(updates)
    stored = json.loads(json.dumps(record_settings(settings)))
    again = read_settings(stored, settings.root_seed, settings.layout)
    assert again == settings
    rebuilt = optimizer.init(again)
    for votes, mu, row in zip(tallies, mus, rows, strict=True):
        query = optimizer.ask(rebuilt)
        assert query.mu == mu
        rebuilt, updates, _ = optimizer.tell(rebuilt, query, votes)
        assert updates == row
    assert state_to_json(rebuilt) == state_to_json(state)


@given(st.integers(0, 2**32), st.sampled_from(["known", "sign"]))
def test_swapping_all_votes_turns_the_step_around(seed, rule):
    settings = make_settings(2, SMALL, rule=rule, N=3, M=2)
    rng = np.random.default_rng(seed)
    votes = random_tally(rng, settings)
    _, one, _ = told(settings, votes)
    _, other, _ = told(settings, tally(votes.minus, votes.plus))
    assert one[0].coef == -other[0].coef


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
    settings = make_settings(11, SMALL, rule="known", pairing=pairing, N=1, mu=mu, alpha=1.0)
    v = unit_directions(law, draws)
    low = centre - mu * v if pairing == "antithetic" else centre
    delta = value(centre + mu * v) - value(low)
    votes = tally(np.ones((draws, 1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_and_sign, "COEF_CAP", 1e9)
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


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
@pytest.mark.parametrize("votes", [1, 3, 10])
def test_votes_give_the_exact_expectation_of_the_gradient(votes, pairing):
    """Every outcome of N = 2 comparisons, weighted by its probability, through `tell`'s sums."""
    mu = 0.8
    settings = make_settings(
        11, SMALL, rule="known", pairing=pairing, N=2, M=votes, mu=mu, alpha=1.0, law="gaussian"
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
        if pairing == "antithetic":
            logs = [math.log((k + 0.5) / (votes - k + 0.5)) for k in range(votes + 1)]
        else:  # the paper's trimming
            logs = [-4.0, *(math.log(k / (votes - k)) for k in range(1, votes)), 4.0]
        exact = sum(w * log for w, log in zip(ways, logs, strict=True)) / (distance * mu)
        assert float(weight @ found.coef[:, 0]) == pytest.approx(exact, rel=1e-12)
