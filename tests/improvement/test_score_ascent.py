"""Improving on a score: what a step costs, when it stops, and that it ends alike when resumed."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from szpo import cache, seeds, turns
from szpo.config import settings_file
from szpo.data.prompts import load_shipped
from szpo.errors import UsageError
from szpo.improvement import score_ascent
from szpo.improvement.score_ascent import (
    Improved,
    Plan,
    Proposal,
    Task,
    cost,
    draw_gradient,
    draw_pool,
    improve,
    natural_gradient,
    policy_gradient,
    read_scores,
    zeroth_order,
)
from szpo.models import loading
from szpo.models.named_models import MOODS
from szpo.models.sampling import Sampling
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies import text_guards
from szpo.policies.basis import Fisher
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Subspace
from szpo.policies.text_guards import FLUENCY, LENGTH, NAMES
from szpo.types import Answer, Floats, Prompt, Shift, Theta
from tests.support.policies import full, policy_of, small
from tests.support.tiny_models import loaded

ASKED = [prompt for prompt in load_shipped().train[:12]]
PLAN = Plan(nats=1.0, step_nats=0.15, answers=64, samples=8, checked=4, each=8, waived=NAMES)

GOOD = {word for words in MOODS["good"].values() for word in words}


def cheer(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    """Number of words in good mood."""
    return np.array([float(sum(w.strip(".") in GOOD for w in a.text.split())) for a in answers])


def alike(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    return np.ones(len(answers))


@pytest.fixture(scope="module")
def policy():
    base = loading.load("tiny", dtype="fp32")
    return policy_of(base, full(base), sampling=Sampling(max_new_tokens=12))


@pytest.fixture(scope="module")
def done(policy):
    """The states of one improvement, the last one ended."""
    states: list[Improved] = []
    improve(policy, cheer, ASKED, natural_gradient, PLAN, seed=6, report=states.append)
    return states


def digest(policy: LoraPolicy, state: Improved) -> str:
    return parameters.digest(state.theta, policy.layout)


def test_a_score_rises_by_steps_whose_measured_kl_is_bounded(policy, done):
    end = done[-1]
    assert end.checked.score > end.base.score + 0.1  # by .41; over seeds .09 to .41
    far = 0.0
    for step in end.steps:
        assert step.kept
        near = math.sqrt(2 * step.checked.nats)
        assert near - far <= score_ascent.SLACK * math.sqrt(2 * PLAN.step_nats) + 1e-9
        far = near
    assert 0 < end.checked.nats <= PLAN.nats
    assert policy.theta().keys() == policy.start().keys()
    assert all(not value.any() for value in policy.theta().values())  # it ends where it was


def test_a_guard_of_the_users_ends_it_at_the_last_policy_that_held(policy, done):
    asked = [(ASKED[0], Answer("no such word")), (ASKED[1], policy.likeliest(ASKED[1:2])[0])]
    assert text_guards.count_right(policy, asked, base=True) == 1
    held = itertools.chain([True], itertools.repeat(False))
    seen = []

    def keep():
        seen.append(float(max(abs(value).max() for value in policy.theta().values())))
        return (text_guards.Guard(text_guards.RIGHT, 0.0, "loses at most 1 of 1", next(held)),)

    end = improve(policy, cheer, ASKED, natural_gradient, PLAN, seed=6, keep=keep)
    assert min(seen) > 0  # asked where the step leads
    assert end.stopped == f"guard: {text_guards.RIGHT}" and [s.kept for s in end.steps] == [1, 0]
    assert digest(policy, end) == digest(policy, done[1])
    assert end.steps[-1].halved == score_ascent.MOST_HALVED
    assert text_guards.keeper(policy, asked)()[0].value == 0


def test_a_step_that_breaks_a_guard_is_halved_until_none_breaks(policy, done):
    held = itertools.chain([True, False, False], itertools.repeat(True))

    def keep():
        return (text_guards.Guard(text_guards.RIGHT, 0.0, "loses at most 1 of 1", next(held)),)

    end = improve(
        policy, cheer, ASKED, natural_gradient, replace(PLAN, steps=2), seed=6, keep=keep
    )
    first, whole, quarter = *done[-1].steps[:2], end.steps[1]
    assert quarter.kept and quarter.halved == whole.halved + 2
    near, far, farther = (math.sqrt(2 * s.checked.nats) for s in (first, quarter, whole))
    assert far - near < (farther - near) / 2


@pytest.mark.full
def test_what_a_step_costs_is_foretold_by_other_answers(policy):
    """½ dᵀ F d of score functions that the direction was not fitted to, against the model's KL.

    Small steps cost .7 to 1.4 of it on this model, by seed and way; farther out the square fails.
    """
    task = Task(cheer, tuple(ASKED), 16, seed=1)
    found = natural_gradient(policy, task)
    told = cost(draw_gradient(policy, replace(task, samples=144, seed=2)).scores, found.direction)
    theta = score_ascent.add(
        policy.start(), policy.layout, found.direction, math.sqrt(0.01 / told)
    )
    assert 0.005 < measured_kl(policy, theta) < 0.02


def test_many_answers_of_the_start_show_one_line_which_all_steps_follow(policy):
    pool = draw_pool(policy, ASKED, 8, seed=1)
    way = score_ascent.along(pool, cheer, lambda line: line, drawn=96)
    first, second = (way(policy, Task(cheer, (), 1, seed=9, step=step)) for step in (1, 2))
    drawn = draw_gradient(policy, Task(cheer, tuple(ASKED), 8, seeds.child_seed(1, 0, "pool")))
    natural = Fisher(drawn.scores, 0.03).natural(drawn.gradient[:, None])[:, 0]
    np.testing.assert_allclose(first.direction, natural, atol=1e-4 * abs(natural).max())
    assert (second.direction == first.direction).all()
    assert (first.answers, second.answers) == (96, 0)
    still = score_ascent.along(pool, alike, lambda line: line, drawn=0)
    assert still(policy, Task(alike, (), 1, seed=9)) is None


def measured_kl(policy: LoraPolicy, theta: Theta) -> float:
    fresh = policy_of(policy.loaded, policy.subspace, sampling=policy.sampling)
    fresh.move_to(theta)
    return fresh.kl(ASKED, seed=8, samples=32)[0]


ALONG = partial(zeroth_order, nats=0.1)


@pytest.mark.parametrize(
    "way",
    [
        policy_gradient,
        *(
            pytest.param(w, marks=pytest.mark.full)
            for w in (partial(policy_gradient, ridge=math.inf), ALONG)
        ),
        natural_gradient,
    ],
)
def test_the_same_seed_gives_the_same_weights(policy, way):
    plan = replace(PLAN, steps=2)
    three = (improve(policy, cheer, ASKED, way, plan, seed=seed) for seed in (3, 3, 4))
    first, again, other = three
    assert digest(policy, first) == digest(policy, again) and first.steps == again.steps
    assert first.last.keys() == other.last.keys()
    assert any((first.last[name] != other.last[name]).any() for name in first.last)


def test_a_step_without_gradients_is_a_seed_and_coefficients(policy, tmp_path):
    """Nothing but these is needed to compute its weights, to the last bit; one changed is seen."""
    end = improve(policy, cheer, ASKED, ALONG, replace(PLAN, steps=2), seed=6)
    score_ascent.save(end, tmp_path / "state.npz", ("run", 9))
    kept = [step.coefs for step in score_ascent.load(tmp_path / "state.npz")[0].steps]

    def weights(steps) -> str:
        theta = policy.start()
        for number, coefs in enumerate(steps, start=1):
            theta = policy.subspace.follow(policy.space, theta, number, coefs)
        return parameters.digest(theta, policy.layout)

    assert weights(kept) == parameters.digest(end.last, policy.layout)
    place = int(np.argmax(np.abs(kept[0])))
    one = float(parameters.round_coef(kept[0][place] * (1 + 2**-12)))
    other = (*kept[0][:place], one, *kept[0][place + 1 :])
    assert weights([other, *kept[1:]]) != weights(kept)


@pytest.mark.full
def test_an_improvement_resumed_from_a_file_ends_like_an_uninterrupted_one(policy, done, tmp_path):
    assert len(done) > 3
    score_ascent.save(done[1], tmp_path / "state.npz", ("run", 9))
    since, origin = score_ascent.load(tmp_path / "state.npz")
    assert origin == ("run", 9)
    assert (since.steps, since.base) == (done[1].steps, done[1].base)
    said: list[Improved] = []
    end = improve(
        policy, cheer, ASKED, natural_gradient, PLAN, seed=6, since=since, report=said.append
    )
    assert [len(state.steps) for state in said] == [*range(2, len(done))]  # none is said twice
    assert digest(policy, end) == digest(policy, done[-1])
    assert (end.steps, end.stopped) == (done[-1].steps, done[-1].stopped)
    (tmp_path / "state.npz").write_bytes(b"no state")
    assert cache.read_stored(tmp_path / "state.npz", score_ascent.load) is None


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_wherever_it_pauses_while_others_use_the_model_it_ends_alike(policy, done, seed):
    """At each pause its model answers, reads and scores in another place, and that undisturbed."""
    rng, pauses, points = np.random.default_rng(seed), 0, itertools.count()
    other = policy_of(policy.loaded, policy.subspace, sampling=policy.sampling)
    other.move_to(done[-1].theta)
    rows, asked = other.sample_tokens(ASKED[:3], 2, seed=1), [p for p in ASKED[:3] for _ in "ab"]
    uses = [
        lambda: rows == other.sample_tokens(ASKED[:3], 2, seed=1),
        lambda: other.kl(ASKED[:3], seed=2),
        lambda: read_scores(other, other.theta(), asked, rows).sum(),
        lambda: tuple(other.logprob_base(ASKED[:1], [Answer("so it was")])),
    ]
    alone = [use() for use in uses]

    def work() -> Improved:
        return improve(policy, cheer, ASKED, natural_gradient, PLAN, seed=6)

    slices = turns.Turns(work, clock=lambda: float(next(points)))
    while (end := slices.move(float(rng.integers(1, 16)))) is None:
        which, pauses = pauses % len(uses), pauses + 1
        assert uses[which]() == alone[which]
    assert pauses > 20
    assert digest(policy, end) == digest(policy, done[-1])
    assert (end.steps, end.stopped) == (done[-1].steps, done[-1].stopped)


def test_work_that_is_stopped_leaves_the_model_as_it_was(policy):
    def work() -> Improved:
        return improve(policy, cheer, ASKED, natural_gradient, PLAN, seed=6)

    before = policy.sample_tokens(ASKED[:2], seed=1)
    slices = turns.Turns(work, clock=lambda: 0.0)
    for _ in range(9):  # in the midst of the first answers
        assert slices.move(0) is None
    slices.stop()
    assert not any(value.any() for value in policy.theta().values())
    assert policy.sample_tokens(ASKED[:2], seed=1) == before
    assert turns.Turns(lambda: turns.is_over(), clock=lambda: 0.0).move(1) is False
    with pytest.raises(ZeroDivisionError):
        turns.Turns(lambda: 1 // 0).move(1)


def test_a_score_that_cannot_rise_stops_at_once(policy):
    end = improve(policy, alike, ASKED, policy_gradient, PLAN, seed=0)
    assert end.steps == ()
    assert end.stopped == "no answer scores more than another to the same prompt"
    assert digest(policy, end) == parameters.digest(policy.start(), policy.layout)


class Slope:
    """A policy whose answers are numbers: a slope along four coordinates, and noise."""

    def __init__(self, noise: float):
        names = {"b": np.zeros((4, 1), np.float32)}
        basis = {"b": np.eye(4, dtype=np.float32)[:, None, :]}
        self.subspace = Subspace("features", (), {}, names, basis)
        self.space = Space(7, self.subspace.layout, Law("orthonormal"))
        self.noise, self.slope = noise, np.array([1.0, -0.5, 0.0, 0.25])

    def rollout(self, prompts, shifts, *, seed) -> list[tuple[Answer, ...]]:
        rng = np.random.default_rng(seed)

        def value(shift: Shift) -> float:
            along = parameters.direction_vector(self.space, shift.step, shift.k)
            return float(self.slope @ (shift.sign * shift.radius * along))

        return [
            tuple(Answer(repr(value(s) + self.noise * rng.normal())) for _ in row)
            for row, s in zip(prompts, shifts, strict=True)
        ]


def number(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
    return np.array([float(answer.text) for answer in answers])


def along(policy: Slope, found: Proposal, step: int) -> Floats:
    vectors = [parameters.direction_vector(policy.space, step, k) for k in range(8)]
    return found.direction @ np.array(vectors)


def test_perturbed_policies_find_the_slope_and_tell_what_a_step_along_it_costs():
    policy, task = Slope(noise=0.2), Task(number, tuple(ASKED[:8]), 8, seed=1, step=3)
    found = zeroth_order(policy, task)
    z = along(policy, found, 3)
    assert found.seeded and found.answers == 64 and found.direction.shape == (8,)
    assert z @ policy.slope > 0.95 * np.linalg.norm(z) * np.linalg.norm(policy.slope)
    assert found.nats == pytest.approx(z @ z / 2)
    assert zeroth_order(policy, replace(task, score=alike)) is None


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_many_votes_drawn_from_scores_say_what_the_scores_say(rule):
    policy, task = Slope(noise=0.2), Task(number, tuple(ASKED[:8]), 8, seed=1, step=3)
    limit = zeroth_order(policy, task).direction
    voted = zeroth_order(policy, task, rule, voters=4096).direction
    few = zeroth_order(policy, task, rule, voters=1).direction
    large = np.abs(limit) > 0.1 * np.abs(limit).max()
    assert (np.sign(voted) == np.sign(limit))[large].all()
    if rule == "known":
        np.testing.assert_allclose(voted, limit, atol=0.05 * np.abs(limit).max())
        assert np.abs(few - limit).max() > np.abs(voted - limit).max()


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({}, "natural"),
        ({"engine": {"kind": "ray"}}, "zeroth"),
        ({"engine": {"kind": "vllm", "replicas": ["http://localhost:1"]}}, "zeroth"),
        ({"model": {"quantization": "nf4"}}, "zeroth"),
        ({"model": {"quantization": "nf4"}, "improve": {"way": "policy"}}, "policy"),
    ],
)
def test_no_gradient_is_asked_of_an_engine_that_only_generates(changes, way):
    assert settings_file.check(changes).way == way


class Away:
    """A way that only moves: its direction is drawn, and its cost believed to be ``nats``."""

    def __init__(self, nats: float):
        self.nats = nats

    def __call__(self, policy: LoraPolicy, task: Task) -> Proposal:
        direction = np.random.default_rng(task.seed % 2**32).normal(size=policy.dim)
        return Proposal(direction, self.nats, 0)


def test_a_score_that_does_not_rise_ends_after_some_patience(policy):
    plan = replace(PLAN, nats=50.0, patience=3)
    end = improve(policy, lambda p, a: -cheer(p, a) * 0, ASKED, Away(1e3), plan, seed=0)
    assert (len(end.steps), end.best, end.stopped) == (3, 0, "the score no longer rises")


def test_steps_learn_from_all_prompts_in_turn_each_where_the_last_one_led(policy):
    class Noted(Away):
        def __call__(self, policy, task):
            asked.append(task.prompts)
            began.append(parameters.digest(policy.theta(), policy.layout))
            return super().__call__(policy, task)

    asked, began, led = [], [], []
    plan = replace(PLAN, nats=50.0, patience=4, answers=8, samples=4)
    note = lambda state: led.append(parameters.digest(state.last, policy.layout))  # noqa: E731
    improve(policy, lambda p, a: -cheer(p, a) * 0, ASKED, Noted(1e3), plan, seed=0, report=note)
    every = [prompt for part in asked for prompt in part]
    assert [len(part) for part in asked] == [2] * 4 and len({*every}) == 8
    assert began == led[:4] and len({*led}) == 5  # also where no score is the best


def test_a_step_that_costs_more_than_predicted_is_halved_and_then_given_up(policy):
    costly = improve(policy, cheer, ASKED, Away(1e-3), replace(PLAN, steps=1), seed=0)
    (step,) = costly.steps
    assert step.halved == score_ascent.MOST_HALVED and not step.kept
    assert costly.stopped == "no step stays within the KL that it may cost"
    assert digest(policy, costly) == parameters.digest(policy.start(), policy.layout)


@pytest.mark.full
def test_a_guard_returns_to_the_last_good_policy(policy):
    """A score on short answers breaks the guard of length; the policy before that step is kept."""

    def short(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        return np.array([-float(answer.tokens) for answer in answers])

    heeded = replace(PLAN, nats=20.0, step_nats=0.3, waived=tuple({*NAMES} - {LENGTH}))
    end = improve(policy, short, ASKED, natural_gradient, heeded, seed=1)
    assert end.stopped == f"guard: {LENGTH}"
    last = end.steps[-1]
    assert not last.kept and all(step.kept for step in end.steps[:-1])
    assert end.best < len(end.steps)
    assert last.checked.score > end.checked.score  # it would have scored more
    assert FLUENCY in heeded.waived


def test_an_improvement_goes_on_from_where_the_policy_is(policy, done):
    """KL and guards stay those to the start, and the budget counts what was spent before."""
    policy.move_to(done[-1].theta)
    try:
        more = improve(
            policy, cheer, ASKED, natural_gradient,
            replace(PLAN, nats=1.6), seed=9,
        )  # fmt: skip
    finally:
        policy.move_to(policy.start())
    assert more.base.nats == 0 < more.begun.nats == pytest.approx(done[-1].checked.nats, rel=0.5)
    fresh = improve(policy, cheer, ASKED, natural_gradient, replace(PLAN, steps=1), seed=9)
    assert more.base == fresh.base
    assert more.checked.nats <= 1.6


def test_scores_of_parts_add_up_to_the_answer_at_any_coordinates(policy, done):
    rows = policy.sample_tokens(ASKED[:3], seed=2)
    whole = read_scores(policy, done[-1].theta, ASKED[:3], rows)
    parts = read_scores(policy, done[-1].theta, ASKED[:3], rows, (2, 5))
    assert parts.shape == (3, 3, policy.dim)
    np.testing.assert_allclose(parts.sum(1), whole[:, 0], atol=1e-4)
    elsewhere = read_scores(policy, policy.start(), ASKED[:3], rows)
    assert not np.allclose(elsewhere, whole, atol=1e-3)


def test_what_cannot_be_improved_is_refused():
    base = loaded("llama")
    for unfit, message in (
        (policy_of(base, small(base)), "every B of an adapter"),
        (policy_of(base, full(base, train="AB")), "these coordinates are others"),
        (policy_of(base, full(base), sampling=Sampling(temperature=0)), "temperature 0"),
    ):
        with pytest.raises(UsageError, match=message):
            improve(unfit, cheer, ASKED, natural_gradient, PLAN, seed=0)
    with pytest.raises(UsageError, match="6 different prompts"):
        improve(policy_of(base, full(base)), cheer, ASKED[:5], natural_gradient, seed=0)
