"""Totals of a run cost what is new: a limit re-reads no old step, and agreement pairs no votes."""

import itertools

import pytest

from szpo.ledger.database import Ledger
from szpo.training import budget, status, summary
from szpo.training.budget import Limits
from szpo.types import Vote
from tests.support.quadratic import ValueJudge, go, panel_of, start

STEPS = 24


def work_by_step(tmp_path, name, limits, **changes):
    """SQLite's instructions for each step of a run, and its ledger's path."""
    settings, ledger, policy = start(tmp_path, name, rule="known", **changes)
    budget.set_limits(ledger, "ann", limits)
    done, found = [0], []

    def worked():
        done[0] += 1

    def on_step(_):
        found.append(done[0])
        done[0] = 0

    panel = panel_of(ledger, judge=ValueJudge(skips=0.1))
    ledger._conn.set_progress_handler(worked, 1)
    go(settings, ledger, policy, panel, until_step=STEPS, on_step=on_step)
    ledger._conn.set_progress_handler(None, 1)
    ledger.close()
    return found


@pytest.mark.full
def test_a_limit_of_hours_costs_a_late_step_no_more_than_an_early_one(tmp_path):
    free = work_by_step(tmp_path, "free.db", Limits())
    held = work_by_step(tmp_path, "held.db", Limits(person_hours=1e6))
    cost = [after - before for after, before in zip(held, free, strict=True)]
    early, late = cost[4:8], cost[-4:]
    assert sum(late) < 1.5 * sum(early)
    with Ledger.open(tmp_path / "held.db") as ledger:
        read = sum(fact.words_read for fact in summary.steps(ledger))
        hours = read / summary.WORDS_PER_MINUTE / 60
        assert read and budget.person_hours(ledger) == hours == budget.Reading().hours(ledger)
        budget.set_limits(ledger, "ann", Limits(person_hours=hours / 2))
        assert status.round_status(ledger).paused_by == "limit"


def test_what_was_read_is_added_up_while_steps_open_close_and_fall_out(tmp_path):
    settings, ledger, policy = start(tmp_path, M=2)
    reading, seen = budget.Reading(), []
    panel = panel_of(ledger, panelists=12, judge=ValueJudge(skips=0.2))

    def same(_=None):
        seen.append(reading.hours(ledger))
        assert seen[-1] == budget.person_hours(ledger)
        assert seen[-1] == summary.summary(ledger).person_minutes / 60

    class Watching:
        def submit(self, comparisons):
            for comparison in comparisons:
                panel.submit([comparison])
                same()

        def poll(self, step):
            same()
            panel.poll(step)

    go(settings, ledger, policy, Watching(), until_step=3, on_step=same)
    assert seen == sorted(seen) and len(set(seen)) == 3 * settings.N
    ledger.close()


def votes_of(count, places):
    message = itertools.cycle(("plus", "minus", "tie", "plus", "plus", "minus", "minus"))
    return [
        Vote(f"c{place}", f"p{who}", place % 3, place // 3, next(message), "A")
        for who, place in (divmod(i, places) for i in range(count))
    ]


def paired(votes):
    """(pairs, agreeing) of votes for a side on different comparisons of a direction."""
    both = [
        (a.verdict, b.verdict)
        for a, b in itertools.combinations(votes, 2)
        if a.k == b.k and a.n != b.n and "tie" not in (a.verdict, b.verdict)
    ]
    return len(both), sum(a == b for a, b in both)


@pytest.mark.parametrize(("count", "places"), [(0, 3), (1, 3), (40, 1), (61, 5), (90, 12)])
def test_agreement_by_counts_is_agreement_by_pairs(count, places):
    votes = votes_of(count, places)
    assert summary.agreement(votes) == paired(votes)
