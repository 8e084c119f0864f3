"""The rule `regression`: what it recommends, where it asks, what it refuses."""

import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from szpo.config import settings_file
from szpo.optim import all_votes, optimizer, parameters, regression, weighting
from szpo.optim.kl_limits import KlMeasurement, Reading
from szpo.optim.optimizer import rule_of
from szpo.optim.rule import Perturbations, WeightedVotes
from szpo.optim.vote_regression import Votes, direction, fit
from szpo.optim.weighting import MINUS, PLUS, TIE, History
from szpo.types import Tally
from tests.support.regression_walk import GRADIENT, LAYOUT, features, settings_of, vote, walk
from tests.support.weighted_votes import in_turns


def test_the_target_is_the_budget_times_the_shrunk_direction():
    settings = settings_of(kl_budget=4.0, centre_step=0.5)
    state, rows = walk(settings, 2)
    found = fit(state.carried.votes, all_votes.prior(settings))
    # .9 of the 4 nats are aimed at; |z|²/2 = nats. Before the votes show a signal, .14
    # nats: this share of the radius.
    unproven = np.sqrt(0.14 / (0.9 * 4))
    target = math.sqrt(2 * 0.9 * 4) * direction(found, state.carried.log_factor, unproven)
    assert state.carried.recommended == pytest.approx(target, abs=1e-6)
    first, second = rows[1][0]
    assert (first.k, second.k) == (0, 1) and second.coef is None
    assert np.linalg.norm(second.vector) <= 0.5 + 1e-6
    assert rows[1][1].extra["signal"] == pytest.approx(float(found.signal))


@pytest.mark.parametrize("nats", [3.0, 0.05, 40.0])
def test_the_radius_is_that_of_the_budget_by_the_measured_scale(nats):
    settings = settings_of(kl_budget=nats)
    start = optimizer.init(settings).carried
    radius = regression.find_radius(settings, start)
    assert radius == pytest.approx(math.sqrt(2 * 0.9 * nats))
    # Twice the KL that |z|²/2 says, measured at 4 nats: scale (8 + .1)/(4 + .1).
    reach = KlMeasurement(9.0, (Reading(256, 8.0, 4.0),), 256)
    seen = replace(start, reach=reach)
    assert regression.find_radius(settings, seen) == pytest.approx(radius / math.sqrt(8.1 / 4.1))


def test_votes_that_may_be_chance_move_the_recommendation_by_little():
    """Their direction counts at once, but 0.14 nats are the most until a signal is shown."""
    seen = []
    for seed in range(6):
        state, _ = walk(settings_of(), 1, seed=seed)
        assert float(state.carried.log_factor) < math.log(9)
        seen.append(float((state.carried.recommended**2).sum()) / 2)
    assert max(seen) == pytest.approx(0.14, rel=1e-5)
    free = settings_of(kl_budget="off")  # .15 of a step of the centre where nothing bounds KL
    state, _ = walk(free, 1, seed=0)
    found = fit(state.carried.votes, all_votes.prior(free))
    assert state.carried.recommended == pytest.approx(direction(found), abs=1e-6)
    assert np.linalg.norm(direction(found)) <= 0.15


def test_a_unit_is_one_of_the_space_or_of_the_radius_at_which_is_asked():
    assert regression.whitened_unit(settings_of(scale=2.5)) == pytest.approx(2.5)
    by_radius = settings_of(mu=0.9)
    assert regression.whitened_unit(by_radius) == pytest.approx(0.9 * math.sqrt(6 / (2 * 4.5)))


@pytest.mark.full
def test_votes_of_the_whole_run_bring_the_recommendation_to_the_gradient():
    state, rows = walk(settings_of(), 25, seed=1)
    z = state.carried.recommended
    assert z @ GRADIENT / np.linalg.norm(z) / np.linalg.norm(GRADIENT) > 0.95
    lengths = np.linalg.norm(z), math.sqrt(2 * 0.9 * 3)
    assert 0.8 * lengths[1] < lengths[0] <= lengths[1] + 1e-6
    assert rows[-1][1].extra["signal"] > 0.99
    assert len(state.carried.votes.up) == 200


def test_the_order_of_steps_votes_and_ties_are_as_the_model_has_them():
    settings = settings_of(K=2, N=2, M=2)
    state = optimizer.init(settings)
    query = optimizer.ask(state)
    plus, tie = np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    minus = np.array([[0.0, 0.0], [0.0, 2.0]])
    same = np.zeros((2, 2), dtype=bool)
    after = optimizer.tell(state, query, Tally(plus, minus, tie, same))[0].carried
    assert after.votes.up.tolist() == [2.0, 1.5, 1.0, 0.0]
    assert after.votes.down.tolist() == [0.0, 0.5, 1.0, 2.0]
    assert (after.votes.x[0] == after.votes.x[1]).all()
    turned = Tally(plus[:, ::-1], minus[:, ::-1], tie[:, ::-1], same)
    other = optimizer.tell(state, query, turned)[0].carried
    assert (other.recommended == after.recommended).all()
    same[0, 0] = True  # a comparison of equal batches was shown to nobody
    less = optimizer.tell(state, query, Tally(plus * ~same, minus, tie, same))[0].carried
    assert less.votes.up.tolist() == [0.0, 1.5, 1.0, 0.0]
    assert less.votes.down.tolist() == [0.0, 0.5, 1.0, 2.0]


