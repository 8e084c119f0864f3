"""The process that stays with a run: it goes on when it may, and fulfils orders exactly once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from szpo.cli.app import call
from szpo.data.prompts import PromptSet
from szpo.errors import LeaseError
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.replay import verification
from szpo.runs import budget, driver, status
from szpo.runs.budget import Limits
from szpo.voting import lease, pauses
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService
from szpo_ui import credentials
from tests.support import asking, yard_run
from tests.support.quadratic import (
    PROMPTS,
    Clock,
    QuadraticPolicy,
    go,
    history,
    panel_of,
    parts_of,
    start,
)

HELDOUT = PROMPTS[20:]
SHOWN = PromptSet(PROMPTS[:20], HELDOUT)


class Leave(BaseException):
    """Ends a process that would stay for ever."""


def life(ledger, policy, settings, act, *, until=2, votes=None, lag=1, said=None):
    """One life of the process; ``act`` is what happens between two looks at the ledger."""

    say = (said if said is not None else []).append
    with lease.hold(ledger) as held:
        desk = driver.LeaseHolder(ledger, parts_of(settings, policy, SHOWN), held, act, say)
        while True:
            outcome = go(
                settings, ledger, policy, LedgerEvaluator(VoteService(ledger)),
                until_step=until, votes_budget=votes, lag=lag, lease=held, wait=desk.do_one_turn,
            )  # fmt: skip
            desk.stand_by(outcome)


def vote(ledger):
    """The panel answers what is open; True if there was something."""
    asked = [row["step"] for row in ledger.steps() if row["state"] == "open"]
    for step in asked:
        panel_of(ledger).submit(ledger.comparisons(step))
    return bool(asked)


def leave_when_done(ledger):
    def act():
        if not vote(ledger):
            raise Leave

    return act


def test_it_stands_by_while_paused_and_goes_on_when_it_may(tmp_path):
    settings, ledger, policy = start(tmp_path)
    said, acts = [], []
    go(*start(tmp_path, "whole.db"), lag=1, until_step=2)

    def act():
        acts.append([row["state"] for row in ledger.steps()])
        if len(acts) == 1:
            pauses.pause(ledger, "ann", "lunch")
        elif len(acts) < 5:
            assert lease.controller(ledger)["lease"] is not None
            if len(acts) == 4:
                pauses.unpause(ledger, "ann")
        elif not vote(ledger):
            raise Leave

    with pytest.raises(Leave):
        life(ledger, policy, settings, act, said=said)
    assert acts[0] == acts[3] == ["open", "generating"]
    assert said[1:] == [  # after the word that nobody is enrolled yet
        'paused: ann: lunch; standing by until somebody presses "Resume" on the operator\'s page',
        "finished: 2 steps are applied; standing by",
    ]
    assert lease.controller(ledger)["lease"] is None  # given back on the way out
    with Ledger.open(tmp_path / "whole.db") as whole:
        assert history(ledger) == history(whole)


def test_it_stops_at_a_limit_and_goes_on_when_that_is_withdrawn(tmp_path):
    settings, ledger, policy = start(tmp_path)
    said, looks = [], []

    def act():
        looks.append(ledger.last_applied())
        if len(looks) == 1:
            budget.set_limits(ledger, "ann", Limits(votes=4))
        elif not vote(ledger):
            if ledger.last_applied() == 1:
                raise Leave
            budget.set_limits(ledger, "ann", Limits())

    with pytest.raises(Leave):
        life(ledger, policy, settings, act, said=said)
    assert [line.split(":")[0] for line in said[1:]] == ["stopped", "finished"]


def test_it_goes_on_when_votes_are_added_before_and_after_its_end(tmp_path):
    settings, ledger, policy = start(tmp_path)
    said, asked = [], iter([{"votes": 8}, {"votes": 12}])

    def act():
        if ledger.last_applied() in (None, 1) and (ends := next(asked, None)):
            ledger.record_event("budget", "ann", ends)
        if not vote(ledger) and ledger.last_applied() == 2:
            raise Leave

    with pytest.raises(Leave):
        life(ledger, policy, settings, act, until=None, votes=4, said=said)
    assert [line for line in said if "spent" in line] == [
        "finished: 8 of 8 votes spent, a step takes 4; standing by",
        "finished: 12 of 12 votes spent, a step takes 4; standing by",
    ]


def test_orders_are_fulfilled_while_people_vote_and_after_the_end(tmp_path):
    settings, ledger, policy = start(tmp_path)
    placed, done = [], []

    def act():
        done.append(len(orders.open_orders(ledger)))
        if not placed:
            placed.append(orders.place_order(ledger, "samples", "op", {"prompts": 2}))
        elif vote(ledger):
            return
        elif len(placed) == 1:
            placed.append(orders.place_order(ledger, "final", "op", {"comparisons": 3}))
        else:
            raise Leave

    with pytest.raises(Leave):
        life(ledger, policy, settings, act)
    assert set(done) == {0}
    first, second = orders.results(ledger)
    # The first was asked for while step 0 was open: the current policy was still the base.
    assert [c["step"] for c in first.result["columns"]] == [None, None]
    assert len(orders.comparisons(second)) == 3 and second.result["after"] == 1
    assert policy.digest() == theta_digest(ledger) and verification.verify(ledger).ok


@pytest.mark.full
def test_without_staying_orders_are_fulfilled_before_it_leaves(tmp_path):
    path = yard_run.finished(tmp_path)
    with Ledger.open(path) as ledger:
        orders.place_order(ledger, "samples", "op")
    assert call(["run", "--resume", str(path)]) == 0
    with Ledger.open(path) as ledger:
        (order,) = orders.orders(ledger, "samples")
        assert not orders.open_orders(ledger) and orders.get(ledger, order.id).error is None


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [("final", {}, "no step is applied yet"), ("samples", {"step": 7}, "0 steps are applied")],
)
def test_an_order_that_cannot_be_done_says_why_once(tmp_path, kind, body, says):
    settings, ledger, policy = start(tmp_path)
    orders.place_order(ledger, kind, "op", body)
    said = []
    source = parts_of(settings, policy, SHOWN)
    assert driver.fulfil(ledger, source, said.append) == 1
    assert driver.fulfil(ledger, source, said.append) == 0
    (order,) = orders.results(ledger)
    assert says in order.error and says in said[-1]


def test_an_engine_that_fails_an_order_does_not_end_the_run(tmp_path):
    settings, ledger, policy = start(tmp_path)
    orders.place_order(ledger, "samples", "op")

    def out_of_memory(*_, **__):
        raise MemoryError("no room")

    plain, policy.rollout = policy.rollout, out_of_memory
    driver.fulfil(ledger, parts_of(settings, policy, SHOWN), lambda _: None)
    assert orders.results(ledger)[0].error == "MemoryError: no room"
    policy.rollout = plain
    with pytest.raises(Leave):
        life(ledger, policy, settings, leave_when_done(ledger))
    assert ledger.last_applied() == 1


def test_two_processes_fulfil_an_order_once(tmp_path):
    settings, ledger, policy = start(tmp_path)
    go(settings, ledger, policy, until_step=1)
    orders.place_order(ledger, "final", "op", {"comparisons": 2})
    with Ledger.open(ledger.path, clock=Clock()) as other:
        rival = parts_of(settings, QuadraticPolicy(settings), SHOWN)
        rival.policy.theta_now = policy.theta_now
        plain = policy.rollout

        def overtaken(*arguments, **options):
            driver.fulfil(other, rival, lambda _: None)
            return plain(*arguments, **options)

        policy.rollout = overtaken
        driver.fulfil(ledger, parts_of(settings, policy, SHOWN), lambda _: None)
    assert ledger.query("SELECT count(*) AS n FROM comparisons WHERE kind = 'final'")[0]["n"] == 2
    assert len(list(ledger.events("done"))) == 1


def test_a_process_that_was_overtaken_leaves(tmp_path):
    settings, ledger, policy = start(tmp_path)
    pauses.pause(ledger, "ann", "lunch")

    def steal():
        with Ledger.open(ledger.path, clock=Clock(Clock().now + 10**12)) as other:
            lease.acquire(other, "thief:1:x")

    with pytest.raises(LeaseError):
        life(ledger, policy, settings, steal)


def test_a_panel_too_small_is_reported_once_and_never_hangs(tmp_path):
    settings, ledger, policy = start(tmp_path, M=3)
    said, looks = [], []

    def act():
        looks.append(1)
        if len(looks) == 4:
            for i in range(3):
                panel_of(ledger).service.enroll("simulated", f"panel-{i}")
        elif len(looks) > 5:
            raise Leave

    with pytest.raises(Leave):
        life(ledger, policy, settings, act, said=said)
    assert len(said) == 1
    assert "warning: step 0: 4 of 4 comparisons cannot get their 3 votes from the 0" in said[0]


def test_who_was_erased_is_not_waited_for(tmp_path):
    _, ledger, _ = start(tmp_path, M=2)
    asking.ask(ledger, n=1, m=2)
    for name in ("ann", "ben"):
        credentials.invite(ledger, "panelist", name)
    assert driver.explain_shortage(ledger) is None
    credentials.erase(ledger, "ben", "op")
    assert "2 votes from the 1 panelists" in driver.explain_shortage(ledger)
    credentials.invite(ledger, "panelist", "ben")  # is back
    assert driver.explain_shortage(ledger) is None


@contextmanager
def staying(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that stays; ended if the test did not end it."""
    command = [sys.executable, "-m", "szpo", *arguments, "--stay"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def until(child: subprocess.Popen[str], text: str) -> str:
    """Read what it says up to the line that holds the text."""
    for line in child.stderr:
        if text in line:
            return line.strip()
    raise AssertionError(f"it never said: {text}")


def test_it_stays_when_finished_and_fulfils_orders_until_a_signal(tmp_path):
    with staying(*yard_run.arguments(tmp_path, "run.name=yard")) as run:
        until(run, "finished: 24 of 24 votes spent, a step takes 8; standing by")
        with Ledger.open(tmp_path / "runs" / "yard.db") as ledger:
            number = orders.place_order(ledger, "final", "ann", {"comparisons": 2})
            assert (
                until(run, "order") == f"order {number} by ann: blind comparisons with the start"
            )
            orders.place_order(ledger, "samples", "ann")
            until(run, "sample answers")
            assert lease.controller(ledger)["lease"] is not None
            assert status.read_results(ledger).state == "finished", "though its process stands by"
        os.kill(run.pid, signal.SIGTERM)
        _, rest = run.communicate()
    assert run.returncode == 143, rest
    assert "Continue with: szpo serve" in rest.splitlines()[-1], "whoever stays does so for pages"
    with Ledger.open(tmp_path / "runs" / "yard.db") as ledger:
        first = orders.get(ledger, number)
        # The yard holds one place out, so a comparison has one row.
        assert first.error is None and len(orders.comparisons(first)) == 2
        assert lease.controller(ledger)["lease"] is None and verification.verify(ledger).ok
