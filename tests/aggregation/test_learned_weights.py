"""Weights that are learned from earlier votes, by rationality above all."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from szpo.aggregation import rationality, registry, weighting
from szpo.aggregation.weighting import HOSTILE_Z, MINUS, PLUS, TIE, History
from szpo.analysis import voter_report
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.optim import optimizer, weighted_votes
from szpo.optim.checked_settings import defaults
from szpo.replay import replay, verification
from szpo.voting.service import VoteService
from tests.support.optimizer_state import state_to_json
from tests.support.quadratic import LAYOUT, ValueJudge, go, panel_of, start
from tests.support.weighted_votes import make_votes


def weights_gain(weights, beta):
    """Votes that equal weights need, over those that weights (..., P) need, at small signal."""
    merit = (weights * beta).sum(-1) ** 2 / (weights**2).sum(-1)
    return merit / (beta.sum(-1) ** 2 / beta.shape[-1])


def past(verdicts):
    """A history (P, R, N) of voters a, b, c, …"""
    verdicts = np.array(verdicts, dtype=np.int8)
    names = tuple("abcdefghijklmnopqrst"[: verdicts.shape[-3]])
    return History(
        names, np.arange(verdicts.shape[-2]), verdicts, np.zeros((*verdicts.shape[:-2], 2))
    )


def draw_history(beta, each, *, answered="all", seed=0):
    """Votes of voters with these β, from the model itself; x ~ N(0, 1).

    ``all`` answer each comparison, or ``one`` does, in turns, eight comparisons a direction.
    """
    beta, rng = np.atleast_2d(np.array(beta, dtype=float)), np.random.default_rng(seed)
    panels, voters = beta.shape
    places = 1 if answered == "all" else 8
    rows = each if answered == "all" else -(-each * voters // places)
    x = rng.normal(size=(panels, rows))
    verdicts = np.zeros((panels, voters, rows, places), dtype=np.int8)
    for r in range(rows):
        who = np.arange(voters) if answered == "all" else (r * 8 + np.arange(8)) % voters
        where = np.zeros(voters, dtype=np.int64) if answered == "all" else np.arange(8)
        chance = special.expit(beta[:, who] * x[:, r, None])
        verdicts[:, who, r, where] = np.where(rng.random(chance.shape) < chance, PLUS, MINUS)
    names = tuple(f"{i:03d}" for i in range(voters))
    return History(names, np.arange(rows), verdicts, np.zeros((panels, voters, 2)))


def one(history):
    """The first repetition alone."""
    return replace(history, verdicts=history.verdicts[0], gold=history.gold[0])


def rationality_weights(sample):
    return weighted_votes.learn_weights("rationality", sample)


# ---- what all of them promise ----


@pytest.mark.parametrize("name", registry.LEARNED)
def test_nothing_known_and_equal_voters_weigh_one(name):
    nobody = weighting.add_voters(History.empty(4), ["b", "a", "c"])
    assert weighted_votes.learn_weights(name, nobody) == pytest.approx(np.ones(3), rel=1e-12)
    same = past(np.tile(np.where(np.arange(30) % 3 > 0, PLUS, MINUS), (4, 1))[..., None])
    assert weighted_votes.learn_weights(name, same) == pytest.approx(np.ones(4), rel=1e-9)


@pytest.mark.parametrize("answered", ["all", "one"])
def test_no_side_no_order_of_voters_and_no_neighbour_matters(answered):
    sample = draw_history(
        np.exp(np.random.default_rng(1).normal(size=(3, 5))), 40, answered=answered
    )
    weights = rationality_weights(sample)
    swapped = replace(sample, verdicts=(-sample.verdicts).astype(np.int8))
    assert rationality_weights(swapped) == pytest.approx(weights, rel=1e-9)
    order = [3, 1, 4, 0, 2]
    mixed = replace(sample, verdicts=sample.verdicts[:, order])
    assert rationality_weights(mixed) == pytest.approx(weights[:, order], rel=1e-9)
    flipped = sample.verdicts.copy()
    flipped[:, :, ::2] *= -1  # every other direction called the other way round
    assert rationality_weights(replace(sample, verdicts=flipped)) == pytest.approx(
        weights, rel=1e-9
    )
    for i in range(3):
        alone = replace(sample, verdicts=sample.verdicts[i], gold=sample.gold[i])
        assert rationality_weights(alone) == pytest.approx(weights[i], rel=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_negative_only_beyond_three_standard_errors_and_silence_is_not_redistributed(seed, rows):
    rng = np.random.default_rng(seed)
    verdicts = rng.choice(np.array([PLUS, MINUS, TIE, 0], dtype=np.int8), (5, rows, 2))
    found = rationality.rationality(past(verdicts))
    assert ((found.weights >= 0) | (found.z <= -HOSTILE_Z)).all()
    assert np.isfinite(found.weights).all()
    assert (found.weights**2).sum() == pytest.approx(np.abs(found.weights).sum())


def test_two_hostile_of_seven_are_turned_round_with_many_votes_and_never_with_few():
    beta = np.repeat([[1.0] * 5 + [-1.0] * 2], 40, axis=0)
    many = rationality_weights(draw_history(beta, 150, seed=2)).mean(0)
    assert many[:5].min() > 0.7 and many[5:].max() < -0.3
    few = rationality_weights(draw_history(beta, 4, seed=3))
    assert few.min() >= 0


def test_the_prior_dominates_a_handful_of_votes():
    weights = rationality_weights(draw_history(np.full((30, 6), 1.0), 3, seed=4))
    assert np.abs(weights - 1).mean() < 0.25


def test_weights_learned_from_a_hundred_votes_save_what_equal_ones_cannot():
    beta = np.exp(0.7 * np.random.default_rng(5).normal(size=(40, 20)))
    gained = weights_gain(rationality_weights(draw_history(beta, 100, seed=6)), beta)
    assert gained.mean() > 1.2
    assert gained.mean() < weights_gain(beta, beta).mean()


@pytest.mark.parametrize("M", [1, 3])
@pytest.mark.parametrize("rule", ["sign", "known"])
def test_a_run_with_learned_weights_is_recomputed_from_its_votes(tmp_path, M, rule):
    alpha = {"alpha": 0.1} if rule == "known" else {}
    how = {"weighting": "rationality", "M": M, "rule": rule, **alpha}
    run, ledger, policy = start(tmp_path, **how)
    seen = []
    judges = [ValueJudge(20), ValueJudge(20), ValueJudge(2), ValueJudge(-5)]
    panel = PanelEvaluator(VoteService(ledger), judges)
    go(run, ledger, policy, panel, until_step=6, on_step=seen.append)
    assert not np.allclose(list(seen[-1].extra["weights"].values()), 1.0)
    report = verification.verify(ledger)
    assert report.ok and {step.promise for step in report.steps} == {"1e-9"}
    # Replayed from the ledger alone, the next step is the same to the last bit here.
    again, third = replay.replay_state(ledger, run), replay.replay_state(ledger, run)
    assert state_to_json(again) == state_to_json(third)
    ledger.close()


def test_what_learns_nothing_is_refused():
    with pytest.raises(UsageError, match="equal learns no weights"):
        weighted_votes.learn_weights("equal", History.empty(2))


# ---- rationality ----


def test_the_start_is_the_leading_eigenvector_of_agreement():
    """Of the mean products of two voters' votes, diagonal left out, by an eigenvalue routine."""
    verdicts = draw_history(np.array([2.0, 1.5, 1.0, 0.5, -1.0]), 300, seed=7).verdicts[0]
    votes = verdicts[..., 0].astype(float)
    agree = votes @ votes.T / votes.shape[1]
    np.fill_diagonal(agree, 0)
    leading = np.linalg.eigh(agree)[1][:, -1]
    leading = np.clip(leading / np.abs(leading).mean() * np.sign(leading[0]), 0, 3)
    assert rationality.start(past(verdicts), votes=0.0) == pytest.approx(leading, abs=1e-3)
    assert leading[4] == 0  # the hostile one begins in silence


