import itertools
import math
from collections import Counter

import numpy as np
import pytest

from szpo.errors import IntegrityError, RunError, UsageError
from szpo.ledger.theta import theta_digest, theta_digests
from szpo.replay import replay, verification
from szpo.runs.guards import Bands
from szpo.runs.services import prompt_order
from szpo.types import Answer
from szpo.voting import counting, pauses, step_states
from tests.support.quadratic import (
    PROMPTS,
    WIDE,
    QuadraticPolicy,
    ValueJudge,
    go,
    panel_of,
    settings_of,
    start,
)


def test_a_policy_anywhere_on_the_way_is_brought_to_the_head(tmp_path):
    settings, ledger, policy = start(tmp_path, layout=WIDE, rule="sign", horizon=9.0, K=2)
    go(settings, ledger, policy)
    for until in (0, 2, 4):
        other = QuadraticPolicy(settings)
        other.theta_now = replay.fold(ledger, until)
        go(settings, ledger, other)
        assert other.digest() == theta_digest(ledger)
    other.theta_now = {name: value + 1 for name, value in other.theta_now.items()}
    with pytest.raises(IntegrityError, match="not those of this run at any step"):
        go(settings, ledger, other)


@pytest.mark.spine
def test_it_learns(tmp_path):
    settings, ledger, policy = start(tmp_path, N=8)
    go(settings, ledger, policy, until_step=30)
    assert np.abs(policy.theta()["z"] - 1).mean() < 0.75  # it began at 1


def test_lag_generates_from_the_head_before_the_last_step(tmp_path):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=5, lag=1)
    heads, rows = theta_digests(ledger), ledger.steps()
    assert [row["head_sha256"] for row in rows] == [heads[max(0, i - 1)] for i in range(6)]
    assert rows[5]["state"] == "generating" and step_states.stored(ledger, 5)
    settings, ledger0, policy = start(tmp_path, "lag0.db")
    go(settings, ledger0, policy, until_step=5)
    assert [row["head_sha256"] for row in ledger0.steps()] == theta_digests(ledger0)[:5]


def test_with_lag_people_vote_while_the_next_step_is_generated(tmp_path):
    settings, ledger, policy = start(tmp_path)
    states = []
    plain = policy.rollout

    def rollout(*arguments, **options):
        states.append([row["state"] for row in ledger.steps()][-2:])
        return plain(*arguments, **options)

    policy.rollout = rollout
    go(settings, ledger, policy, until_step=3, lag=1)
    assert states == [["generating"], *[["open", "generating"]] * 3]


def test_each_comparison_has_its_own_prompts_and_epochs_are_permutations():
    settings = settings_of(K=2, N=3, D=2)
    order = prompt_order(PROMPTS[:9], settings)
    stream = list(itertools.chain.from_iterable(order(step) for step in range(6)))
    assert len(stream) == 6 * 12
    epochs = [stream[i : i + 9] for i in range(0, 72, 9)]
    assert all(sorted(p.text for p in e) == sorted(p.text for p in PROMPTS[:9]) for e in epochs)
    assert len({tuple(p.text for p in e) for e in epochs}) > 4
    assert order(3) == prompt_order(PROMPTS[:9], settings)(3)
    with pytest.raises(UsageError, match="training set is empty"):
        prompt_order((), settings)


@pytest.mark.parametrize("pairing", ["antithetic", "forward"])
def test_both_sides_of_a_direction_answer_the_same_prompts(tmp_path, pairing):
    settings, ledger, policy = start(tmp_path, K=2, pairing=pairing)
    calls = []
    plain = policy.rollout

    def rollout(prompts, shifts, *, seed):
        calls.append((prompts, shifts, seed))
        return plain(prompts, shifts, seed=seed)

    policy.rollout = rollout
    go(settings, ledger, policy, until_step=2)
    assert len(calls) == 2 and calls[0][2] != calls[1][2]
    for prompts, shifts, seed in calls:
        assert 0 <= seed < 2**63
        assert [(s.k, s.sign) for s in shifts] == [
            (k, sign) for k in (0, 1) for sign in (1, -1 if pairing == "antithetic" else 0)
        ]
        assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
        assert len(prompts[0]) == settings.section.N * settings.section.D
    asked = [c.rows[0].prompt for c in ledger.comparisons(0)]
    assert asked == [calls[0][0][2 * c.k][c.n * settings.section.D] for c in ledger.comparisons(0)]


def test_limits_prompts_and_answers_that_make_no_sense_are_reported(tmp_path):
    settings, ledger, policy = start(tmp_path)
    with pytest.raises(UsageError, match="never end"):
        go(settings, ledger, policy, until_step=None)
    with pytest.raises(UsageError, match="lag is 2"):
        go(settings, ledger, policy, lag=2)
    with pytest.raises(UsageError, match="layout"):
        go(settings, ledger, QuadraticPolicy(settings_of(WIDE, rule="sign")))
    with pytest.raises(UsageError, match="3 prompts given, K·N·D = 8 are needed"):
        go(settings, ledger, policy, prompts=lambda step: PROMPTS[:3])
    policy.rollout = lambda prompts, shifts, *, seed: [(Answer("x"),)] * 2
    with pytest.raises(RunError, match=r"answered \[1, 1\] prompts, and was asked \[8, 8\]"):
        go(settings, ledger, policy)
    assert go(settings, ledger, QuadraticPolicy(settings)).steps == 4  # and it goes on


