"""Every world: walks worth what they return, their law, repetitions apart, its policy."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from szpo.errors import RunError, UsageError
from szpo.optim.parameters import round13
from szpo.policies.protocol import check_policy
from szpo.types import Answer, Floats, Prompt, Shift, Update
from szpo_simulators import track
from szpo_simulators.panels.text_rewards import matrix, parse
from szpo_simulators.track import PROXY, TRUTH, Track
from szpo_simulators.worlds import rivals, world
from szpo_simulators.worlds.gridworld import Courier, GridWorld
from szpo_simulators.worlds.windy_yard import COST, PIT, WELL, TabularPolicy, Yard, score_walk
from szpo_simulators.worlds.world import draws
from tests.support.cases import case

WORLDS: dict[str, tuple[Callable[[], Any], float | None]] = {
    "dense grid": (GridWorld, 2.845295459),
    "courier": (Courier, 1.864197077),
    "no slip": (lambda: GridWorld(slip=0.0), None),
    "track, progress": (lambda: TRUTH, 0.665),
    "track, lines": (lambda: PROXY, 3.595884459),
}
"""Worlds whose value is exact, and the value of their start, recorded."""


@pytest.mark.full
def test_values_are_those_recorded_and_the_mean_of_many_returns():
    for name, (make, recorded) in WORLDS.items():
        with case(name):
            world = make()
            start = world.value(world.theta0[None])[0]
            assert start == pytest.approx(recorded or start, abs=1e-6)
            theta = world.theta0 + np.random.default_rng(3).normal(size=(3, world.dim))
            returns = world.returns(theta, draws(world, [1, 2, 3], 0, 0, 20_000))
            stderr = returns.std(1) / np.sqrt(returns.shape[1])
            assert (np.abs(returns.mean(1) - world.value(theta)) < 4 * stderr).all()


SMALL = {
    "dense": (GridWorld(size=2, slip=0.3, horizon=4), 1.58730457321),
    **{
        f"{seen}, {cells} cells": (Track(seen, cells, lines, 6, slip), value)
        for cells, lines, slip, *values in [
            (4, 2, 0.0, 0.227684564994, 3.01872627194),
            (6, 2, 0.3, -0.162760076487, 1.18751702211),
            (9, 3, 1.0, 0.0, 1.11111111111),
        ]
        for seen, value in zip(("progress", "checkpoints"), values, strict=True)
    },
}  # fmt: skip
"""Worlds and the expected return of logits drawn by seed 1, or on a track by the number of cells.