def test_one_round_of_the_mean_beta_by_hand():
    """A flat likelihood leaves the prior: E|β| = 1, and 5 % of it with the other sign: .9."""
    known = rationality.Prior(hostile=0.05)
    nothing = np.zeros((1,))
    mean, low, high, wide2 = rationality._betas(
        nothing, nothing, nothing, np.array([known.spread]), known
    )
    assert mean[0] == pytest.approx(0.9, abs=5e-3)  # the grid ends at e²
    # exp(−.7²/2 ± 1.96 · .7), up to a step of the grid
    assert low[0] == pytest.approx(np.exp(-0.245 - 1.372), rel=0.13)
    assert high[0] == pytest.approx(np.exp(-0.245 + 1.372), rel=0.13)
    assert wide2[0] == pytest.approx(0.49, abs=0.01)


def test_what_the_rest_says_of_x_is_the_gaussian_posterior():
    """Two others, β = 1, λ = 1/8: a vote gives precision ¼ and pull ½; prior precision 1.

    Same direction, other comparisons, no comparison noise: precision 1.5, mean (½ + ½)/1.5.
    """
    own = np.zeros((3, 1, 3))
    own[np.arange(3), 0, np.arange(3)] = 1
    seen = rationality._rest(
        rationality._Votes(own, np.abs(own), np.zeros(1)),
        np.ones(3),
        np.full(own.shape, 1 / 8),
        rationality._Scales(np.ones(1), np.zeros(1)),
    )
    assert seen.variance[0, 0, 0] == pytest.approx(1 / 1.5)
    assert seen.mean[0, 0, 0] == pytest.approx(1 / 1.5)
    # With comparison noise 1 a vote elsewhere gives precision 1/(4 + 1) and pull .5 · .8 to Δ;
    # x adds noise of its own: variance 1/1.4 + 1.
    noisy = rationality._rest(
        rationality._Votes(own, np.abs(own), np.ones(1)),
        np.ones(3),
        np.full(own.shape, 1 / 8),
        rationality._Scales(np.ones(1), np.ones(1)),
    )
    assert noisy.variance[0, 0, 0] == pytest.approx(1 / 1.4 + 1)
    assert noisy.mean[0, 0, 0] == pytest.approx(0.8 / 1.4)


