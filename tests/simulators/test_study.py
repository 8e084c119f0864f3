"""The frame of the benches: stored cells, settings chosen on other seeds, figures that repeat."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.runs.services import prompt_order
from szpo.types import Comparison
from szpo.voting import lease
from szpo.voting.evaluator import Evaluator
from szpo.voting.panel_evaluator import (
    LedgerEvaluator,
    OpenComparisons,
    PanelEvaluator,
    visit,
)
from szpo.voting.panel_factory import StartingPolicy
from szpo.voting.service import VoteService
from szpo_simulators.bench_study import REPORTED, Study, format_interval, interval, seed_range
from szpo_simulators.panels.panel import SimulatedPanel, build
from szpo_simulators.worlds.windy_yard import TabularPolicy
from tests.support.quadratic import go, new_ledger, settings_of


class Work:
    """A bench's work that counts its calls; the best setting is 3."""

    def __init__(self):
        self.asked = []

    def __call__(self, asked):
        self.asked.append(dict(asked))
        return {"values": [seed - (asked["alpha"] - 3) ** 2 for seed in asked["seeds"]]}


@pytest.fixture
def study(tmp_path):
    return Study("links", tmp_path / "runs", figures=tmp_path / "docs")


def test_a_stopped_bench_goes_on_where_it_stood_and_a_broken_cell_is_named(study):
    work, asked = Work(), [{"alpha": a, "seeds": [1, 2]} for a in (1.0, 3.0)]

    def stopping(one):
        if one["alpha"] == 3.0:
            raise KeyboardInterrupt
        return work(one)

    with pytest.raises(KeyboardInterrupt):
        study.cells("first", asked, stopping)
    (file,) = (study.folder / "cells").iterdir()
    found = study.cells("first", asked, work)
    assert [one["alpha"] for one in work.asked] == [1.0, 3.0]
    assert found == [{**asked[0], "values": [-3.0, -2.0]}, {**asked[1], "values": [1.0, 2.0]}]
    assert study.cells("again", asked, work) == found and len(work.asked) == 2
    # Other seeds or another bench are other cells.
    study.cells("other seeds", [{"alpha": 1.0, "seeds": [1, 3]}], work)
    Study("rules", study.folder).cells("another bench", asked[:1], work)
    assert len(work.asked) == 4
    file.write_text(file.read_text()[:-9])
    with pytest.raises(RunError, match=rf"{file.name} cannot be read .*; delete it"):
        study.cells("again", asked, work)


def test_settings_are_chosen_on_seeds_that_are_not_reported(study):
    work = Work()
    grid = [{"alpha": a} for a in (1.0, 3.0, 10.0)]
    (row,) = study.tune("runs", [{"rule": "known"}], work, [grid], trials=4, repetitions=5)
    tried, final = work.asked[:-1], work.asked[-1]
    assert all(one["seeds"] == [0, 1, 2, 3] for one in tried)
    assert final == {"rule": "known", "alpha": 3.0, "seeds": seed_range(5)}
    assert min(final["seeds"]) > 3
    assert row["mean"] == REPORTED + 2 and (row["chosen"], row["edge"]) == ({"alpha": 3.0}, "")


