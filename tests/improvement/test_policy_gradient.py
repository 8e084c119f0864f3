"""A leave-one-out policy gradient on a rein: its advantages, what a step costs, where it ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from szpo.data.prompts import load_shipped
from szpo.errors import RunError, UsageError
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
from szpo.models.forced import Forced
from szpo.models.logprobs import Sample
from szpo.models.sampling import Sampling
from szpo.models.scores import ScoredLaw
from szpo.policies.backend import KL, Scores
from szpo.policies.protocol import moved
from tests.support.policies import full, policy_of, small
from tests.support.tiny_words import MOODS

ASKED = load_shipped().train[:12]
PACE = Pace(prompts=8, group=4, step_nats=0.1, steps=8)
GOOD = {word for words in MOODS["good"].values() for word in words}
CHEER = Score(
    lambda prompts, answers, states: np.array(
        [float(sum(w.strip(".") in GOOD for w in a.text.split())) for a in answers]
    )
)
"""Number of words in good mood."""
ALIKE = Score(lambda prompts, answers, states: np.ones(len(answers)))


@pytest.fixture(scope="module")
def base():
    return loading.load("tiny", dtype="fp32")


@pytest.fixture
def policy(base):
    """A policy that moves in A and B."""
    return policy_of(base, full(base, train="AB"), sampling=Sampling(max_new_tokens=12))


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


@pytest.mark.full
def test_a_policy_forced_along_answers_tells_its_gradient_and_its_nats(policy):
    rng = np.random.default_rng(1)
    theta = {n: v + rng.normal(0, 0.3, v.shape).astype(np.float32)
             for n, v in policy.theta().items()}  # fmt: skip
    with moved(policy, theta):
        rows = policy.sample_tokens(ASKED[:4], 2, seed=3)
    asked = tuple(policy.encode(p) for p in ASKED[:4] for _ in range(2))
    forced = Forced(policy.local.adapted, [*map(Sample, asked, rows)])
    weights, sites = rng.normal(size=(8, 2)), policy.subspace.sites
    found, nats = forced.gradient(theta, [*theta], weights, cuts=(4,))
    read = policy.backend.read(KL(asked, rows, (theta,), (0,) * 8))
    np.testing.assert_allclose(nats, read, rtol=1e-4)
    # What a part's tokens give is what the answer up to its end gives, less what came before.
    first, whole = (
        policy.backend.read(Scores(asked, each, ScoredLaw(), theta))
        for each in (tuple(row[:4] for row in rows), rows)
    )
    wanted = np.concatenate([found[site.b].ravel() for site in sites])
    parts = weights[:, 0] @ first + weights[:, 1] @ (whole - first)
    np.testing.assert_allclose(wanted, parts, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(forced.cost(theta), 0.0, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("decay", [None, DECAY])
def test_it_scores_higher_and_no_step_costs_more_than_its_share(base, decay):
    policy = policy_of(base, full(base), sampling=Sampling(max_new_tokens=12))
    pace = Pace(prompts=12, group=8, step_nats=0.1, steps=8)
    end = climb(policy, replace(CHEER, decay=decay), ASKED, pace, seed=6)
    first, last = end.steps[0], end.steps[-1]
    assert last.score > first.score + 0.15
    assert first.nats == 0 and last.nats > 0.2
    assert all(0 < step.cost <= WITHIN * pace.step_nats for step in end.steps)
    assert any(step.cost > 0.5 * pace.step_nats for step in end.steps)
    assert end.answers == 8 * 96


@pytest.mark.full
def test_credit_by_tokens_points_better_uphill_from_as_few_answers(base):
    """Cosines of steps of 32 answers with that of 1,536: tokens of a word in good mood earn it."""

    def way(score, each, seed):
        policy = policy_of(base, full(base), sampling=Sampling(max_new_tokens=12))
        end = climb(policy, score, ASKED, Pace(12, each, steps=1), seed=seed)
        moved = np.concatenate([end.mean[name].ravel() for name in sorted(end.mean)])
        return moved / np.linalg.norm(moved)

    uphill = way(CHEER, 128, 99)
    whole, parts = (
        [float(way(score, 3, seed) @ uphill) for seed in range(8)]
        for score in (CHEER, replace(CHEER, decay=DECAY))
    )
    assert np.mean(parts) > 1.2 * np.mean(whole) > 0


def test_a_part_of_several_tokens_is_credited_with_what_comes_as_soon_after_as_a_token(
    policy, monkeypatch
):
    """λ is of a token: of a part it is λ to the power of the part's tokens."""
    lengths, told, credit = [], [], policy_gradient.assign_credit

    def cheer(prompts, answers, states):
        lengths.append(max(answer.tokens for answer in answers))
        return CHEER(prompts, answers)

    def noted(values, begun, groups, decay):
        told.append(decay)
        return credit(values, begun, groups, decay)

    monkeypatch.setattr(policy_gradient, "PARTS", 4)
    monkeypatch.setattr(policy_gradient, "assign_credit", noted)
    climb(policy, Score(cheer, decay=DECAY), ASKED, Pace(2, 2, steps=1), seed=1)
    tokens = math.ceil(lengths[0] / 4)
    assert tokens > 1 and told == [pytest.approx(DECAY**tokens)]


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
    monkeypatch.setattr(Forced, "cost", lambda self, theta: np.full(32, next(costs)))
    end = climb(policy, CHEER, ASKED, replace(PACE, steps=1), seed=1)
    assert end.floor == 0.2 and 0 < end.steps[0].cost < 1e-6


def test_answers_that_score_alike_move_nothing(policy):
    end = climb(policy, ALIKE, ASKED, replace(PACE, steps=1), seed=1)
    assert end.steps[0].cost == 0 and not end.mean
    assert all((end.theta[name] == value).all() for name, value in policy.theta().items())


@pytest.mark.full
def test_a_proposal_is_a_difference_of_weights_within_its_nats(policy):
    asked, begun = ASKED, policy.digest()
    found, _ = propose(policy, CHEER, asked, replace(PACE, step_nats=0.05), seed=4, nats=0.5)
    assert policy.digest() == begun and {*found} == {name for name, _ in policy.layout}
    with moved(policy, {name: policy.theta()[name] + value for name, value in found.items()}):
        nats, stderr = policy.kl(asked, seed=9, samples=2)
    assert 0.02 < nats <= 0.5 + 2 * stderr


def test_what_has_no_gradient_or_no_score_is_refused(base, policy):
    with pytest.raises(UsageError, match="other"):
        climb(policy_of(base, small(base)), CHEER, ASKED, seed=0)
    with pytest.raises(UsageError, match="temperature 0"):
        cold = policy_of(base, full(base), sampling=Sampling(0.0, max_new_tokens=4))
        climb(cold, CHEER, ASKED, seed=0)
    broken = Score(lambda prompts, answers, states: np.full(len(answers), math.nan))
    with pytest.raises(RunError, match="not finite"):
        climb(policy, broken, ASKED, replace(PACE, steps=1), seed=0)
