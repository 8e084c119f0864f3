"""How people halt a run: pause now or after the step, deadlines, and limits on what it spends."""

import math

import pytest

from szpo.config.tables import Guards
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import budget, guards
from szpo.runs.budget import Limits
from szpo.voting import counting, lease, pauses
from szpo.voting.panel_evaluator import LedgerEvaluator, OpenComparisons
from szpo.voting.service import VoteService
from tests.support.quadratic import Clock, QuadraticPolicy, go, history, panel_of, start


class Slow:
    """A panel that votes when the run waits, and acts before each of its waits."""

    def __init__(self, ledger, *acts):
        self.ledger, self.acts, self.panel = ledger, list(acts), panel_of(ledger)
        self.evaluator = LedgerEvaluator(VoteService(ledger))

    def wait(self):
        if self.acts:
            self.acts.pop(0)()
            return
        for row in self.ledger.steps():
            if row["state"] == "open":
                self.panel.submit(self.ledger.comparisons(row["step"]))


def states(ledger):
    return [row["state"] for row in ledger.steps()]


@pytest.fixture
def unbroken(tmp_path):
    settings, ledger, policy = start(tmp_path, "unbroken.db")
    go(settings, ledger, policy, lag=1)
    yield history(ledger)
    ledger.close()


def reopened(ledger, settings):
    """The same file and weights as another process finds them."""
    ledger.close()
    return Ledger.open(ledger.path, clock=Clock()), QuadraticPolicy(settings)


@pytest.mark.parametrize("lag", [0, 1])
def test_pause_now_keeps_the_open_step_and_its_votes(tmp_path, lag, unbroken):
    settings, ledger, policy = start(tmp_path)
    people = Slow(ledger)

    def half():
        people.panel.submit(ledger.comparisons(0)[:2])
        pauses.pause(ledger, "ann", "lunch")

    people.acts = [half]
    outcome = go(settings, ledger, policy, people.evaluator, wait=people.wait, lag=lag)
    assert (outcome.status, outcome.reason, outcome.steps) == ("paused", "ann: lunch", 0)
    assert states(ledger)[0] == "open" and len(counting.counted(ledger, 0)) == 2
    ledger, policy = reopened(ledger, settings)
    # Votes may still arrive while it is paused; nothing is closed on them.
    panel_of(ledger).submit(ledger.comparisons(0))
    assert go(settings, ledger, policy, lag=lag).status == "paused"
    assert states(ledger)[0] == "open" and policy.rollouts == 0
    pauses.unpause(ledger, "ann")
    assert go(settings, ledger, policy, lag=lag).steps == 4
    if lag:
        assert history(ledger) == unbroken
    assert verification.verify(ledger).ok


@pytest.mark.parametrize("lag", [0, 1])
def test_pause_after_a_step_applies_it_and_opens_no_other(tmp_path, lag, unbroken):
    settings, ledger, policy = start(tmp_path)
    people = Slow(ledger, lambda: None)
    people.acts = [lambda: pauses.pause(ledger, "ann", "evening", now=False)]
    outcome = go(settings, ledger, policy, people.evaluator, wait=people.wait, lag=lag)
    assert (outcome.status, outcome.reason, outcome.steps) == ("paused", "ann: evening", 1)
    assert "open" not in states(ledger)
    ledger, policy = reopened(ledger, settings)
    assert go(settings, ledger, policy, lag=lag).status == "paused"
    pauses.unpause(ledger, "ann")
    assert go(settings, ledger, policy, lag=lag).steps == 4
    if lag:
        assert history(ledger) == unbroken


def test_a_pause_after_the_step_outlives_a_kill_and_can_be_withdrawn(tmp_path):
    settings, ledger, policy = start(tmp_path)

    def killed():
        pauses.pause(ledger, "ann", "evening", now=False)
        raise KeyboardInterrupt

    people = Slow(ledger, killed)
    with pytest.raises(KeyboardInterrupt):
        go(settings, ledger, policy, people.evaluator, wait=people.wait)
    assert pauses.find_pending_pause(ledger) == ("ann", "evening", 0)
    assert lease.controller(ledger)["paused_by"] is None  # people go on voting
    ledger, policy = reopened(ledger, settings)
    pauses.unpause(ledger, "ann")
    assert pauses.find_pending_pause(ledger) is None
    pauses.pause(ledger, "ann", "after all", now=False)
    assert go(settings, ledger, policy).steps == 1


