"""What panelists' pages poll: states, counts, versions, and what it costs."""

import pytest

from szpo.config.schema import Config
from szpo.ledger.database import Ledger
from szpo.runs import budget, status
from szpo.runs.budget import Limits
from szpo.runs.status import StatusReader, round_status
from szpo.voting import pauses, step_states
from szpo.voting.panel_evaluator import LedgerEvaluator
from szpo.voting.service import VoteService
from tests.support.asking import KEY, ask, people
from tests.support.quadratic import (
    Clock,
    QuadraticPolicy,
    ValueJudge,
    go,
    new_ledger,
    panel_of,
    settings_of,
    start,
)

MINUTE = 60_000_000


def new_run(path, *, votes=12, **panel):
    """A ledger with recorded settings, as from `szpo run`: N 4, M 1, by default three steps."""
    plan = settings_of(N=4, D=2)
    optimizer = {"rule": "known", "N": 4, "D": 2}
    panel = {"kind": "people", **panel}
    config = Config(run={"votes": votes}, optimizer=optimizer, panel=panel)
    return plan, new_ledger(path, plan, spec={"config": config.model_dump(mode="json")})


@pytest.fixture
def run(tmp_path):
    plan, ledger = new_run(tmp_path / "run.db")
    with ledger:
        yield plan, ledger


@pytest.fixture
def ledger(run):
    return run[1]


def facts(ledger):
    found = round_status(ledger)
    return found.state, found.step, found.votes_in, found.votes_needed, found.generated


class Panel:
    """One person who votes when asked to wait, and notes what the status was before and after."""

    def __init__(self, ledger, then=lambda: None):
        self.ledger, self.then, self.seen = ledger, then, []
        self.service = VoteService(ledger)
        self.ann = self.service.enroll("person", "ann")

    def wait(self):
        self.seen.append(facts(self.ledger))
        self.then()
        while (seat := self.service.assign(self.ann)) is not None:
            self.service.cast(seat.id, "A", idem=seat.id)
            self.seen.append(facts(self.ledger))


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_from_its_first_round_to_its_last(run, lag):
    plan, ledger = run
    assert facts(ledger) == ("none", None, 0, 0, False)
    panel = Panel(ledger)
    policy = QuadraticPolicy(plan)

    def go_on(until_step):
        how = {"until_step": until_step, "lag": lag, "wait": panel.wait}
        go(plan, ledger, policy, LedgerEvaluator(panel.service), **how)

    go_on(2)
    for step in range(2):
        ahead = lag == 1
        rows = [("open", step, n, 4, ahead) for n in range(5)]
        assert panel.seen[5 * step : 5 * step + 5] == rows
    assert facts(ledger) == ("generating", 2, 0, 0, lag == 1)
    assert round_status(ledger).rounds == 3 and round_status(ledger).opened_us is None
    go_on(3)
    assert facts(ledger)[:2] == ("finished", 2)


def test_a_round_that_is_only_prepared_does_not_lengthen_the_run(tmp_path):
    plan, ledger = new_run(tmp_path / "run.db", votes=4)
    found = []
    with ledger:
        panel = Panel(
            ledger, lambda: found.append((len(ledger.steps()), round_status(ledger).rounds))
        )
        go(
            plan, ledger, QuadraticPolicy(plan), LedgerEvaluator(panel.service),
            wait=panel.wait, until_step=2, lag=1,
        )  # fmt: skip
        assert [row["state"] for row in ledger.steps()] == ["applied", "applied", "generating"]
        ended = status.read_results(ledger)
        assert ended.state == "finished"  # where nothing is generated any more
        assert [row.state for row in ended.table] == ["applied", "applied"]
    assert (found[0], found[-1]) == ((2, 1), (3, 2))


def test_a_closed_round_is_closed_until_it_is_applied(ledger):
    ask(ledger, n=4, m=1)
    assert step_states.close(ledger, 0, "operator", reason="enough")
    assert facts(ledger) == ("closed", 0, 0, 0, False)


def test_pause_limit_and_deadline(tmp_path):
    _, ledger = new_run(tmp_path / "run.db", deadline_minutes=30.0)
    with ledger:
        ask(ledger, n=4, m=1)
        opened = ledger.step(0)["opened_us"]
        found = round_status(ledger)
        assert (found.opened_us, found.deadline_us) == (opened, opened + 30 * MINUTE)
        pauses.pause(ledger, "op", "lunch")
        found = round_status(ledger)
        assert (found.state, found.paused_by, found.pause_reason) == ("paused", "op", "lunch")
        assert found.step == 0 and found.deadline_us is None and found.votes_needed == 4
        ledger.clock.now += 60 * MINUTE
        pauses.unpause(ledger, "op")
        found = round_status(ledger)
        assert abs(found.deadline_us - (opened + 90 * MINUTE)) < MINUTE / 10
        assert found.state == "open" and found.paused_by is None
        budget.set_limits(ledger, "op", Limits(step=0))
        assert round_status(ledger).state == "open"  # what people vote on is finished


def test_a_limit_by_date_is_seen_when_its_time_comes(ledger):
    budget.set_limits(ledger, "op", Limits(at_us=ledger.clock() + MINUTE))
    assert round_status(ledger).state == "none"
    ledger.clock.now += 2 * MINUTE
    assert round_status(ledger).state == "paused"


def test_the_version_changes_with_what_is_seen_and_with_nothing_else(ledger):
    status = StatusReader(ledger)
    ask(ledger, n=4, m=1)
    service = VoteService(ledger)
    (ann,) = people(service, 1)
    before = status.read().version
    seat = service.assign(ann)
    service.extend(seat.id)
    assert status.read().version == before
    service.cast(seat.id, "A", idem=KEY(1))
    after = status.read().version
    assert after != before
    service.cast(seat.id, "B", idem=KEY(2))  # a change of mind is nobody's business
    assert status.read().version == after
    service.cast(seat.id, "skip", idem=KEY(3))
    assert status.read().version == before


def test_it_sees_what_other_processes_write(ledger):
    with Ledger.open(ledger.path, readonly=True, clock=Clock()) as second:
        ours, theirs = StatusReader(ledger), StatusReader(second)
        assert theirs.read().state == "none"
        ask(ledger, n=4, m=1)
        service = VoteService(ledger)
        (ann,) = people(service, 1)
        for i in range(3):
            assert theirs.read() == ours.read()
            service.cast(service.assign(ann).id, "A", idem=KEY(i))
        assert theirs.read().votes_in == 3


def test_what_was_read_is_added_up_while_steps_open_close_and_fall_out(tmp_path):
    settings, ledger, policy = start(tmp_path, M=2)
    seen = []
    panel = panel_of(ledger, panelists=12, judge=ValueJudge(skips=0.2))

    def same(_=None):
        total = status.read_results(ledger)
        seen.append(total.person_minutes)
        assert budget.read_so_far(ledger) == (total.answers_read, total.person_minutes)
        assert not total.table or total.table[-1].total_votes == total.votes

    class Watching:
        def submit(self, comparisons):
            for comparison in comparisons:
                panel.submit([comparison])
                same()

        def poll(self, step):
            same()
            panel.poll(step)

    go(settings, ledger, policy, Watching(), until_step=3, on_step=same)
    assert seen == sorted(seen) and len(set(seen)) == 3 * settings.section.N
