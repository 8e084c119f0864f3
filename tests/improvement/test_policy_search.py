"""What a search reads, and that two policies which score alike are read by more answers."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import seeds
from szpo.cli.app import call
from szpo.config.schema import Config
from szpo.improvement import between_rounds, policy_search
from szpo.improvement.policy_gradient import Ascent, Pace, Step
from szpo.improvement.policy_search import (
    COMPARED,
    MIXED,
    MOST_READ,
    SPENT_ALL,
    Checked,
    Improved,
    Search,
    _add,
    _are_close,
    _climb,
    _draw_back,
    _find_beginning,
    _why_stopped,
    split_prompts,
)
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.text_guards import TextFigures
from szpo.runs import assemble
from szpo.runs.services import set_aside
from szpo.voting import lease
from tests.support import wide_guards, yard_run

FIGURES = TextFigures(-1.0, 0.9, 20.0)
PROMPTS = 32


def read(means):
    """A policy whose two answers to each prompt score so on average."""
    return Checked(float(np.mean(means)), 1.0, 0.1, FIGURES, COMPARED, tuple(means))


def searching(seed):
    """A search whose policies answer with scores of spread 1 around what they are worth."""
    rng, told = np.random.default_rng(seed), []

    def again(worth, found, seed):
        told.append(seed)
        search.drawn.append(COMPARED)
        return _add(found, worth + rng.normal(size=PROMPTS) / np.sqrt(2), COMPARED)

    search = SimpleNamespace(
        fresh=seed, drawn=[COMPARED], _again=again, told=told, progress=lambda *what: None
    )
    return search


def alike(seed=0):
    rng = np.random.default_rng(seed)
    return read(rng.normal(size=PROMPTS)), read(rng.normal(size=PROMPTS))


def test_what_prompts_have_in_common_is_no_error_of_the_difference():
    hard = np.linspace(-3, 3, PROMPTS)
    noise = np.tile([0.01, -0.01], PROMPTS // 2)
    assert not _are_close(read(hard), read(hard + 0.1 + noise))
    one, other = alike()
    assert _are_close(one, other) and not _are_close(one, one)


def test_what_is_told_apart_by_the_first_answers_is_not_read_again():
    search, (one, _) = searching(0), alike()
    clear = read(np.array(one.by_prompt) + np.tile([0.5, 1.5], PROMPTS // 2))
    assert Search.tell_apart(search, 0.0, one, 1.0, clear) == (one, clear)
    assert not search.told


def test_two_that_score_alike_are_read_anew_by_the_same_seeds_at_most_three_times():
    search, (one, other) = searching(1), alike(1)
    found = Search.tell_apart(search, 0.0, one, 0.0, other)
    times = 1 + len(search.told) // 2
    assert 1 < times <= MOST_READ and len({*search.told}) == times - 1
    assert search.told[::2] == search.told[1::2]
    for before, after in zip((one, other), found, strict=True):
        assert after.answers == times * COMPARED and after.by_prompt != before.by_prompt
        assert after.score == pytest.approx(np.mean(after.by_prompt))
        assert (after.nats, after.figures) == (before.nats, before.figures)


def test_who_was_read_less_catches_up():
    search, (one, other) = searching(2), alike(2)
    many = _add(_add(one, np.array(one.by_prompt), COMPARED), np.array(one.by_prompt), COMPARED)
    assert many.score == pytest.approx(one.score) and many.answers == MOST_READ * COMPARED
    first, second = Search.tell_apart(search, 0.0, many, 0.0, other)
    assert first == many and second.answers > other.answers


def test_more_answers_more_often_find_the_better_one():
    """.35 apart, spread 1: 64 answers find it with probability Φ(.35 · √32) = .976, 192 .9997."""
    rng, right, first = np.random.default_rng(2), 0, 0
    for seed in range(400):
        low, high = (w + rng.normal(size=PROMPTS) / np.sqrt(2) for w in (0.0, 0.35))
        one, other = Search.tell_apart(searching(seed), 0.0, read(low), 0.35, read(high))
        right += other.score > one.score
        first += high.mean() > low.mean()
    assert right > first and right >= 395


def test_it_begins_where_half_of_the_budget_is_spent_as_nats_grow_with_the_square_of_the_way():
    def measure(theta, what):
        return replace(level, nats=8 * float(theta["b"][0]) ** 2)

    level = replace(read([0.0] * PROMPTS), nats=0.0)
    here, there = ({"b": np.float32([at])} for at in (0, 1))
    search = SimpleNamespace(nats=4.0, base=level, measure=measure)
    began = _find_beginning(search, {theta.START: here, theta.RECOMMENDED: there})
    assert began.there.nats == 8 and began.first["b"] == pytest.approx(0.5)
    assert began.nats == pytest.approx(MIXED * 4)


def test_what_may_spend_half_a_nat_so_far_is_drawn_back_to_half_a_nat():
    """Whatever the whole budget is: it has not been shown to gain by more."""

    def measure(theta, what, number=0):
        return replace(level, nats=2 * float(theta["b"][0]) ** 2)

    level = replace(read([0.0] * PROMPTS), stderr=0.0)
    here, there = ({"b": np.float32([at])} for at in (0, 1))
    search = SimpleNamespace(
        nats=4.0, start=here, measure=measure, guards=lambda *of: (), failed=lambda held: []
    )
    best = _draw_back(search, Improved(Ascent(there), "", 0.5))
    assert best.scale == pytest.approx(0.5) and best.nats == pytest.approx(0.5)


def stopped(*steps, nats=2.0):
    at = Ascent({}, steps=tuple(Step(32, score, far, 0.1, cost) for score, far, cost in steps))
    return _why_stopped(Improved(at, "", nats))


def test_a_score_that_never_grows_ends_soon_and_one_that_grows_goes_on():
    rising = [(0.1 * n, 0.05 * n, 0.05) for n in range(14)]
    level = [(0.3 - 0.2 * (n % 2), 0.05 * n, 0.05) for n in range(12)]
    assert stopped(*rising) == "" and stopped(*level[:11]) == ""
    assert stopped(*level) == "the score does not rise"
    assert "no answer scores more" in stopped(*[(1.0, 0.0, 0.0)] * 3)


def test_a_step_that_would_leave_the_budget_is_not_taken():
    """√1.3 + √.05 = 1.364 and √(.9 · 2) = 1.342."""
    assert stopped((0.5, 1.2, 0.05)) == "" and stopped((0.5, 1.3, 0.05)) == SPENT_ALL
    assert stopped((0.5, 1.3, 0.05), nats=3.0) == ""


def test_what_is_on_record_as_kept_is_not_looked_for_again(tmp_path):
    with Ledger.open(yard_run.finished(tmp_path)) as ledger:
        begun = between_rounds.begin(ledger)
        file, said = theta.improving_file(ledger.path), []
        state = Improved(Ascent({"x": np.zeros(2)}), "", 1.0)
        policy_search.save(state, file, (begun.head, begun.event))
        body = {"begun": {"steps": begun.steps, "event": begun.event}}
        ledger.record_event(theta.KEPT, "controller", body)
        parts = SimpleNamespace(config=Config(improve={"nats": 3}))
        between_rounds.Improving(ledger, parts, said.append).look()
        assert not file.exists() and said == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"theta": {"b": np.zeros(3, np.float32)}},
        {"theta": {"c": np.zeros(2, np.float32)}},
        {"theta": {"b": np.array([0.0, np.nan], np.float32)}},
        {"theta": {"b": np.zeros(2)}},
        {"mean": {"b": np.array(["x", "y"])}},
        {"mean": {"b": np.zeros((2, 2))}},
        {"square": {"b": np.zeros(2), "c": np.zeros(2)}},
    ],
)
def test_a_state_of_other_weights_is_left_and_looked_for_anew(arrays):
    """Such a state comes with a stranger's run, and claims to have begun where this one does."""
    weights = {"b": np.zeros(2, np.float32)}
    began = SimpleNamespace(first=weights, nats=0.0)
    own = {"theta": weights, "mean": {"b": np.ones(2)}, "square": {"b": np.ones(2)}}

    def begin_anew(state):
        raise InterruptedError

    sound = Improved(Ascent(**own), theta.adopted_digest(weights), 1.0, stopped="enough")
    assert _climb(SimpleNamespace(nats=2.0), began, sound, begin_anew) is sound
    other = replace(sound, at=Ascent(**{**own, **arrays}))
    with pytest.raises(InterruptedError):
        _climb(SimpleNamespace(nats=2.0), began, other, begin_anew)