As the sum over all sequences of moves, by a program that knew the rules of the worlds alone.
"""


@pytest.mark.parametrize("name", SMALL)
def test_values_are_the_sum_over_all_walks(name):
    world, recorded = SMALL[name]
    seed = world.cells if isinstance(world, Track) else 1
    theta = np.random.default_rng(seed).normal(size=world.dim)
    assert world.value(theta[None])[0] == pytest.approx(recorded, abs=1e-10)


def test_vote_frequencies_are_those_of_the_logistic_law():
    """At five differences; 4 voters × 50,000 comparisons, 3.5 standard errors."""
    gaps = np.array([-3.0, -0.8, 0.0, 0.5, 2.0])
    coins = world.draw_coins(range(5), 7, (50_000, 4))[0]
    p = 1 / (1 + np.exp(-0.7 * gaps))
    found = world.count_plus(np.tile(gaps[:, None], 50_000), 0.7, coins).mean(1) / 4
    assert (np.abs(found - p) <= 3.5 * np.sqrt(p * (1 - p) / 200_000)).all()


def test_votes_of_a_step_are_the_same_in_any_chunk_and_for_any_number_of_voters():
    chunk = world.draw_coins([1, 2], 10, (3, 5), steps=4)
    np.testing.assert_array_equal(chunk[2], world.draw_coins([1, 2], 12, (3, 5))[0])
    np.testing.assert_array_equal(chunk[2, 1], world.draw_coins([2], 12, (3, 5))[0, 0])
    coins = world.draw_coins([1, 2], 0, (6, 1))[0]
    assert np.array_equal(world.count_plus(np.zeros((2, 6)), 1.0, coins), (coins < 0.5).sum(-1))


def test_nothing_beats_the_optimum():
    world, _ = SMALL["dense"]
    sharp = 30 * np.random.default_rng(2).normal(size=(3000, world.dim))
    best = world.value(sharp).max()
    assert world.value(world.theta0[None])[0] < best <= world.optimum() + 1e-12
    # Of a 5 × 5 grid of the same rules by an independent program.
    assert GridWorld().optimum() == pytest.approx(7.552, abs=5e-4)


def test_numbers_are_shared_or_each_sides_own():
    shared = draws(GridWorld(), [1, 2], 3, 0, 4)
    assert np.array_equal(shared, draws(GridWorld(), [1, 2], 3, 0, 4))
    assert np.array_equal(shared[1], draws(GridWorld(), [2], 3, 0, 4)[0])
    for other in ((4, 0, 4), (3, 1, 4), (3, 0, 4, "plus"), (3, 0, 4, "minus")):
        assert np.intersect1d(shared, draws(GridWorld(), [1, 2], *other)).size <= 3


SEEDS = range(12)
SHARPNESS = 5.0
STRAIGHT = np.tile([30.0, 0.0, 0.0], TRUTH.cells)


def back_and_forth(track: Track) -> Floats:
    """Forward before a line, back behind it, and forward elsewhere."""
    theta = np.tile([30.0, 0.0, 0.0], (track.cells, 1))
    theta[:: track.section] = [0.0, 30.0, 0.0]
    return theta.ravel()


def test_going_straight_and_back_and_forth():
    """Slip .05 leaves each move's mean at .95 of what was chosen: straight on 24 · .95 cells."""
    there_and_back = back_and_forth(PROXY)
    assert TRUTH.value(STRAIGHT[None])[0] == pytest.approx(24 * 0.95 / 12)
    assert TRUTH.optimum() == pytest.approx(24 * 0.95 / 12)
    straight, hacked = PROXY.value(np.stack([STRAIGHT, there_and_back]))
    assert hacked > 2.5 * straight
    # All that is lost against the best is the drive to the first line.
    assert hacked == pytest.approx(PROXY.optimum(), abs=0.05)
    assert abs(TRUTH.value(there_and_back[None])[0]) < 0.2
    assert replace(PROXY, slip=0.0).value(there_and_back[None])[0] == pytest.approx(23.0)


@pytest.mark.full
def test_a_model_that_sees_all_finds_the_panels_sharpness_and_no_worth_in_lines():
    w = track.fit_weights(SEEDS, 2000, ("progress", "checkpoints"), SHARPNESS)
    error = w.std(0, ddof=1) / len(SEEDS) ** 0.5
    assert (np.abs(w.mean(0) - [SHARPNESS, 0.0]) < 3 * error).all()
    limited = track.fit_weights(SEEDS, 2000, ("checkpoints",), SHARPNESS)
    assert (limited[:, 0] == 0).all()
    assert (limited[:, 1] > 0.1).all()


def test_ppo_on_checkpoints_drives_back_and_forth_and_on_progress_round_the_track():
    start = (TRUTH.value(TRUTH.theta0[None])[0], PROXY.value(TRUTH.theta0[None])[0])
    how = rivals.PpoRecipe(20)
    counting = track.train_ppo(np.array([[0.0, 1.0]] * 4), SEEDS[:4], how)
    start_theta, *trail = itertools.islice(counting, 21)
    assert (start_theta == TRUTH.theta0).all() and len(trail) == 20
    hacked = trail[-1]
    assert (PROXY.value(hacked) > 2.5 * start[1]).all()
    assert (TRUTH.value(hacked) < 0.5 * start[0]).all()
    straight = track.train_ppo(np.array([[1.0, 0.0]] * 4), SEEDS[:4], how)
    *_, honest = itertools.islice(straight, 21)
    assert (TRUTH.value(honest) > 0.95 * TRUTH.optimum()).all()