def test_forward_pairs_differ_by_one_step():
    settings = settings_of(pairing="forward")
    state, _, _ = vote(settings, optimizer.init(settings), np.random.default_rng(0))
    assert state.carried.votes.x == pytest.approx(features(settings, 0) / 2)


def test_without_a_ball_both_points_walk_together():
    settings = settings_of(kl_budget="off", centre_step=0.25)
    state, rows = walk(settings, 30)
    assert state.carried.recommended == pytest.approx(state.carried.centre, abs=1e-5)
    assert max(np.linalg.norm(updates[0].vector) for updates, _ in rows) <= 0.25 + 1e-6
    assert np.linalg.norm(state.carried.recommended) > 4


def test_repetitions_with_leading_axes_are_the_same_runs():
    settings = settings_of(K=3)
    both = rule_of("regression").init(settings, (2,))
    runs = [optimizer.init(replace(settings, root_seed=seed)) for seed in (5, 6)]
    rng = np.random.default_rng(2)
    for step in range(4):
        queries = [optimizer.ask(run) for run in runs]
        spaces = [run.settings.space for run in runs]
        make = parameters.direction_vector
        grid = np.array([[make(s, step, k) for k in range(3)] for s in spaces])
        factor = np.array([[parameters.factor(s, step, k) for k in range(3)] for s in spaces])
        radius = np.array([[plus.radius for plus, _ in query.shifts] for query in queries])
        plus = rng.integers(0, 2, (2, 3, 1)) * 1.0
        tally = Tally(plus, 1 - plus, 0 * plus, plus < 0)
        at = Perturbations(step, queries[0].mu, None, radius, lambda g=grid, f=factor: (g, f))
        done = regression.move(settings, both, at, WeightedVotes(tally))
        both = done.carried
        for i, run in enumerate(runs):
            own = Tally(plus[i], 1 - plus[i], 0 * plus[i], plus[i] < 0)
            runs[i] = optimizer.tell(run, queries[i], own)[0]
    for i, run in enumerate(runs):
        assert both.recommended[i] == pytest.approx(run.carried.recommended, abs=1e-6)
        assert both.centre[i] == pytest.approx(run.carried.centre, abs=1e-6)


def test_delta_is_what_the_posterior_says_of_each_direction():
    state, rows = walk(settings_of(), 10, seed=4)
    info = rows[-1][1]
    x = features(settings_of(), 9)
    found = fit(state.carried.votes, all_votes.prior(settings_of()))
    assert info.delta == pytest.approx((x @ found.w).tolist())
    deviation = np.sqrt(np.einsum("ki,ij,kj->k", x, found.covariance, x))
    assert info.stderr == pytest.approx(deviation.tolist())


@functools.cache
def panel_of(weighting, hostile, steps, seed=0):
    """The last report of a run in which five voters take turns, one vote a direction."""
    settings = settings_of(weighting=weighting)
    state, rng = optimizer.init(settings), np.random.default_rng(seed)
    for step in range(steps):
        query = optimizer.ask(state)
        plus = rng.random(8) < special.expit(1.5 * features(settings, step) @ GRADIENT)
        who = (np.arange(8) + 3 * step) % 5
        cast = in_turns(who, plus ^ (who < hostile), 5)
        state, _, info = optimizer.tell(state, query, cast.tally(), by_voter=cast)
    return state, info


@pytest.mark.full
def test_voters_are_judged_by_the_posterior_of_the_others():
    state, info = panel_of("skill", hostile=1, steps=25)
    weights = info.extra["weights"]
    assert weights["a"] < 0.1 and min(weights[name] for name in "bcde") > 0.6
    z, same = state.carried.recommended, panel_of("equal", hostile=1, steps=25)[0]
    cosine, plain = (
        one @ GRADIENT / np.linalg.norm(one) / np.linalg.norm(GRADIENT)
        for one in (z, same.carried.recommended)
    )
    assert cosine > plain
    honest = panel_of("skill", hostile=0, steps=25)[1].extra["weights"]
    # Nearly certain votes say little of how sharp an honest voter is.
    assert list(honest.values()) == pytest.approx([1.0] * 5, abs=0.5)
    begun = panel_of("skill", hostile=1, steps=1)[1].extra["weights"]
    assert list(begun.values()) == pytest.approx([1.0] * 5, rel=1e-9)
    # Today's weights hold for all votes of the run.
    sums = state.carried.votes.up + state.carried.votes.down
    who = np.array([(np.arange(8) + 3 * step) % 5 for step in range(25)]).ravel()
    assert sums == pytest.approx(np.abs([*weights.values()])[who])