PACE = Pace(group=8, step_nats=0.3, steps=3)
MEASURED = 8
FEW = 32
"""Answers by which policies are compared, in place of `COMPARED`."""
SETS = (
    "panel.beta=30", "run.votes=24", "run.name=few", "subspace.kind=none", "subspace.samples=64",
)  # fmt: skip


@pytest.mark.spine
def test_it_reads_training_prompts_alone_and_tells_how_far_the_adopted_policy_s_own_answers_are(
    tmp_path, monkeypatch
):
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path)]
    assert call([*line, *(word for each in SETS for word in ("--set", each))]) == 0
    asked, sample = set(), LoraPolicy.sample_tokens

    def noted(policy, prompts, *given, **how):
        asked.update(prompts)
        return sample(policy, prompts, *given, **how)

    with Ledger.open(tmp_path / "few.db") as ledger, lease.hold(ledger), wide_guards.wide():
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        with monkeypatch.context() as patch:
            patch.setattr(LoraPolicy, "sample_tokens", noted)
            patch.setattr(policy_search, "PACE", PACE)
            patch.setattr(policy_search, "CHECKED", MEASURED)
            patch.setattr(policy_search, "COMPARED", FEW)
            patch.setattr(policy_search, "START_ANSWERS", 1)
            between_rounds.improve_run(ledger, parts, nats=2.5)
        train, _ = set_aside(parts.prompts.train, ledger.root_seed)
        found = theta.read_adopted(ledger)
        aside = split_prompts(train, MEASURED, ledger.root_seed)[1]
        assert {*aside} < asked <= {*train} and len(asked) == MEASURED + PACE.steps * PACE.prompts
        seed = seeds.child_seed(found.body["seed"], 0, "compared")
        with moved(parts.language, found.theta):
            rows = parts.language.sample_tokens(aside, math.ceil(FEW / len(aside)), seed=seed)
            nats, _ = parts.language.kl_of(aside, rows)
        assert found.body["nats"] == pytest.approx(nats) and nats > 0