def test_csv_has_a_row_each_and_no_lists_and_intervals_are_students(study):
    path = study.csv("part", [{"a": 1, "values": [1, 2]}, {"a": 2, "tried": {"1": 2.0}}])
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {"a": "1", "tried": ""} and json.loads(second["tried"]) == {"1": 2.0}
    # Mean 2, standard deviation 1, t(.975, 2) = 4.3027: half a width is 4.3027/√3.
    row = interval([1.0, 2.0, 3.0])
    assert (row["low"], row["high"]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert format_interval(row) == "2.00 ± 2.48"


SEED = 11
PROMPTS = TabularPolicy(0).yard.prompts()


def panel(name: str = "bt70", size: int = 5) -> SimulatedPanel:
    policy = TabularPolicy(SEED)
    return build(
        name, reward="walk", size=size, rows=4,
        start=StartingPolicy(lambda: (PROMPTS, policy.sample(PROMPTS, 16, seed=0))),
    )  # fmt: skip


def create(path: Path, panel: SimulatedPanel, **changes: Any) -> Ledger:
    settings = settings_of(TabularPolicy(0).layout, SEED, **{"D": 4, "mu": 0.4, **changes})
    return new_ledger(path, settings, spec={"panel": panel.spec})


def drive(ledger: Ledger, evaluator: Evaluator, until: int, **how: Any) -> TabularPolicy:
    policy, settings = TabularPolicy(SEED), recorded_settings(ledger)
    how = {"wait": lambda: None, "prompts": prompt_order(PROMPTS, settings), **how}
    outcome = go(settings, ledger, policy, evaluator, until_step=until, **how)
    assert outcome.status == "finished"
    return policy


def test_a_vote_limit_begins_only_whole_comparisons(tmp_path):
    judged = panel()
    ledger = create(tmp_path / "run.db", judged, M=2)
    service = VoteService(ledger)
    limits = iter([3, 5])  # of the step's 8 votes: 2 and 4; the rest by --once

    def wait() -> None:
        limit = next(limits, None)
        cast, why = visit(
            ledger, judged.evaluator(VoteService(ledger)), limit=limit, once=limit is None
        )
        if limit is not None:
            assert cast == 2 * (limit // 2)
            assert "were asked for" in why

    drive(ledger, LedgerEvaluator(service), 1, wait=wait)
    assert next(limits, None) is None
    assert len(service.counted(0)) == 8


def test_it_ends_with_the_controller_and_gives_up_without_one(tmp_path):
    judged = panel()
    ledger = create(tmp_path / "run.db", judged)
    waits: list[int] = []
    cast, why = visit(
        ledger, judged.evaluator(VoteService(ledger)), wait=lambda: waits.append(1), patience=3
    )
    assert (cast, len(waits)) == (0, 3)
    assert "nobody drives this run" in why

    held = lease.acquire(ledger, "host:1:x")
    still = [lambda: lease.release(ledger, held), lambda: None, lambda: None]
    _, why = visit(ledger, judged.evaluator(VoteService(ledger)), wait=lambda: still.pop()())
    assert why == "the process that drives the run has ended"
    assert still == []


def test_a_step_closed_meanwhile_is_no_error(tmp_path):
    judged = panel()
    ledger = create(tmp_path / "run.db", judged)
    asked: list[Comparison] = []

    class Late:
        """A panel that looks at the step and is overtaken by its deadline before it answers."""

        def submit(self, comparisons: Sequence[Comparison]) -> None:
            asked.extend(comparison for comparison, _ in OpenComparisons(ledger).lacking())

        def poll(self, step: int) -> None:
            pass

    drive(ledger, Late(), 1, deadline_s=0.001)
    assert len(asked) == 4
    assert (ledger.step(0) or {})["closed_by"] == "deadline"
    answering = PanelEvaluator(VoteService(ledger), judged.judges)
    OpenComparisons(ledger).submit(answering, asked)
    assert ledger.query("SELECT * FROM votes") == []


def test_colleagues_leave_a_comparison_of_each_step_to_the_person(tmp_path):
    judged = panel()
    ledger = create(tmp_path / "run.db", judged)
    service, open_ones = VoteService(ledger), OpenComparisons(ledger)
    person = service.enroll("person", "P-01")
    left: list[int] = []
    reads: list[int] = []

    def wait() -> None:
        step = ledger.steps()[-1]["step"]
        if step == 1 and len(left) == 1:  # this time the person is there first
            assert service.assign(person) is not None
        visit(
            ledger,
            judged.evaluator(VoteService(ledger)),
            once=True,
            leave=1,
            read=lambda: reads.append(step),
        )
        while len(open_ones.lacking()) > 1:
            visit(
                ledger,
                judged.evaluator(VoteService(ledger)),
                once=True,
                leave=1,
                read=lambda: reads.append(step),
            )
        left.append(len(open_ones.lacking()))
        visit(ledger, judged.evaluator(VoteService(ledger)), once=True, leave=1)
        assert len(open_ones.lacking()) == 1, "the last one waits for the person"
        seat = service.assign(person)
        assert seat is not None
        service.cast(seat.id, "A", idem=seat.id)

    drive(ledger, LedgerEvaluator(service), 2, wait=wait)
    assert left == [1, 1]
    assert reads == [0, 0, 0, 1, 1, 1], "one comparison at a time"


def test_a_comparison_that_a_person_has_open_is_no_error(tmp_path):
    judged = panel()
    ledger = create(tmp_path / "run.db", judged)
    service, why = VoteService(ledger), list[str]()
    person = service.enroll("person", "P-01")

    def wait() -> None:
        seat = service.assign(person)
        assert seat is not None
        while len(OpenComparisons(ledger).lacking()) > 1:
            why.append(visit(ledger, judged.evaluator(VoteService(ledger)), once=True)[1])
        why.append(visit(ledger, judged.evaluator(VoteService(ledger)), once=True)[1])
        service.cast(seat.id, "A", idem=seat.id)

    drive(ledger, LedgerEvaluator(service), 1, wait=wait)
    assert {*why} == {"nothing else is open"}
    assert len(ledger.query("SELECT * FROM votes")) == 4
