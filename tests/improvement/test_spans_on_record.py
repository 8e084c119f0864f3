"""Spans on record: when the next one is due, and that every process reads the same ones."""

from dataclasses import asdict

import numpy as np

from szpo.improvement import guidance
from szpo.ledger import run_spec, spans
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import parameters
from szpo.optim.guided_directions import EVERY
from tests.support import named_run
from tests.support.quadratic import WIDE, go, start


def begin(folder, **changes):
    return start(folder, layout=WIDE, guided=0.8, law="gaussian", **changes)


def append(ledger, verdicts):
    """A further proposal, and the span of all so far."""
    number = len(list(ledger.events(spans.SPAN)))
    proposal = {name: np.full(shape, 1.0 + number, np.float32) for name, shape in ledger.layout}
    spans.append(
        ledger, proposal, first=number, noise=0.4, of=range(number + 1),
        mixing=[[0.5] * (number + 1)], notes={"verdicts": verdicts},
    )  # fmt: skip


def test_a_span_is_due_once_so_many_verdicts_came_since_the_last_one(tmp_path):
    settings, ledger, policy = begin(tmp_path, M=5)
    with ledger:
        go(settings, ledger, policy, until_step=3)
        assert ledger.votes_applied() == 60 and not guidance.due(ledger, 3)
        ledger.record_event(run_spec.FEATURES, "run", asdict(named_run.features()))
        told = []
        for verdicts in (60 - EVERY, 60 - EVERY + 1):
            told.append(guidance.due(ledger, 3))
            append(ledger, verdicts)
        assert [*told, guidance.due(ledger, 3)] == [True, True, False]
        assert not guidance.due(ledger, 2)  # its directions are drawn


def test_a_process_that_reads_on_has_the_spans_that_the_next_one_has(tmp_path):
    _, ledger, _ = begin(tmp_path)
    with ledger:
        for number in range(4):
            append(ledger, EVERY * (number + 1))
            found = recorded_settings(ledger)
            drawn = parameters.direction_vector(found.space, number, 0)
            with Ledger.open(ledger.path, readonly=True) as other:
                again = recorded_settings(other)
            assert len(found.spans) == len(again.spans) == number + 1
            np.testing.assert_array_equal(
                drawn, parameters.direction_vector(again.space, number, 0)
            )
            each = [float(proposal["b"][0]) for proposal in found.spans[-1].proposals]
            assert each == [1.0 + i for i in range(number + 1)]
