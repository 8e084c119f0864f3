"""With lag, the same votes give the same run, whenever they arrive and whoever is killed."""

import contextlib
import functools
import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService
from tests.support.crashing import Crash
from tests.support.quadratic import (
    Clock,
    QuadraticPolicy,
    ValueJudge,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)

STEPS, N = 4, 3
SETTINGS = settings_of(N=N, D=1, M=2, root_seed=5)
MOMENTS = ("open", "generating", "generated", "waiting", "killed")
"""When a vote comes: as its step opens, while the next one is made, as that is stored, later, or
while nobody drives the run."""


class TextJudge(ValueJudge):
    """Its choice hangs on every letter, so that other answers soon make another run."""

    def judge(self, comparison, *, panelist, plus_side, key):
        if super().judge(comparison, panelist=panelist, plus_side=plus_side, key=key) == "skip":
            return "skip"
        read = "".join(row.plus.text + row.minus.text for row in comparison.rows)
        plus = hashlib.sha256(read.encode()).digest()[0] % 2 == 0
        return "A" if plus == (plus_side == "A") else "B"


class People:
    """Votes on each comparison at its moment, through a connection of their own."""

    def __init__(self, path, moments):
        self.ledger = opened(path)
        self.moments = moments

    def at(self, *moments):
        """Cast what is due at these moments; an earlier moment that was missed counts too."""
        reached = {MOMENTS.index(moment) for moment in moments}
        for row in self.ledger.steps():
            if row["state"] == "open":
                due = [
                    c
                    for c in self.ledger.comparisons(row["step"])
                    if MOMENTS.index(self.moments[row["step"] * N + c.n]) <= max(reached)
                ]
                panel_of(self.ledger, judge=TextJudge(skips=0.3)).submit(due)


class Hooked(LedgerEvaluator):
    def __init__(self, service, act):
        super().__init__(service)
        self.act = act

    def submit(self, comparisons):
        self.act("open")


class HookedPolicy(QuadraticPolicy):
    def __init__(self, act):
        super().__init__(SETTINGS)
        self.act = act

    def rollout(self, *arguments, **options):
        self.act("generating")
        found = super().rollout(*arguments, **options)
        self.act("generated")
        return found


def opened(path):
    return Ledger.open(path, clock=Clock())


@functools.cache
def fresh():
    """The bytes of a run that has not begun."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        new_ledger(path, SETTINGS).close()
        return path.read_bytes()


@contextlib.contextmanager
def new_run():
    """The file of a run that has not begun."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        path.write_bytes(fresh())
        yield path


def live(path, people, lag, kill_at):
    """Drive to the end, or to the ``kill_at``-th moment; True if it came to the end."""
    passed = []

    def act(moment):
        people.at(moment)
        passed.append(moment)
        if len(passed) == kill_at:
            raise Crash

    ledger = opened(path)
    ledger.execute("UPDATE controller SET lease = NULL, expires_us = NULL")
    try:
        go(
            SETTINGS, ledger, HookedPolicy(act), Hooked(VoteService(ledger), act),
            until_step=STEPS, lag=lag, wait=lambda: act("waiting"),
        )  # fmt: skip
        return True
    except Crash:
        return False
    finally:
        ledger.close()


@functools.cache
def expected(switch=STEPS):
    """The run with all votes at once: lag 1 up to the step ``switch``, then none."""
    with new_run() as path:
        ledger, policy = opened(path), QuadraticPolicy(SETTINGS)
        for until, lag in ((switch, 1), (STEPS, 0)):
            panel = panel_of(ledger, judge=TextJudge(skips=0.3))
            go(SETTINGS, ledger, policy, panel, until_step=until, lag=lag)
        found = history(ledger)
        ledger.close()
        return found


moments = st.lists(st.sampled_from(MOMENTS[:4]), min_size=STEPS * N, max_size=STEPS * N)


@pytest.mark.full
@given(moments=moments, kills=st.lists(st.integers(1, 8), max_size=3))
def test_the_same_votes_give_the_same_run_whatever_the_timing(moments, kills):
    with new_run() as path:
        people = People(path, moments)
        for at in kills:
            if live(path, people, 1, at):
                break
            people.at("killed")
        assert live(path, people, 1, None), "nobody ends this life"
        assert verification.verify(people.ledger).ok
        opened_first = [row["step"] for row in people.ledger.steps()]
        assert opened_first == list(range(len(opened_first)))
        assert history(people.ledger) == expected()
        people.ledger.close()


@pytest.mark.full
def test_lag_does_change_the_run():
    runs = [expected(switch) for switch in range(STEPS)]
    assert len(set(map(tuple, runs))) == STEPS  # else the other tests would say little
    assert expected(STEPS) == expected(STEPS - 1)  # the last step's successor is never voted on


@pytest.mark.full
@given(moments=moments, kill_at=st.integers(1, 12))
def test_without_lag_it_goes_on_from_what_lag_had_planned(moments, kill_at):
    """Which step opened last under lag decides, not how far its successor had come."""
    with new_run() as path:
        people = People(path, moments)
        if live(path, people, 1, kill_at):
            return
        rows = people.ledger.steps()
        begun = [row["step"] for row in rows if row["opened_us"] is not None]
        people.at("waiting")
        assert live(path, people, 0, None)
        found = history(people.ledger)
        people.ledger.close()
    # Before the first opening nothing was planned ahead: that run knows no lag.
    assert found == expected(begun[-1] + 1 if begun else 0)
