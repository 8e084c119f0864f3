"""A leave-one-out policy gradient on a rein: its advantages, what a step costs, where it ends."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from szpo import seeds
from szpo.data.prompts import load_shipped
from szpo.errors import ResourceError, RunError, UsageError
from szpo.improvement import policy_gradient
from szpo.improvement.policy_gradient import (
    DECAY,
    WITHIN,
    Ascent,
    Pace,
    Score,
    Step,
    advantages,
    climb,
    follow,
    load,
    propose,
    save,
)
from szpo.models import loading
from szpo.models.sampling import Sampling
from szpo.policies.basis import assign_credit
from szpo.policies.protocol import moved
from tests.support import toy_policy
from tests.support.policies import full, policy_of
from tests.support.tiny_words import MOODS
from tests.support.toy_policy import ToyForced, ToyPolicy

GOOD = {word for words in MOODS["good"].values() for word in words}
CHEER = Score(
    lambda prompts, answers, states: np.array(
        [float(sum(w.strip(".") in GOOD for w in a.text.split())) for a in answers]
    )
)
"""Number of words in good mood."""
ALIKE = Score(lambda prompts, answers, states: np.ones(len(answers)))
ASKED = toy_policy.PROMPTS[:5]
PACE = Pace(prompts=3, group=4, step_nats=0.05, steps=4)


def worth(prompts, answers, states=None):
    return np.array(
        [len(p.text) % 3 + toy_policy.count(a.text) for p, a in zip(prompts, answers, strict=True)]
    )


LIKES = Score(worth)


@pytest.fixture
def policy(monkeypatch):
    """A policy of a few numbers that moves in A and B."""
    monkeypatch.setattr(policy_gradient, "Forced", ToyForced)
    return ToyPolicy(None, toy_policy.moving("AB"), sampling=Sampling(0.8))


@given(some.arrays(float, (3, 4), elements=st.integers(-5, 5).map(float)))
def test_an_answer_is_compared_with_the_others_of_its_group(scores):
    found = advantages(scores)
    others = (scores.sum(1, keepdims=True) - scores) / 3
    apart = scores - others
    spread = apart.std()
    np.testing.assert_allclose(found, apart / spread if spread else 0.0, atol=1e-12)


def test_adam_moves_by_a_size_at_first_and_remembers():
    """Kingma and Ba 2015: the first step is the sign, whatever the gradient's length."""
    here = Ascent({"x": np.zeros(2, np.float32)})
    after, way = follow(here, {"x": np.array([3.0, -0.2])}, {"x": 0.5})
    np.testing.assert_allclose(way["x"], [0.5, -0.5], rtol=1e-6)
    after = replace(after, steps=(None,))
    _, way = follow(after, {"x": np.array([-3.0, -0.2])}, {"x": 1.0})
    # m̂ = (.9·.1·3 − .1·3)/(1 − .81) and v̂ = 9 in the first entry.
    np.testing.assert_allclose(way["x"], [(0.27 - 0.3) / 0.19 / 3, -1.0], rtol=1e-6)


def by_hand(policy, pace, seed, cuts, decay):
    """What the module says, in its own order: the policy after the steps, these, and the rest."""
    here, names = dict(policy.theta()), [name for name, _ in policy.layout]
    mean, square, told, rate, floor = {}, {}, [], 0.03, []
    laps = [seeds.derive(seed, "improve order", step=lap) for lap in range(3)]
    order = np.concatenate([seeds.permutation(key, len(ASKED)) for key in laps])
    for number in range(1, pace.steps + 1):
        asked = [ASKED[i] for i in order[(number - 1) * 3 : number * 3]]
        every = [prompt for prompt in asked for _ in range(4)]
        with moved(policy, here):
            rows = policy.sample_tokens(
                asked, 4, seed=seeds.child_seed(seed, number - 1, "improve answers")
            )
        scores = worth(every, [policy.answer(row) for row in rows])
        grouped = scores.reshape(3, 4)
        apart = grouped - (grouped.sum(1, keepdims=True) - grouped) / 3
        credit = (apart / apart.std()).reshape(12, 1)
        if cuts:
            begun = [worth(every, [policy.answer(row[:cut]) for row in rows]) for cut in cuts]
            credit = assign_credit(
                scores[:, None], np.array(begun)[..., None], np.arange(12) // 4, decay
            )[..., 0]
        samples = [policy_gradient.Sample(policy.encode(p), r)
                   for p, r in zip(every, rows, strict=True)]  # fmt: skip
        forced = ToyForced(policy, samples, toy_policy.STARTS, temperature=0.8)
        gradient, kl = forced.gradient(policy.factors(here), names, credit / 12, cuts)
        way = {}
        for name, g in gradient.items():
            mean[name] = 0.9 * mean.get(name, 0.0) + 0.1 * g
            square[name] = 0.95 * square.get(name, 0.0) + 0.05 * g.astype(float) ** 2
            size = np.sqrt((here[name] ** 2).mean()) if name.endswith("A") else 1.0
            root = np.sqrt(square[name] / (1 - 0.95**number)) + 1e-8
            way[name] = size * mean[name] / (1 - 0.9**number) / root

        def at(rate, here=here, way=way):
            return {name: (here[name] + rate * way[name]).astype(np.float32) for name in way}

        def spent(rate, forced=forced, at=at):
            return forced.cost(at(rate)).mean() - sum(floor)

        if number == 1:
            floor.append(spent(0.001 * rate))
        for _ in range(4):
            if spent(rate) <= 1.2 * pace.step_nats:
                break
            rate *= math.sqrt(pace.step_nats / spent(rate))
        nats = kl.reshape(3, 4).mean(1)
        told.append((12, scores.mean(), nats.mean(), nats.std(ddof=1) / 3**0.5, spent(rate)))
        here, longer = at(rate), math.sqrt(pace.step_nats / spent(rate))
        rate *= min(2.0, longer)
    return here, mean, told, (rate, *floor)


