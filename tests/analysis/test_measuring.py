"""Whether a run helped: measured before, along the way and after, and told in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from szpo.analysis import measuring
from szpo.analysis.improvement import Improvement
from szpo.cli.app import call
from szpo.intervals import Share
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.replay import verification
from szpo.runs import assemble
from szpo.training.step_report import Outcome
from tests.support import yard_run


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return yard_run.make(tmp_path_factory.mktemp("yard"), "run.votes=48", "evaluation.along=2",
                         "evaluation.samples=8")  # fmt: skip


def measured(path: Path) -> list[dict[str, Any]]:
    with Ledger.open(path, readonly=True) as ledger:
        return [event["body"] for event in ledger.events("measured")]


@pytest.mark.full
def test_a_run_is_measured_before_along_and_after(yard):
    # 48 votes are six steps of eight; two measurements divide them into three parts.
    found = measured(yard)
    assert [(body["steps"], body["votes"]) for body in found] == [
        (0, 0), (2, 16), (4, 32), (6, 48),
    ]  # fmt: skip
    # One held-out place: eight answers at both ends, as the settings say, one on the way.
    assert [len(body["rewards"][0]) for body in found] == [8, 1, 1, 8]
    with Ledger.open(yard, readonly=True) as ledger:
        assert verification.verify(ledger).ok


@pytest.mark.full
def test_measuring_moves_nothing(yard, tmp_path):
    other = yard_run.make(tmp_path, "run.votes=48", "evaluation.along=0", "evaluation.samples=1")
    assert len(measured(other)) == 2
    with Ledger.open(yard, readonly=True) as one, Ledger.open(other, readonly=True) as two:
        assert theta_digests(one) == theta_digests(two)


@pytest.mark.full
def test_a_killed_run_is_measured_once_at_each_place(tmp_path):
    line = yard_run.arguments(tmp_path, "run.name=yard", "run.votes=48", "run.steps=3")
    assert call(line) == 0
    path = tmp_path / "runs" / "yard.db"
    before = measured(path)
    assert call(["run", "--resume", str(path)]) == 0
    assert measured(path) == before


@pytest.mark.parametrize(
    ("share", "verdict", "words"),
    [
        (Share(63, 100, 0.58, 0.68), "better", "better than the base on held-out prompts: 63 %"),
        (Share(52, 100, 0.42, 0.62), "unclear", "not distinguishable from the base on held-out"),
        (Share(20, 100, 0.13, 0.29), "worse", "worse than the base on held-out prompts: 20 %"),
        (Share(0, 0, 0.0, 1.0), "unknown", "not known whether it is better than the base: why"),
        (None, "unknown", "not known whether it is better than the base: why"),
    ],
)  # fmt: skip
def test_the_sentence_says_no_more_than_the_interval(share, verdict, words):
    found = Improvement(share, "blind pairs", 240, 3.14, (), "why")
    assert found.verdict == verdict and found.sentence.startswith(words)
    if verdict == "better":
        assert found.sentence.endswith("of blind pairs, 240 votes, 3.1 nats")


@pytest.mark.full
def test_people_are_asked_for_the_final_comparison_at_the_end(tmp_path):
    path = yard_run.make(tmp_path)
    before = measured(path)
    with Ledger.open(path) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        planned = measuring.prepare(ledger, parts, None, lambda text: None)
        assert planned is not None and not planned.people
        people = replace(planned, people=True)
        measuring.after(people, Outcome("paused", "a guard", 3, 24))
        assert not orders.orders(ledger)
        for _ in range(2):  # a process that stays passes here after every pause
            measuring.after(people, Outcome("finished", "24 of 24 votes", 3, 24))
        (order,) = orders.orders(ledger)
        assert (order.kind, order.by) == ("final", "szpo run")
        assert measured(path) == before  # nothing was drawn anew
