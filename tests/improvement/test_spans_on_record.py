"""Spans on record: when the next one is due, what is proposed, and that all read the same ones."""

from contextlib import suppress
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import background_work, seeds
from szpo.data.prompts import PromptSet
from szpo.errors import EngineError, LeaseError, RunError, UsageError
from szpo.improvement import guidance, policy_gradient
from szpo.ledger import guided_spans, run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import parameters
from szpo.optim.guided_directions import EVERY
from szpo.optim.schedule import mu_at
from szpo.policies.span_measurement import Measured
from szpo.runs.services import set_aside
from szpo.voting import lease, withdrawals
from tests.support import named_run
from tests.support.quadratic import PROMPTS, WIDE, go, start


def begin(folder, **changes):
    return start(folder, layout=WIDE, guided=0.8, law="gaussian", **changes)


def change(ledger, value):
    return {name: np.full(shape, value, np.float32) for name, shape in ledger.layout}


def append(ledger, verdicts):
    """A further proposal, and the span of all so far."""
    number = len(list(ledger.events(guided_spans.SPAN)))
    guided_spans.append(
        ledger, change(ledger, 1.0 + number), first=number, noise=0.4, of=range(number + 1),
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


@pytest.fixture
def voted(tmp_path):
    """A guided run of 60 verdicts in three rounds, with its parts."""
    settings, ledger, policy = begin(tmp_path, M=5)
    with ledger:
        go(settings, ledger, policy, until_step=3)
        ledger.record_event(run_spec.FEATURES, "run", asdict(named_run.features()))
        guided = []
        language = SimpleNamespace(
            theta=policy.theta, subspace="subspace", sampling="sampling", guide=guided.append
        )
        config = SimpleNamespace(
            engine=SimpleNamespace(is_local=True), panel=SimpleNamespace(kind="simulated")
        )
        parts = SimpleNamespace(
            base=SimpleNamespace(loaded="loaded", host="host"), config=config, guided=guided,
            language=language, prompts=PromptSet(PROMPTS, ()), given=("mine",), votes=settings,
        )  # fmt: skip
        yield ledger, parts


def test_a_proposal_is_of_all_verdicts_so_far_and_measured_with_the_three_before_it(
    voted, monkeypatch
):
    ledger, parts = voted
    for verdicts in (2, 4, 6, 8):
        append(ledger, verdicts)
    asked, way, moved = {}, {"proposed": 2e-6, "span": 1}, []

    class Own:
        def __init__(self, *given, **how):
            asked["policy"], self.move_to = (given, how), moved.append
            self.subspace, self.sampling = given[1], how["sampling"]

    def read(*given, **how):
        asked["taste"] = given, how
        if way.get("taste") == "none":
            raise RunError("none")
        return SimpleNamespace(sha256="taste"), None

    def climb(policy, score, prompts, pace, *, seed):
        asked["climb"] = score, prompts, pace, seed
        return change(ledger, way["proposed"]), SimpleNamespace(answers=40)

    def measure(*given, progress, **how):
        asked["span"] = given, how
        return Measured(0.25, ((0.5,) * 4,), (0.2, 0.3), 60) if way["span"] else None

    monkeypatch.setattr(guidance, "LoraPolicy", Own)
    monkeypatch.setattr(guidance.run_taste, "read", read)
    monkeypatch.setattr(guidance, "score_of_taste", lambda taste, policy, given: (taste, given))
    monkeypatch.setattr(policy_gradient, "propose", climb)
    monkeypatch.setattr(guidance.measuring, "measure", measure)
    made = guidance.propose(ledger, parts, 3, given=("mine",))
    settings = recorded_settings(ledger)
    seed = seeds.as_seed(seeds.derive(settings.root_seed, "improve", step=3))
    taught = set_aside(PROMPTS, settings.root_seed)[0]
    assert asked["taste"] == (
        (ledger, ("mine",)), {"anyway": True, "before": ledger.next_event()},
    )  # fmt: skip
    assert asked["policy"] == (("loaded", "subspace"), {
        "root_seed": settings.root_seed, "sampling": "sampling", "host": "host",
    })  # fmt: skip
    assert moved == [parts.language.theta()]
    (taste, given), *rest = asked["climb"]
    assert (taste.sha256, given, *rest) == ("taste", ("mine",), taught, guidance.PACE, seed)
    (host, subspace, present, proposals, prompts, sampling), how = asked["span"]
    assert (host, subspace, prompts, sampling) == ("host", "subspace", taught, "sampling")
    assert present is moved[0] and how == {"mu": mu_at(settings, 3), "share": 0.8, "seed": seed}
    values = [float(each["b"][0]) for each in proposals]
    assert values == pytest.approx([2.0, 3.0, 4.0, 2e-6]) and made.of == range(1, 5)
    assert made.notes == {
        "verdicts": 60, "nats": (0.2, 0.3), "taste_sha256": "taste", "answers": 100,
    }  # fmt: skip

    epoch = lease.acquire(ledger, "test").epoch
    with pytest.raises(LeaseError):
        guidance.record(ledger, parts, made, 5, epoch - 1)
    guidance.record(ledger, parts, made, 5, epoch)
    span = guided_spans.read(ledger)[-1]
    assert (span.first, span.noise, span.mixing) == (5, 0.25, ((0.5,) * 4,))
    assert [float(each["b"][0]) for each in span.proposals] == pytest.approx(values)
    assert parts.guided == [guided_spans.read(ledger)]
    assert guidance.describe(ledger) == (
        "guided: from round 6 on a part of each direction lies where 60 votes point, by 100 own "
        "answers"
    )
    for lack in ({"proposed": 5e-7}, {"span": 0}, {"taste": "none"}):
        way.update({"proposed": 1.0, "span": 1, "taste": "", **lack})
        assert guidance.propose(ledger, parts, 3) is None
    for lack in ({"base": None}, {"config": SimpleNamespace(engine=SimpleNamespace(is_local=0))}):
        assert guidance.propose(ledger, SimpleNamespace(**{**vars(parts), **lack}), 3) is None


def made_of(ledger, verdicts=60):
    measured = Measured(0.25, ((0.5,),), (0.2, 0.3), 60)
    return guidance.Proposed(
        change(ledger, 1.0), range(1), measured, {"verdicts": verdicts, "answers": 100}
    )


def guiding(voted, monkeypatch, propose):
    ledger, parts = voted
    said, asked = [], []

    def noted(ledger, parts, step, *, given, progress):
        asked.append((step, given))
        background_work.pause()
        return propose()

    monkeypatch.setattr(guidance, "propose", noted)
    return guidance.Guiding(ledger, parts, said.append), said, asked


def test_a_proposal_that_is_due_guides_the_next_round_and_none_is_made_twice_of_the_same_verdicts(
    voted, monkeypatch
):
    ledger, epoch = voted[0], lease.acquire(voted[0], "test").epoch
    found = [None, made_of(ledger)]
    own, said, asked = guiding(voted, monkeypatch, lambda: found.pop(0))
    own.look(3, epoch)
    own.look(3, epoch)
    assert asked == [(3, ("mine",))] and not guided_spans.read(ledger) and not said
    own._tried = 20.0  # as if forty came since
    own.look(3, epoch)
    assert [span.first for span in guided_spans.read(ledger)] == [3] and not own.at_work
    assert said == [guidance.describe(ledger)]


def test_what_was_proposed_before_verdicts_were_withdrawn_guides_nothing(voted, monkeypatch):
    ledger, epoch = voted[0], lease.acquire(voted[0], "test").epoch

    def propose():
        withdrawals.withdraw(ledger, "op", "panel-0", recorded_settings(ledger))
        return made_of(ledger)

    own, said, asked = guiding(voted, monkeypatch, propose)
    own.look(3, epoch)
    assert len(asked) == 1 and not guided_spans.read(ledger) and not said


def test_beside_people_it_is_taken_for_the_first_round_that_is_not_planned(voted, monkeypatch):
    ledger, epoch = voted[0], lease.acquire(voted[0], "test").epoch
    voted[1].config.panel.kind = "people"
    own, said, asked = guiding(voted, monkeypatch, lambda: made_of(ledger))
    own.look(3, epoch)
    assert own.at_work and not asked
    own.wait(0.0)
    assert own.at_work and asked
    own.wait(9.0)
    assert not own.at_work and not guided_spans.read(ledger)
    own.look(2, epoch)  # planned long ago
    assert not guided_spans.read(ledger)
    own.look(4, epoch)
    assert [span.first for span in guided_spans.read(ledger)] == [4] and len(said) == 1
    own.look(4, epoch)
    assert len(guided_spans.read(ledger)) == 1


@pytest.mark.parametrize("error", [UsageError("no head"), EngineError("gone")])
def test_a_model_without_a_gradient_is_asked_once_and_lost_workers_end_the_run(
    voted, monkeypatch, error
):
    def propose():
        raise error

    own, said, asked = guiding(voted, monkeypatch, propose)
    with suppress(EngineError):
        own.look(3, 1)
        own._tried = 0.0
        own.look(3, 1)
        assert isinstance(error, UsageError)
        assert said == ["warning: directions are not guided any further: no head"]
    assert len(asked) == 1
