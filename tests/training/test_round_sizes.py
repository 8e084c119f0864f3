"""A round has a sheet for each panelist who is present; the record says how large it is."""

import numpy as np
import pytest

from szpo.replay import replay, verification
from szpo.runs import budget
from szpo.types import Comparison
from szpo.voting import seats, withdrawals
from tests.support import named_run
from tests.support.asking import ROW
from tests.support.named_run import MarkedPolicy
from tests.support.quadratic import go, open_step, panel_of, prompts_of
from tests.support.tampering import failure_of, forge

SHEET = 6
PEOPLE = [2, 3, 0, 20]
"""How many persons are present in each round; the last number also holds afterwards."""


def start(folder, name="run.db", **changes):
    plain = {"D": 1, "asking_noise": None, "features": named_run.with_names()}
    return named_run.start(folder, name, **{**plain, **changes})


def come(ledger, count):
    """So many persons begin a session now; all others are gone."""
    ledger.execute("UPDATE credentials SET revoked_us = 1")
    now = ledger.clock()
    for number in range(count):
        who, name = (seats.enroll(ledger, "person", f"p{number}", now), f"session:{now}-{number}")
        row = (name, who, "panelist", name, now, None, None)
        ledger.execute("INSERT INTO credentials VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def drive(settings, ledger, votes=60):
    """A run of so many votes with lag 1, each round voted on while `PEOPLE` are there."""

    def arrive(report=None):
        come(ledger, PEOPLE[min(0 if report is None else report.step + 1, len(PEOPLE) - 1)])

    panel = panel_of(ledger, judge=named_run.Likes())
    submit = panel.submit

    def submit_first(comparisons):
        submit(comparisons)
        panel.submit = submit
        arrive()

    panel.submit = submit_first
    go(settings, ledger, MarkedPolicy(settings), panel, on_step=arrive,
       until_step=None, votes_budget=votes, sheet=SHEET, lag=1)  # fmt: skip


@pytest.mark.full
def test_rounds_follow_the_panel_and_replay_sees_what_was_recorded(tmp_path):
    settings, ledger = start(tmp_path, weighting="skill")  # learns from rounds of all sizes
    with ledger:
        drive(settings, ledger)
        # Of K = 4 rows each: nobody was there yet, then 2, 3 and 0 persons, then what is left.
        assert [row["n"] for row in ledger.steps()] == [1, 3, 5, 1, 5, 1]
        assert ledger.steps()[-1]["state"] == "generating"  # prepared, and never opened
        asked = [c.rows[0].prompt for step in range(5) for c in ledger.comparisons(step)]
        order = prompts_of(settings)
        assert asked == [prompt for number in range(15) for prompt in order(number)]
        state = replay.replay_state(ledger, settings)
        assert state.votes == len(state.carried.votes.up) == 60
        assert verification.verify(ledger).ok
    forge(ledger.path, "UPDATE steps SET n = 2 WHERE step = 3")
    assert failure_of(ledger.path).table == "steps"


@pytest.mark.spine
def test_withdrawn_votes_are_taken_out_of_rounds_of_all_sizes(tmp_path):
    settings, ledger = start(tmp_path)
    with ledger:
        drive(settings, ledger, 28)
        assert [row["n"] for row in ledger.steps()][:3] == [1, 3, 3]
        withdrawals.withdraw(ledger, "operator", "panel-1", settings)
        state = replay.replay_state(ledger, settings)
        votes, left = state.carried.votes, withdrawals.votes_left(ledger, settings, state).votes
        others = [row["panelist"] for row in ledger.query(
            "SELECT panelist FROM panelists WHERE pseudonym <> 'panel-1'")]  # fmt: skip
        *_, (alone, _) = replay.retell(ledger, settings, voters=others)
        for side in ("up", "down", "plus_on_a"):
            found = getattr(left, side)
            np.testing.assert_array_equal(found, getattr(alone.carried.votes, side))
        assert 0 < (left.up + left.down).sum() < (votes.up + votes.down).sum()


def test_a_round_has_at_most_eight_sheets_and_no_more_rows_than_votes_are_left(tmp_path):
    settings, ledger = start(tmp_path, M=2)
    with ledger:
        come(ledger, 20)

        def size(most, votes=0, sheet=SHEET):
            return budget.comparisons_of_round(ledger, settings, sheet, most, votes)

        assert size(1000) == 8 * SHEET // (4 * 2)
        assert size(60, 20) == 5 and size(60, 59) == 1
        assert (
            size(None) == size(1000, sheet=None) == 1
        )  # it ends by rounds; its panel is no person
        come(ledger, 3)
        assert size(1000) == 3
        come(ledger, 20)
        open_step(ledger, settings, [Comparison(f"c{k}", 0, k, 0, (ROW,)) for k in range(4)])
        assert size(60, 20) == 4  # the open round's eight votes are on their way
        ledger.clock.now += seats.PRESENT_US
        assert size(1000) == 1


class CallsSomeTheSame(named_run.Likes):
    def judge(self, comparison, **seat):
        same = int(comparison.id[:2], 16) % 3 == 0
        return "tie" if same else super().judge(comparison, **seat)


def test_a_row_from_which_a_vote_is_withdrawn_counts_same_as_every_row_does(tmp_path):
    settings, ledger = start(tmp_path, M=2)
    with ledger:
        panel = panel_of(ledger, judge=CallsSomeTheSame())
        go(settings, ledger, MarkedPolicy(settings), panel, until_step=4)
        withdrawals.withdraw(ledger, "operator", "panel-1", settings)
        state = replay.replay_state(ledger, settings)
        record = withdrawals.votes_left(ledger, settings, state)
        left = record.votes
        one = [sum(row[1:3]) for row in record.withdrawn]  # votes of whoever else judged the row
        assert set(one) == {0.0, 1.0}, "same counts nothing where rows are fitted on texts"
        others = [row["panelist"] for row in ledger.query(
            "SELECT panelist FROM panelists WHERE pseudonym <> 'panel-1'")]  # fmt: skip
        *_, (alone, _) = replay.retell(ledger, settings, voters=others)
        np.testing.assert_array_equal(left.up, alone.carried.votes.up)
        np.testing.assert_array_equal(left.down, alone.carried.votes.down)