def test_the_vote_budget_is_never_passed(tmp_path):
    settings, ledger, policy = start(tmp_path, N=4, M=2)
    outcome = go(settings, ledger, policy, until_step=None, votes_budget=30)
    assert (outcome.status, outcome.steps, outcome.votes) == ("finished", 3, 24)
    assert "24 of 30 votes" in outcome.reason
    assert go(settings, ledger, policy, until_step=None, votes_budget=32).votes == 32


def test_a_step_of_identical_comparisons_closes_by_itself_and_costs_no_vote(tmp_path):
    settings, ledger, policy = start(tmp_path, rule="known", N=4)
    policy.dead = True
    reports = []
    go(settings, ledger, policy, until_step=2, on_step=reports.append)
    assert [r.closed_by for r in reports] == ["auto", "auto"]
    assert [(r.votes, r.automatic_ties, r.answers_read) for r in reports] == [(0, 4, 0)] * 2
    assert reports[0].identical == 1.0 and reports[0].moved == 0.0
    assert verification.verify(ledger).ok


def test_the_canary_stops_a_run_whose_sides_never_differ(tmp_path):
    settings, ledger, policy = start(tmp_path)
    policy.dead = True
    for _ in range(2):  # and again after a restart
        with pytest.raises(RunError, match="equal answers in every row") as caught:
            go(settings, ledger, policy)
        assert caught.value.exit_code == 1
    assert ledger.last_applied() == 1


def test_a_guard_pauses_and_says_why(tmp_path):
    settings, ledger, policy = start(tmp_path)
    bands = Bands(kl=(0, 1e-6))
    outcome = go(settings, ledger, policy, kl=lambda theta: theta["z"] @ theta["z"], bands=bands)
    assert outcome.status == "paused" and outcome.steps == 1
    assert "guard kl" in outcome.reason and "outside 0 … 1e-06" in outcome.reason
    assert go(settings, ledger, policy).status == "paused"  # until a person lets it go on
    pauses.unpause(ledger, "ann")
    assert go(settings, ledger, policy).status == "finished"
    with pytest.raises(UsageError, match="band length"):
        Bands(length=(3, 2))


def test_an_estimate_that_is_not_finite_moves_nothing(tmp_path, monkeypatch):
    settings, ledger, policy = start(tmp_path, rule="known")
    go(settings, ledger, policy, until_step=1)
    before = theta_digest(ledger)
    tally = counting.tally

    def poisoned(ledger, step, *more):
        found = tally(ledger, step, *more)
        if step == 1:
            found.plus[0, 0] = math.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(counting, "tally", poisoned)
        with pytest.raises(RunError, match="step 1"):
            go(settings, ledger, policy)
    assert theta_digest(ledger) == policy.digest() == before
    assert ledger.step(1)["state"] == "closed"
    assert go(settings, ledger, policy).steps == 4


def test_a_policy_that_moves_by_itself_is_found(tmp_path):
    settings, ledger, policy = start(tmp_path)
    plain = policy.rollout

    def drifting(*arguments, **options):
        policy.theta_now = {"z": policy.theta_now["z"] + np.float32(1e-6)}  # by subtracting
        return plain(*arguments, **options)

    policy.rollout = drifting
    with pytest.raises(IntegrityError, match="rebuild the policy"):
        go(settings, ledger, policy)
    assert go(settings, ledger, QuadraticPolicy(settings)).steps == 4

    class Deaf(QuadraticPolicy):
        def apply(self, update):
            pass

    settings, ledger, _ = start(tmp_path, "deaf.db")
    with pytest.raises(IntegrityError, match="after step 0"):
        go(settings, ledger, Deaf(settings))
    assert ledger.last_applied() == 0  # the ledger is right; a sound policy goes on
    assert go(settings, ledger, QuadraticPolicy(settings)).steps == 4


def test_a_report_holds_what_every_step_owes(tmp_path):
    settings, ledger, policy = start(tmp_path, rule="known", M=2, D=3)
    reports, ticks = [], itertools.count()
    panel = panel_of(ledger, 9, ValueJudge(skips=0.3, ties=0.2))
    how = {"kl": lambda theta: 0.25, "timer": lambda: float(next(ticks))}
    go(settings, ledger, policy, panel, on_step=reports.append, **how)
    for number, report in enumerate(reports):
        rows = [row for row in ledger.update_rows() if row["step"] == number]
        assert report.theta_sha256 == rows[0]["theta_sha256"]
        assert report.delta == (rows[0]["estimate"],) and report.stderr == (rows[0]["stderr"],)
        assert report.votes == 8 == rows[0]["n_votes"]
        standing = counting.StepVotes(ledger, number).standing
        assert report.skips == len(standing) - 8
        assert report.answers_read == len(standing) * 2 * 3
        assert report.total_votes == 8 * (number + 1)
        assert report.words_read == 2 * report.answers_read
        assert report.kl == 0.25 and report.length == 2.0 and report.identical == 0.0
        sides = Counter(vote.verdict for vote in counting.counted(ledger, number))
        found = [sides[name] for name in ("plus", "minus", "tie")]
        assert found == [report.plus, report.minus, report.ties]
        assert set(report.seconds) == {"generation_s", "evaluation_s", "other_s"}
        assert report.seconds["generation_s"] == 1.0  # one tick of the injected timer
    flat = policy.theta()["z"].astype(float)
    assert reports[-1].norm == pytest.approx(np.linalg.norm(flat))
    assert any(report.skips for report in reports) and any(report.ties for report in reports)
    bodies = [event["body"] for event in ledger.events("step")]
    assert [body["step"] for body in bodies] == [0, 1, 2, 3]
    assert [body["total_votes"] for body in bodies] == [8, 16, 24, 32]
    assert all(body["length"] == 2.0 and body["tokens"] == 48.0 for body in bodies)