def test_the_quadratic_bound_touches_the_logistic():
    xi = np.array([1e-9, 0.5, 2.0, 6.0])
    z = np.linspace(-8, 8, 161)[:, None]
    bound = special.log_expit(xi) + (z - xi) / 2 - rationality._lambda(xi) * (z**2 - xi**2)
    assert (bound <= special.log_expit(z) + 1e-9).all()
    at = special.log_expit(xi) - rationality._lambda(xi) * 0
    assert at == pytest.approx(special.log_expit(xi))
    assert rationality._lambda(np.array([0.0]))[0] == pytest.approx(1 / 8)


def test_a_sharp_voter_is_distinguished_from_a_dull_one_and_the_interval_covers():
    beta = np.repeat([[2.0, 1.0, 1.0, 1.0, 0.5, 0.5]], 60, axis=0)
    found = rationality.rationality(draw_history(beta, 150, seed=8))
    mean = found.beta.mean(0)
    assert mean[0] > mean[1:4].max() > mean[4:].max()
    covered = (found.low <= 1.0) & (found.high >= 1.0)  # the middle ones' own value
    assert covered[:, 1:4].mean() > 0.85


def test_ties_say_nothing_of_beta():
    sample = one(draw_history([1.0, 1.0, 0.3], 30, seed=9))
    with_ties = np.concatenate([sample.verdicts, np.full((3, 5, 1), TIE, dtype=np.int8)], axis=1)
    assert rationality_weights(past(with_ties)) == pytest.approx(
        rationality_weights(sample), rel=1e-9
    )


# ---- the report ----


def test_the_table_of_voters_counts_votes_and_shows_the_weights_in_use(tmp_path):
    run, ledger, policy = start(tmp_path, weighting="rationality", M=2)
    seen = []
    go(run, ledger, policy, panel_of(ledger, 4), until_step=3, on_step=seen.append)
    rows = voter_report.voters(ledger)
    assert [row.name for row in rows] == ["panel-0", "panel-1", "panel-2", "panel-3"]
    assert sum(row.votes for row in rows) == seen[-1].total_votes
    for row in rows:
        assert row.in_use == row.rationality
        assert row.beta_interval[0] < row.beta_interval[1]
    heads, lines = voter_report.table(rows)
    assert len(lines) == 4 and all(len(line) == len(heads) for line in lines)
    assert [line[1] for line in lines] == [row.votes for row in rows]
    ledger.close()


def test_nobody_voted_is_an_empty_table(tmp_path):
    _, ledger, _ = start(tmp_path)
    assert voter_report.voters(ledger) == ()
    ledger.close()


def test_weights_of_a_step_rest_on_earlier_steps_alone():
    chosen = defaults(1, LAYOUT, rule="known", N=2, M=2, weighting="rationality")
    state = optimizer.init(chosen)
    cast = make_votes([[[PLUS, PLUS]], [[MINUS, MINUS]]])
    _, _, info = optimizer.tell(state, optimizer.ask(state), cast.tally(), by_voter=cast)
    assert list(info.extra["weights"].values()) == pytest.approx([1.0, 1.0])
