"""Weights of voters: what they do to votes, how they are learned, what would reverse a step."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.stats import binom

from szpo.analysis import agreement
from szpo.analysis.agreement import Conduct, at_random, effort_flags
from szpo.cli.app import call
from szpo.config.optimizer import make_settings
from szpo.errors import UsageError
from szpo.optim import optimizer, weighting
from szpo.optim.weighting import HOSTILE_Z, MINUS, PLUS, TIE, History
from szpo.replay import replay, verification
from szpo.replay.replay import read_votes_by_voter
from szpo.types import Tally, Vote
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from tests.support import named_run, yard_run
from tests.support.cases import case
from tests.support.quadratic import ValueJudge, go, panel_of, settings_of, start
from tests.support.tallies import state_to_json
from tests.support.weighted_votes import make_votes


def past(rng, coins, steps=40, N=8):
    """A history in which a voter of coin r is right with probability ½(1 + r), N votes a step."""
    found = History.empty(N)
    for step in range(steps):
        truth = 1 if rng.random() < 0.5 else -1
        verdicts = np.zeros((len(coins), 1, N), dtype=np.int8)
        for n in range(N):
            voter = (step * N + n) % len(coins)
            right = rng.random() < (1 + coins[voter]) / 2
            verdicts[voter, 0, n] = truth if right else -truth
        found = weighting.remember(found, step, make_votes(verdicts))
    return found


def test_a_weight_counts_a_vote_so_often_and_a_negative_one_for_the_other_side():
    cast = make_votes([[[PLUS, TIE]], [[MINUS, PLUS]], [[PLUS, 0]]])
    plain = cast.tally()
    assert plain.plus.tolist() == [[2, 1]] and plain.minus.tolist() == [[1, 0]]
    assert plain.tie.tolist() == [[0, 1]]
    heavy = cast.tally(np.array([0.5, -2.0, 1.0]))
    assert heavy.plus.tolist() == [[0.5 + 2 + 1, 0]]
    assert heavy.minus.tolist() == [[0, 2]] and heavy.tie.tolist() == [[0, 0.5]]


def test_hostile_voters_are_turned_round_and_clickers_go_silent():
    rng = np.random.default_rng(3)
    found = [weighting.skill(past(rng, [0.6] * 5 + [0.0, -0.6], steps=120)) for _ in range(20)]
    weights = np.mean([f.weights for f in found], axis=0)
    assert weights[:5].min() > 0.85
    assert abs(weights[5]) < 0.35
    assert weights[6] < -0.5


def test_voters_are_read_in_the_order_of_their_ids_whatever_came_first():
    none = np.zeros((1, 2))
    tally = Tally(none, none, none, np.zeros((1, 2), dtype=bool))
    votes = [Vote(f"c{n}", who, 0, n, "plus", "A") for n, who in enumerate(("zoe", "ann"))]
    for order in (votes, votes[::-1]):
        found = read_votes_by_voter(None, settings_of(N=2), 0, order, tally)
        assert found.voters == ("ann", "zoe")
        assert found.verdicts[:, 0].tolist() == [[0, PLUS], [PLUS, 0]]


def test_a_weighting_needs_voters():
    state = optimizer.init(make_settings(1, (("z", (4,)),), rule="known", N=2, weighting="skill"))
    with pytest.raises(UsageError, match="needs to know who voted how"):
        optimizer.tell(state, optimizer.ask(state), make_votes([[[PLUS, MINUS]]]).tally())


def test_weights_rest_on_earlier_steps_alone():
    settings = make_settings(1, (("z", (4,)),), rule="known", N=4, weighting="skill")
    rng = np.random.default_rng(0)
    state = optimizer.init(settings)
    for _ in range(6):
        cast = make_votes(rng.choice(np.array([PLUS, MINUS], np.int8), (4, 1, 4)))
        before = state
        state, _, info = optimizer.tell(state, optimizer.ask(state), cast.tally(), by_voter=cast)
    other = make_votes(-cast.verdicts)
    again = optimizer.tell(before, optimizer.ask(before), other.tally(), by_voter=other)[2]
    assert again.extra["weights"] == info.extra["weights"]
    assert again.delta != info.delta


class HostileJudge(ValueJudge):
    def judge(self, comparison, **seat):
        return {"A": "B", "B": "A"}.get(choice := super().judge(comparison, **seat), choice)


def mixed_panel(ledger):
    panel = panel_of(ledger)
    panel.judges = (*[ValueJudge()] * 4, HostileJudge())
    return panel


@pytest.mark.parametrize(("rule", "M"), [("known", 3), ("sign", 1)])
def test_a_weighted_run_is_recomputed_from_its_votes(tmp_path, rule, M):
    settings, ledger, policy = start(tmp_path, rule=rule, weighting="skill", M=M)
    go(settings, ledger, policy, mixed_panel(ledger), until_step=8)
    report = verification.verify(ledger)
    assert report.ok, report.failure
    assert {check.promise for check in report.steps} == {"1e-9"}
    assert sum(row["n_votes"] for row in ledger.update_rows()) == 8 * 4 * M  # votes, not weights
    bodies = [event["body"] for event in ledger.events("step")]
    assert not np.allclose(list(bodies[-1]["extra"]["weights"].values()), 1.0)
    # Replayed from the ledger alone, the next step is the same to the last bit here.
    again, third = (replay.replay_state(ledger, settings) for _ in range(2))
    assert state_to_json(again) == state_to_json(third)


def codes(found):
    return [code for code, _ in found]


def test_each_sign_has_an_edge():
    cases = [
        (Conduct(fast=(5, 40)), Conduct(fast=(2, 10)), "fast"),
        (Conduct(left=(11, 11)), Conduct(left=(10, 10)), "side"),
        (Conduct(left=(0, 11)), Conduct(left=(13, 20)), "side"),
        (Conduct(run=14, left=(20, 40)), Conduct(run=13, left=(20, 40)), "run"),
        (Conduct(rest=(8, 30)), Conduct(rest=(9, 30)), "rest"),
        (Conduct(rest=(8, 30)), Conduct(rest=(3, 29)), "rest"),
        (Conduct(skim=(4, 6)), Conduct(skim=(3, 6)), "skim"),
        (Conduct(skim=(4, 6)), Conduct(skim=(5, 5)), "skim"),
        (Conduct(repeat=(1, 6)), Conduct(repeat=(2, 6)), "repeat"),
        (Conduct(repeat=(0, 5)), Conduct(repeat=(0, 4)), "repeat"),
        (Conduct(skips=(4, 12)), Conduct(skips=(3, 12)), "skips"),
        (Conduct(skips=(4, 12)), Conduct(skips=(11, 11)), "skips"),
        (Conduct(repeat=(1, 4)), Conduct(repeat=(2, 3)), "random"),
    ]
    for odd, fine, code in cases:
        with case(odd, fine, code):
            panel = Conduct(repeat=(95, 100))
            assert code in codes(effort_flags(odd, panel))
            assert code not in codes(effort_flags(fine, panel))


def test_a_run_is_longer_by_chance_in_a_longer_record_and_a_flag_says_what_was_counted():
    assert "run" in codes(effort_flags(Conduct(run=15, left=(50, 100)), Conduct()))
    assert "run" not in codes(effort_flags(Conduct(run=15, left=(500, 1000)), Conduct()))
    assert effort_flags(Conduct(left=(30, 32)), Conduct()) == (
        ("side", "chose the left side in 30 of 32 votes"),
    )
    assert effort_flags(Conduct(), Conduct()) == ()
    assert at_random(Conduct(rest=(3, 40), repeat=(0, 5)), Conduct()) == 0
    # One right and one wrong each: ln .5²/(.8 · .2) + ln .5²/(.6 · .4).
    half = Conduct(repeat=(1, 2), rest=(1, 2))
    assert at_random(half, PANEL) == pytest.approx(0.44629 + 0.04082, abs=1e-5)


@given(st.integers(0, 20), st.integers(0, 60))
def test_a_right_answer_never_speaks_for_chance(repeat, rest):
    before = Conduct(repeat=(repeat, 20), rest=(rest, 60))
    for more in (
        Conduct(repeat=(repeat + 1, 21), rest=(rest, 60)),
        Conduct(repeat=(repeat, 20), rest=(rest + 1, 61)),
    ):
        assert at_random(more, PANEL) < at_random(before, PANEL)


@pytest.mark.parametrize(
    ("name", "honest"),
    # A vote under a quarter of the reading time: who reads as in the bench, 120 ms a word and
    # log-normal with σ ½, gives it in Φ((ln 63 − ln 120)/½). The others are taken for granted.
    [("repeat", 0.8), ("skips", 0.05), ("skim", 0.099)],
)
def test_a_flag_meets_fewer_than_one_honest_panelist_in_a_hundred(name, honest):
    """Exactly, by the binomial distribution, after any number of answers up to eighty."""
    for n in range(1, 81):
        flags = [effort_flags(Conduct(**{name: (k, n)}), Conduct()) for k in range(n + 1)]
        met = [k for k, each in enumerate(flags) if name in codes(each)]
        assert binom.pmf(met, n, honest).sum() < 0.01, n


PANEL = Conduct(repeat=(80, 100), rest=(60, 100))
"""Of an honest simulated panel: with themselves and with the others."""


def past_of_skill(verdicts):
    """A history (P, R, N) of voters a, b, c, …"""
    verdicts = np.array(verdicts, dtype=np.int8)
    names = tuple("abcdefghijklmnopqrst"[: verdicts.shape[-3]])
    return History(names, np.arange(verdicts.shape[-2]), verdicts)


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
    return History(names, np.arange(rows), verdicts)


def test_nothing_known_and_equal_voters_weigh_one():
    nobody = weighting.add_voters(History.empty(4), ["b", "a", "c"])
    assert weighting.skill(nobody).weights == pytest.approx(np.ones(3), rel=1e-12)
    same = past_of_skill(np.tile(np.where(np.arange(30) % 3 > 0, PLUS, MINUS), (4, 1))[..., None])
    assert weighting.skill(same).weights == pytest.approx(np.ones(4), rel=1e-9)


@pytest.mark.parametrize("answered", ["all", "one"])
def test_no_side_no_order_of_voters_and_no_neighbour_matters(answered):
    rng = np.random.default_rng(1)
    sample = draw_history(np.exp(rng.normal(size=(3, 5))), 40, answered=answered)
    weights = weighting.skill(sample).weights

    def check(changed, expected):
        found = weighting.skill(replace(sample, **changed)).weights
        assert found == pytest.approx(expected, rel=1e-9)

    order = [3, 1, 4, 0, 2]
    check({"verdicts": sample.verdicts[:, order]}, weights[:, order])
    for every in (1, 2):  # all directions, or every other one, called the other way round
        flipped = sample.verdicts.copy()
        flipped[:, :, ::every] *= -1
        check({"verdicts": flipped}, weights)
    for i in range(3):
        check({"verdicts": sample.verdicts[i]}, weights[i])


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_negative_only_beyond_three_standard_errors_and_silence_is_not_redistributed(seed, rows):
    rng = np.random.default_rng(seed)
    verdicts = rng.choice(np.array([PLUS, MINUS, TIE, 0], dtype=np.int8), (5, rows, 2))
    found = weighting.skill(past_of_skill(verdicts))
    assert ((found.weights >= 0) | (found.z <= -HOSTILE_Z)).all()
    assert np.isfinite(found.weights).all()
    assert (found.weights**2).sum() == pytest.approx(np.abs(found.weights).sum())


def test_who_votes_against_the_others_is_turned_round_only_beyond_three_standard_errors():
    """Of twelve rows on which four agree a fifth has eleven the other way, z = −2.9, or twelve."""
    for against, low, high in ((11, 0.0, 0.0), (12, -1.0, -0.1)):
        verdicts = np.full((5, 12, 1), PLUS, dtype=np.int8)
        verdicts[4, :against] = MINUS
        weights = weighting.skill(past_of_skill(verdicts)).weights
        assert low <= weights[4] <= high and (weights[:4] > 0.99).all()


def coins_by_hand(net, count):
    """A voter's r from the others' views t = tanh(½ Σ 2 artanh(r) · net), in ten turns."""
    grid, coin, bar = np.linspace(-0.95, 0.95, 39), [0.4] * len(net), 0.4
    for _ in range(10):
        own = [2 * math.atanh(r) * votes for r, votes in zip(coin, net, strict=True)]
        seen = [np.tanh((sum(own) - each) / 2) for each in own]
        agreed = [votes @ t for votes, t in zip(net, seen, strict=True)]
        worth = [votes @ t**2 for votes, t in zip(count, seen, strict=True)]
        likely = [lambda r, a=a, w=w: np.exp(a * r - w * r * r / 2)
                  for a, w in zip(agreed, worth, strict=True)]  # fmt: skip
        same = [0.8 * f(bar) / (0.8 * f(bar) + 0.2 * f(grid).mean()) for f in likely]
        pooled = np.dot(same, agreed) + 0.4 * 8
        bar = min(max(pooled / (np.dot(same, worth) + 8), 0.05), 0.95)
        free = [f(grid) @ grid / f(grid).sum() for f in likely]
        coin = [min(max(p * bar + (1 - p) * r, -0.95), 0.95)
                for p, r in zip(same, free, strict=True)]  # fmt: skip
    return np.array(coin), np.array(agreed) / np.sqrt(worth)


def test_weights_are_the_log_odds_of_coins_as_the_model_says_of_the_latest_rows():
    """Scaled to Σw² = Σ|w|, and 0 where z is above −3 though the coin falls below 0."""
    rng = np.random.default_rng(8)
    verdicts = np.where(rng.random((5, 30, 2)) < 0.7, PLUS, MINUS).astype(np.int8)
    verdicts[3] = np.where(rng.random((30, 2)) < 0.3, PLUS, MINUS)
    verdicts[4] *= rng.choice(np.array([0, 1], np.int8), (30, 2), p=[0.6, 0.4])
    verdicts[:, ::7, 1] = TIE
    older = np.zeros((5, weighting.ROWS - 20, 2), np.int8)
    older[:, :10] = rng.choice(np.array([PLUS, MINUS], np.int8), (5, 10, 2))  # too old to count
    early = np.concatenate([older, verdicts], axis=1)
    net = (verdicts == PLUS).sum(-1).astype(float) - (verdicts == MINUS).sum(-1)
    coin, z = coins_by_hand(net, (np.abs(verdicts) == 1).sum(-1).astype(float))
    odds = 2 * np.arctanh(coin)
    odds[(odds < 0) & (z > -3)] = 0.0
    found = weighting.skill(past_of_skill(early))
    np.testing.assert_allclose(found.weights, odds * np.abs(odds).sum() / (odds**2).sum())
    np.testing.assert_allclose(found.z, z)
    assert found.weights[:3].min() > 0.5 and found.weights[3] <= 0
    # With a view of a model, t is its mean 2σ − 1 by the usual approximation, and stays.
    mean, root = rng.normal(size=(2, *early.shape[:2]))
    by_view = weighting.skill(past_of_skill(early), (mean, root**2))
    seen = np.tanh(mean / np.sqrt(1 + np.pi * root**2 / 8) / 2)[:, -30:]
    wanted = (net * seen).sum(-1) / np.sqrt(((np.abs(verdicts) == 1).sum(-1) * seen**2).sum(-1))
    np.testing.assert_allclose(by_view.z, wanted)


def test_a_history_keeps_the_latest_rows_and_no_vote_on_what_is_the_same():
    found = weighting.History.empty(1)
    for step in range(4):
        cast = make_votes([[[PLUS], [MINUS]]], [[step == 1], [False]])
        found = weighting.remember(found, step, replace(cast, voters=(f"v{step % 2}",)), rows=5)
    assert found.voters == ("v0", "v1") and found.steps.tolist() == [1, 2, 2, 3, 3]
    assert found.verdicts[..., 0].tolist() == [[0, PLUS, MINUS, 0, 0], [MINUS, 0, 0, PLUS, MINUS]]
    assert found.of([1]).verdicts.shape == (1, 5, 1) and found.of([1]).voters == ("v1",)


def test_the_table_of_voters_counts_votes_and_shows_the_weights_in_use(tmp_path):
    _, ledger, _ = start(tmp_path)
    assert agreement.voters(ledger) == ()
    ledger.close()
    run, ledger, policy = start(tmp_path, "voted.db", weighting="skill", M=2)
    seen = []
    go(run, ledger, policy, panel_of(ledger, 4), until_step=3, on_step=seen.append)
    rows = agreement.voters(ledger)
    assert [row.name for row in rows] == ["panel-0", "panel-1", "panel-2", "panel-3"]
    assert sum(row.votes for row in rows) == seen[-1].total_votes
    for row in rows:
        assert row.in_use == row.skill
    heads, lines = agreement.voter_table(rows)
    assert len(lines) == 4 and all(len(line) == len(heads) for line in lines)
    assert [line[1] for line in lines] == [row.votes for row in rows]


@pytest.mark.full
def test_a_hostile_voter_is_named_where_each_comparison_has_one_vote(tmp_path):
    """Nobody else votes on the same direction: the fit of the others' votes tells."""
    settings, ledger = named_run.start(tmp_path)
    panel = [*[named_run.FEWER_COMMAS] * 4, named_run.Likes(",")]
    evaluator = PanelEvaluator(VoteService(ledger), panel)
    go(settings, ledger, named_run.MarkedPolicy(settings), evaluator, until_step=22)
    *honest, hostile = agreement.voters(ledger)
    assert hostile.z < -HOSTILE_Z and min(row.z for row in honest) > 0
    assert hostile.skill < 0.5 and hostile.in_use == 1
    (line,) = agreement.voters_against([*honest, hostile], settings.section.weighting)
    assert line.startswith("panel-4 votes against what the others' votes say")
    assert line.endswith("optimizer.weighting = skill turns them round")


@pytest.mark.full
def test_the_command_lists_the_votes_of_every_voter(tmp_path, capsys):
    path = str(yard_run.finished(tmp_path))
    capsys.readouterr()
    assert call(["show", path, "--voters", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["votes"] for row in rows) == 24 and {row["in_use"] for row in rows} == {1.0}
    assert call(["show", path, "--voters"]) == 0
    assert "skill" in capsys.readouterr().out