def test_a_signal_that_was_once_there_is_not_given_up():
    settings = settings_of()
    state, _ = walk(settings, 12, seed=1)
    best = float(state.carried.log_factor)
    assert best > math.log(9)
    rng = np.random.default_rng(0)
    for _ in range(4):
        state, _, _ = vote(settings, state, rng, gradient=-GRADIENT)
    assert float(state.carried.log_factor) >= best


def test_a_settings_file_names_the_rules_own_directions():
    def load(*sets, rule="regression"):
        return settings_file.load(sets=[f"optimizer.rule={rule}", *sets])

    config = load()
    assert (config.optimizer.K, config.optimizer.N, config.votes_per_step) == (8, 1, 8)
    config = load("optimizer.K=4")
    assert (config.optimizer.K, config.optimizer.N) == (4, 1)
    made = load("optimizer.kl_budget=off").optimizer_settings(LAYOUT, 1.0)
    assert made.kl_budget is None
    made = load("optimizer.kl_budget=2.5").optimizer_settings(LAYOUT, 1.0)
    assert made.kl_budget == 2.5 and made.centre_step == 1.0


def test_a_tie_is_half_of_each_side_and_a_negative_weight_votes_for_the_other():
    """Voters weigh 2, .5 and −1; the first comparison has no tie, the second has two."""
    cast = np.array([[[PLUS, TIE]], [[MINUS, TIE]], [[PLUS, MINUS]]], np.int8)
    weights = np.array([2.0, 0.5, -1.0])
    up, down = all_votes.sum_by_voter(cast, weights, 0.5)
    assert up.tolist() == [2, 1.25 + 1] and down.tolist() == [0.5 + 1, 1.25]
    up, down = all_votes.sum_by_voter(cast, weights, 0.0)
    assert up.tolist() == [2, 1] and down.tolist() == [1.5, 0]


def test_each_voter_is_seen_by_the_fit_of_the_others_votes_alone():
    """Once with equal weights, and again with those that this gives."""
    rng, people, rows = np.random.default_rng(6), 3, 12
    settings = settings_of(weighting="skill")
    x, who = rng.normal(size=(rows, 6)), np.arange(rows) % people
    won = rng.random(rows) < special.expit(2 * x[:, 0])
    verdicts = in_turns(who, won, people).verdicts
    votes = Votes(x, won.astype(float), 1.0 - won)
    record = replace(optimizer.init(settings).carried, votes=votes)
    history = History(tuple("abc"), np.arange(rows), verdicts)
    latest, (mean, variance) = all_votes.view_of_others(settings, record, history)

    def view(weights):
        means, spread = [], []
        for voter in range(people):
            size = np.where(who == voter, 0.0, weights[who])
            up, down = np.where(won, size, 0.0), np.where(won, 0.0, size)
            found = fit(Votes(x, up, down), all_votes.prior(settings))
            means.append(x @ found.w)
            spread.append(np.diag(x @ found.covariance @ x.T))
        return np.array(means), np.array(spread)

    weights = weighting.skill(latest, view(np.ones(people))).weights
    assert weights.min() > 0 and np.ptp(weights) > 1e-3
    wanted = view(weights)
    np.testing.assert_allclose(mean, wanted[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(variance, wanted[1], rtol=1e-6, atol=1e-8)
    assert latest.verdicts.shape == (people, rows, 1)
    found = all_votes.learn_weights(settings, record, history)
    np.testing.assert_allclose(found, weighting.skill(latest, wanted).weights, rtol=1e-6)


def test_withdrawn_rows_take_their_new_counts_and_their_evidence_is_forgotten():
    settings = settings_of()
    votes = Votes(np.ones((3, 6)), np.array([1.0, 0, 1]), np.array([0.0, 1, 1]),
                  np.array([1.0, -1, 0]))  # fmt: skip
    record = replace(optimizer.init(settings).carried, votes=votes, log_factor=np.array(7.0))
    left = all_votes.take_back(record, ((2, 0.5, 0.25, -1.0), (0, 0.0, 0.0, 0.0)))
    assert left.votes.up.tolist() == [0, 0, 0.5] and left.votes.down.tolist() == [0, 1, 0.25]
    assert left.votes.plus_on_a.tolist() == [0, -1, -1] and left.log_factor == -np.inf
    assert all_votes.take_back(left, left.withdrawn) is left and record.votes.up[0] == 1


def test_the_gradient_shrinks_by_the_share_of_what_no_coordinate_is(monkeypatch):
    settings, votes = settings_of(), Votes(np.eye(6), np.ones(6), np.zeros(6))
    along = fit(votes, all_votes.prior(settings))
    joint = SimpleNamespace(named=None, states="states", share=0.25, signal=0.5, log_factor=1.5)
    monkeypatch.setattr(all_votes, "fit_named", lambda settings, record: joint)
    monkeypatch.setattr(all_votes.named_features, "in_coordinates", lambda named, features: along)
    named = replace(settings, features="features")
    found, told = all_votes.fit_votes(named, None)
    assert told is joint and (float(found.signal), float(found.log_factor)) == (0.5, 1.5)
    np.testing.assert_allclose(found.w, 0.75 * along.w)
    joint.states = None
    assert all_votes.fit_votes(named, None)[0] is along