@pytest.mark.parametrize("share", [0.05, 2e-4], ids=["longer steps", "shortened ones"])
@pytest.mark.parametrize(
    ("decay", "parts", "cuts"), [(None, 48, ()), (DECAY, 48, (1, 2, 3)), (DECAY, 2, (2,))]
)
def test_steps_are_those_of_the_module_s_description(
    policy, monkeypatch, share, decay, parts, cuts
):
    """λ is of a token: of a part it is λ to the power of the part's tokens."""
    monkeypatch.setattr(policy_gradient, "PARTS", parts)
    pace = replace(PACE, step_nats=share)
    end = climb(policy, replace(LIKES, decay=decay), ASKED, pace, seed=6)
    wanted, mean, told, rest = by_hand(policy, pace, 6, cuts, decay and decay ** min(cuts))
    np.testing.assert_allclose([astuple(step) for step in end.steps], told, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose((end.rate, end.floor), rest, rtol=1e-5)
    for name, values in wanted.items():
        np.testing.assert_allclose(end.theta[name], values, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(end.mean[name], mean[name], rtol=1e-5, atol=1e-9)
    assert end.answers == 4 * 12 and max(step.cost for step in end.steps) <= WITHIN * share
    assert end.steps[0].nats == 0 < end.steps[-1].nats
    first = climb(policy, replace(LIKES, decay=decay), ASKED, replace(pace, steps=1), seed=6)
    again = climb(policy, replace(LIKES, decay=decay), ASKED, pace, seed=6, since=first)
    assert again.steps == end.steps


def test_it_scores_higher_and_only_whole_answers_are_scored_with_their_states(policy):
    known = []

    def noted(prompts, answers, states):
        known.append((states is None, {answer.tokens for answer in answers}))
        if states is not None:  # those that were read of the very answers
            wanted = policy.mean_states(prompts, answers, 7)
            np.testing.assert_array_equal(states, wanted)
        return worth(prompts, answers)

    end = climb(policy, Score(noted, 7, DECAY), ASKED, replace(PACE, steps=12), seed=2)
    assert end.steps[-1].score > end.steps[0].score + 1 and end.steps[-1].nats > 0.2
    assert known[:4] == [(False, {4}), (True, {1}), (True, {2}), (True, {3})]


@pytest.mark.full
def test_credit_by_tokens_points_better_uphill_from_as_few_answers():
    """Cosines of steps of 32 answers with that of 1,536: tokens of a word in good mood earn it."""
    base, asked = loading.load("tiny", dtype="fp32"), load_shipped().train[:12]

    def way(score, each, seed):
        policy = policy_of(base, full(base), sampling=Sampling(max_new_tokens=12))
        end = climb(policy, score, asked, Pace(12, each, steps=1), seed=seed)
        moved = np.concatenate([end.mean[name].ravel() for name in sorted(end.mean)])
        return moved / np.linalg.norm(moved)

    uphill = way(CHEER, 128, 99)
    whole, parts = (
        [float(way(score, 3, seed) @ uphill) for seed in range(8)]
        for score in (CHEER, replace(CHEER, decay=DECAY))
    )
    assert np.mean(parts) > 1.2 * np.mean(whole) > 0


def test_a_state_on_file_goes_on_as_the_one_in_memory(tmp_path):
    step = Step(32, 0.5, 0.2, 0.01, 0.05)
    here = Ascent(
        {"x": np.float32([1, 2])}, {"x": np.array([0.1, -0.2])}, {"x": np.array([0.3, 0.4])},
        rate=0.02, floor=0.003, steps=(step, step),
    )  # fmt: skip
    save(here, tmp_path / "state.npz", {"seed": 7})
    found, facts = load(tmp_path / "state.npz")
    assert facts == {"seed": 7}
    assert (found.rate, found.floor, found.steps) == (here.rate, here.floor, here.steps)
    for name in ("theta", "mean", "square"):
        np.testing.assert_array_equal(getattr(found, name)["x"], getattr(here, name)["x"])


def test_a_step_that_costs_less_than_rounding_has_moved_all_the_same(policy, monkeypatch):
    costs = iter([0.2, 0.1])
    monkeypatch.setattr(ToyForced, "cost", lambda self, theta: np.full(12, next(costs)))
    end = climb(policy, LIKES, ASKED, replace(PACE, steps=1), seed=1)
    assert end.floor == pytest.approx(0.2) and 0 < end.steps[0].cost < 1e-6
    assert end.rate == 2 * policy_gradient.FIRST_RATE


def test_a_step_is_shortened_four_times_at_most_and_one_without_end_is_refused(
    policy, monkeypatch
):
    costs = [0.0, 0.8, 0.8, 0.8, 0.8, 0.7]
    told = iter(costs)
    monkeypatch.setattr(ToyForced, "cost", lambda self, theta: np.full(12, next(told)))
    end = climb(policy, LIKES, ASKED, replace(PACE, step_nats=0.2, steps=1), seed=1)
    assert end.steps[0].cost == pytest.approx(0.7)
    # Halved four times, as .2 is a quarter of .8; the next begins shorter by √(.2/.7).
    assert end.rate == pytest.approx(0.03 / 16 * math.sqrt(2 / 7))
    monkeypatch.setattr(ToyForced, "cost", lambda self, theta: np.full(12, math.inf))
    with pytest.raises(RunError, match="KL of a step is not finite"):
        climb(policy, LIKES, ASKED, replace(PACE, steps=1), seed=1)


def test_answers_that_score_alike_move_nothing(policy, monkeypatch):
    """Nor is a KL that rounds to less than 0 told so."""
    read = ToyForced.gradient
    told = lambda *given: (read(*given)[0], np.full(12, -1e-3))  # noqa: E731
    monkeypatch.setattr(ToyForced, "gradient", told)
    end = climb(policy, ALIKE, ASKED, replace(PACE, steps=1), seed=1)
    assert end.steps[0].cost == end.steps[0].nats == 0 and not end.mean
    assert all((end.theta[name] == value).all() for name, value in policy.theta().items())


def test_a_proposal_is_a_difference_of_weights_and_ends_before_it_may_leave_its_nats(policy):
    """Lengths √cost add up; a step is taken while they and √.05 stay within √.4."""
    pace = replace(PACE, steps=12)
    with moved(policy, climb(policy, LIKES, ASKED, replace(PACE, steps=1), seed=3).theta):
        begun = policy.theta()
        whole = climb(policy, LIKES, ASKED, pace, seed=4)
        gone = np.cumsum([0, *(step.cost**0.5 for step in whole.steps)])
        count = int((gone + 0.05**0.5 <= 0.4**0.5).sum())
        found, end = propose(policy, LIKES, ASKED, pace, seed=4, nats=0.4)
        assert 1 < count < 12 and end.steps == whole.steps[:count]
        assert all((policy.theta()[name] == value).all() for name, value in begun.items())
    for name, value in found.items():
        np.testing.assert_array_equal(value, end.theta[name] - begun[name])
    assert {*found} == {name for name, _ in policy.layout} and any(map(np.any, found.values()))


def test_what_has_no_gradient_or_no_score_is_refused(policy):
    with pytest.raises(UsageError, match="other"):
        climb(ToyPolicy(None, toy_policy.in_z(3)), LIKES, ASKED, seed=0)
    with pytest.raises(UsageError, match="temperature 0"):
        cold = ToyPolicy(None, toy_policy.moving(), sampling=Sampling(0.0))
        climb(cold, LIKES, ASKED, seed=0)
    broken = Score(lambda prompts, answers, states: np.full(len(answers), math.nan))
    with pytest.raises(RunError, match="not finite"):
        climb(policy, broken, ASKED, replace(PACE, steps=1), seed=0)
    with pytest.raises(ResourceError, match="--best-of"), policy_gradient.in_memory():
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), policy_gradient.in_memory():
        raise RuntimeError("shapes")