def test_while_a_run_is_paused_nobody_is_seated_and_neither_seats_nor_the_deadline_run(tmp_path):
    settings, ledger, policy = start(tmp_path)
    service, hour, held = VoteService(ledger), 3_600_000_000, []
    ann, ben = (service.enroll("person", name) for name in ("ann", "ben"))

    def pause():
        held.append(service.assign(ann, tab="one"))
        pauses.pause(ledger, "op", "lunch")

    people = Slow(ledger, pause)
    go(settings, ledger, policy, people.evaluator, wait=people.wait, deadline_s=1800)
    (seat,) = held
    left = seat.expires_us - ledger.clock()
    assert service.assign(ben, tab="two") is None and service.assign(ann, tab="two") is None
    assert OpenComparisons(ledger).lacking() == []
    ledger.clock.now += 5 * hour
    service.extend(seat.id)  # a client that knows of no pause
    assert service.assignment(seat.id) == seat  # as it was, for the tab that reads it
    pauses.unpause(ledger, "op")
    again = service.assignment(seat.id)
    assert abs(again.expires_us - ledger.clock() - left) < 1_000_000
    assert service.assign_to(seat.comparison, ben) is None  # it is still ann's
    pauses.pause(ledger, "op", "lunch")
    service.cast(seat.id, "A", idem="0123456789abcdef", tab="one")  # it is kept
    pauses.unpause(ledger, "op")
    assert service.assign(ben, tab="two") is not None and OpenComparisons(ledger).lacking()
    waits = []

    def ten_minutes():
        waits.append(1)
        ledger.clock.now += hour // 6

    go(
        settings, ledger, policy, people.evaluator, wait=ten_minutes, until_step=1,
        deadline_s=1800, timer=ledger.clock.seconds,
    )  # fmt: skip
    assert len(waits) == 3 and ledger.step(0)["closed_by"] == "deadline"


@pytest.mark.parametrize("days", [8, -8])
def test_a_clock_that_is_set_moves_no_deadline(tmp_path, days):
    settings, ledger, policy = start(tmp_path)
    service, passed = VoteService(ledger), [0]

    def one_day():
        passed[0] += 1
        ledger.clock.now += 86_400_000_000
        if passed[0] == 1:
            ledger.clock.now += days * 86_400_000_000

    go(
        settings, ledger, policy, LedgerEvaluator(service), until_step=1, wait=one_day,
        deadline_s=7 * 86_400, timer=lambda: passed[0] * 86_400.0,
    )  # fmt: skip
    assert passed == [7] and ledger.step(0)["closed_by"] == "deadline"


@pytest.mark.parametrize(
    ("limits", "done", "says"),
    [
        (Limits(step=2), 2, "before step 2"),
        (Limits(votes=11), 2, "at 11 votes: 8 are spent, a step takes 4"),
        (Limits(at_us=1_700_000_000_000_000), 0, "at 2023-11-14 22:13 UTC"),
        # Sixteen answers of two words are 32/238 of a minute.
        (Limits(person_hours=0.004), 2, "person-hours: reading took 0.00"),
    ],
)
def test_limits_stop_a_run_before_the_step_that_would_pass_them(tmp_path, limits, done, says):
    settings, ledger, policy = start(tmp_path)
    budget.set_limits(ledger, "ann", limits)
    assert budget.read_limits(ledger) == limits
    outcome = go(settings, ledger, policy)
    assert outcome.status == "stopped" and outcome.steps == done and says in outcome.reason
    budget.set_limits(ledger, "ann", Limits())
    assert go(settings, ledger, policy).status == "finished"
    assert verification.verify(ledger).ok


def test_a_limit_set_while_people_vote_lets_the_step_be_finished(tmp_path):
    settings, ledger, policy = start(tmp_path)
    people = Slow(ledger, lambda: budget.set_limits(ledger, "ann", Limits(votes=0)))
    outcome = go(settings, ledger, policy, people.evaluator, wait=people.wait, lag=1)
    assert (outcome.status, outcome.steps, outcome.votes) == ("stopped", 1, 4)
    assert states(ledger) == ["applied", "generating"]


def test_limits_that_are_no_limits_are_refused():
    for bad in ({"votes": -1}, {"person_hours": float("nan")}):
        with pytest.raises(UsageError, match="at least 0"):
            Limits(**bad)


def test_guards_of_the_settings_are_bands_with_both_ends():
    found = guards.bands(Guards(kl=2.0, length=[3, 50], repetition=0.5))
    assert found.kl == (-math.inf, 2.0)
    assert (found.length, found.repetition) == ((3, 50), (0, 0.5))
    assert guards.bands(Guards(length=[0, 50])).outside({"length": 51.0}) == ("length",)
