"""What others may do while a controller drives: close, answer, resume with another lag."""

import threading
from dataclasses import replace

import pytest

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs.guards import Bands
from szpo.runs.services import prompt_order
from szpo.types import Prompt
from szpo.voting import lease, step_states
from szpo.voting.panel_evaluator import LedgerEvaluator, PanelEvaluator
from szpo.voting.service import VoteService
from tests.support.crashing import Crash
from tests.support.quadratic import (
    Clock,
    QuadraticPolicy,
    ValueJudge,
    go,
    history,
    panel_of,
    start,
)


class Closing(ValueJudge):
    """Thinks about its second answer until somebody has closed the step; may skip every time."""

    def __init__(self, ledger, skips=0.0):
        super().__init__(skips=skips)
        self.ledger, self.left = ledger, 2

    def judge(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            step_states.close(self.ledger, 0, "operator", reason="enough", actor="ann")
        return super().judge(*arguments, **options)


def test_a_step_closed_while_judges_think_is_no_error(tmp_path):
    settings, ledger, policy = start(tmp_path)
    judge = Closing(ledger)
    outcome = go(settings, ledger, policy, panel_of(ledger, judge=judge))
    assert outcome.steps == 4
    assert [row["closed_by"] for row in ledger.steps()] == ["operator", "rule", "rule", "rule"]
    assert {row["late"] for row in ledger.votes(0)} == {1}
    assert verification.verify(ledger).ok


def test_nobody_is_seated_at_a_step_that_has_closed(tmp_path):
    settings, ledger, policy = start(tmp_path)
    judge = Closing(ledger, skips=1.0)
    go(settings, ledger, policy, panel_of(ledger, judge=judge), until_step=1)
    assert len(ledger.votes(0)) == settings.section.N  # one round, none after the close
    panel_of(ledger).submit(ledger.comparisons(0))
    assert len(ledger.votes(0)) == settings.section.N
    with pytest.raises(UsageError, match="step 7 does not exist"):
        panel_of(ledger).submit([replace(ledger.comparisons(0)[0], step=7)])


def test_a_warm_up_counts_all_its_votes(tmp_path):
    settings, ledger, policy = start(tmp_path, rule="known", K=2, warmup=2)
    reports = []
    go(settings, ledger, policy, on_step=reports.append)
    per_step = settings.section.K * settings.section.N
    totals = ledger.query("SELECT sum(n_votes) AS n FROM updates GROUP BY step ORDER BY step")
    assert [row["n"] for row in totals] == [per_step] * 4
    again = go(settings, ledger, QuadraticPolicy(settings))
    assert again.votes == reports[-1].total_votes == 4 * per_step
    assert verification.verify(ledger).ok


def test_a_guards_pause_survives_a_kill_right_after_the_step(tmp_path):
    settings, ledger, policy = start(tmp_path)

    def kill(update):
        raise Crash

    policy.apply = kill
    with pytest.raises(Crash):
        go(settings, ledger, policy, bands=Bands(norm=(0, 1e-9)))
    assert ledger.last_applied() == 0
    outcome = go(settings, ledger, QuadraticPolicy(settings), bands=Bands(norm=(0, 1e-9)))
    assert outcome.status == "paused" and "guard norm" in outcome.reason


def test_a_part_of_a_step_may_be_asked_while_others_have_answers(tmp_path):
    settings, ledger, policy = start(tmp_path, M=2)
    service = VoteService(ledger)
    panel = PanelEvaluator(service, [ValueJudge()] * 3)
    parts = []

    def in_parts():
        asked = ledger.comparisons(len(parts) // 2)
        half = asked[:2] if len(parts) % 2 == 0 else asked[2:]
        parts.append(half)
        panel.submit(half)

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=2, wait=in_parts)
    assert len(parts) == 4
    settings, whole, policy = start(tmp_path, "whole.db", M=2)
    go(settings, whole, policy, panel_of(whole, 3), until_step=2)
    assert history(ledger) == history(whole)


def test_halves_of_surrogate_pairs_in_a_prompt_are_stored_as_they_are_hashed(tmp_path):
    settings, ledger, policy = start(tmp_path)
    pool = [Prompt.user(f"Why \ud83d {i}?", system="be \udc00") for i in range(8)]
    seen = []
    plain = policy.rollout

    def rollout(prompts, shifts, *, seed):
        seen.extend(prompts[0])
        return plain(prompts, shifts, seed=seed)

    policy.rollout = rollout
    go(settings, ledger, policy, prompts=prompt_order(pool, settings), until_step=1)
    assert {prompt.turns[0][1] for prompt in seen} == {"be ?"}  # the model reads what is stored
    report = verification.verify(ledger)
    assert report.ok, str(report)


def test_the_details_of_a_vote_are_hashed_as_they_are_stored(tmp_path):
    settings, ledger, policy = start(tmp_path)
    service = VoteService(ledger)

    def vote():
        seat = service.assign(service.enroll("person", "ann"))
        more = {"skip_reason": "un\ud83dclear", "details": {"note": "\ud83d"}}
        service.cast(seat.id, "skip", idem=seat.id, dwell_ms=4000, **more)
        panel_of(ledger).submit(ledger.comparisons(0))

    go(settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=vote)
    report = verification.verify(ledger)
    assert report.ok, str(report)


def test_a_long_rollout_keeps_its_lease(tmp_path, monkeypatch):
    """The rollout waits until its lease has been renewed; the clock is not looked at."""
    settings, ledger, policy = start(tmp_path)
    renewed, plain, rollout = threading.Event(), lease.renew, policy.rollout

    def renew(*arguments):
        plain(*arguments)
        renewed.set()

    monkeypatch.setattr(lease, "renew", renew)
    seen = []

    def slow(*arguments, **options):
        seen.append(renewed.wait(60))
        return rollout(*arguments, **options)

    policy.rollout = slow
    with lease.hold(ledger, ttl_us=10_000) as held:
        go(settings, ledger, policy, until_step=1, lease=held)
    assert seen == [True]
    assert lease.controller(ledger)["lease"] is None
    assert not any(thread.name == "szpo-lease" for thread in threading.enumerate())


def test_keeping_a_lease_ends_when_another_controller_has_it(tmp_path, monkeypatch):
    _, ledger, _ = start(tmp_path)
    held = lease.acquire(ledger, "one:1:x", ttl_us=3000)
    with Ledger.open(ledger.path, clock=Clock(Clock().now + 10**9)) as other:
        taken = lease.acquire(other, "two:1:x")
        ended = threading.Event()
        plain = lease.check

        def check(*arguments):
            try:
                plain(*arguments)
            finally:
                ended.set()

        monkeypatch.setattr(lease, "check", check)
        with lease.renewing(ledger, held):
            assert ended.wait(60)
        assert lease.controller(ledger)["lease"] == taken.holder