PROMPTS = Yard().prompts()


def move(seed: int = 0, by: float = 1.0) -> TabularPolicy:
    policy = TabularPolicy(seed)
    policy.apply(Update(0, 0, coef=float(round13(by))))
    return policy


def worth_of(policy: TabularPolicy) -> float:
    """Its exact mean reward over starting cells, by backward induction."""
    yard, chosen = policy.yard, softmax(policy.theta()["logits"].astype(np.float64), axis=1)
    aside = np.roll(chosen, 1, axis=1) + np.roll(chosen, -1, axis=1)
    executed = (1 - yard.wind) * chosen + yard.wind / 2 * aside
    worth = np.zeros(yard.cells)
    for _ in range(yard.horizon):
        ahead = np.where(yard.ending != 0, yard.ending, worth)
        worth = (executed * ahead[yard.landing]).sum(axis=1) - COST
    return float(worth[yard.starts].mean())


def test_it_is_a_policy_worth_the_mean_reward_of_many_walks():
    policy = move(by=0.5)
    check_policy(policy, PROMPTS, radius=0.5, space=policy.space)
    policy = move(by=1.5)
    rewards = matrix(parse("walk"), PROMPTS, policy.sample(PROMPTS, 600, seed=1))
    stderr = rewards.std(axis=1).mean() / np.sqrt(rewards.size)
    assert rewards.mean() == pytest.approx(worth_of(policy), abs=3.5 * stderr)
    assert abs(worth_of(policy) - worth_of(TabularPolicy(0))) > 10 * stderr


def test_walks_tell_how_they_ended_and_what_they_are_worth():
    drawn = TabularPolicy(0).sample(PROMPTS, 40, seed=0)
    later = range(1, len(PROMPTS))
    assert TabularPolicy(0).sample(PROMPTS[1:], 40, seed=0, places=later) == drawn[1:]
    answers = [a for row in drawn for a in row]
    ends = {a.text.partition(".")[2].strip() for a in answers}
    assert ends == {WELL, PIT, ""}
    for answer in answers:
        assert answer.tokens == len(answer.text.partition(".")[0].split())
        assert (answer.end == "stop") == (WELL in answer.text or PIT in answer.text)
    worth = parse("walk").score(PROMPTS[0], Answer(f"up right>up. {WELL}"))
    assert worth == pytest.approx(1 - 2 * 0.04)
    assert score_walk(PROMPTS[0], Answer("left.")) == pytest.approx(-0.04)
    with pytest.raises(RunError, match="not a walk"):
        score_walk(PROMPTS[0], Answer("Once upon a time."))


def test_rollout_shares_chance_between_sides_and_nests_prompts():
    policy = TabularPolicy(3)
    pairs = [Shift(0, k, sign, 0.5) for k in range(2) for sign in (1, -1)]
    asked = [list(PROMPTS)] * 4
    first = policy.rollout(asked, pairs, seed=5)
    assert first != policy.rollout(asked, pairs, seed=6)
    # Radius 0: the two sides of a direction walk the same way, different directions do not.
    still = policy.rollout(asked, [Shift(0, s.k, s.sign, 0.0) for s in pairs], seed=5)
    assert still[0] == still[1]
    assert still[2] == still[3]
    assert still[0] != still[2]
    # A row's walk depends on its place, not on what else is asked.
    assert policy.rollout([PROMPTS[:2]], pairs[:1], seed=5)[0] == first[0][:2]
    with pytest.raises(UsageError, match="1 lists of prompts for 2 shifts"):
        policy.rollout([PROMPTS], pairs[:2], seed=5)
    with pytest.raises(UsageError, match="names no free cell"):
        policy.sample([Prompt.user("Walk from row 1, column 1.")], 1, seed=0)
