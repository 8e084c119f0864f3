"""Every world: walks worth what they return, their law, repetitions apart, its policy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from szpo.errors import RunError
from szpo.policies.protocol import check_policy
from szpo.types import Answer, Prompt
from szpo_simulators.worlds.bandit import Bandit
from szpo_simulators.worlds.cartpole import CartPole, Network
from szpo_simulators.worlds.courier import Courier
from szpo_simulators.worlds.gridworld import DENSE
from szpo_simulators.worlds.mujoco import Linear
from szpo_simulators.worlds.policies import WorldPolicy, worth
from szpo_simulators.worlds.track import PROXY, TRUTH
from szpo_simulators.worlds.world import World, draws
from szpo_simulators.worlds.yard_world import YardWorld
from tests.support.cases import case

WORLDS: dict[str, tuple[Callable[[], Any], float]] = {
    "bandit": (Bandit, 1.1),
    "dense grid": (lambda: DENSE, 2.845295459),
    "courier": (Courier, 1.864197077),
    "track, progress": (lambda: TRUTH, 0.665),
    "track, lines": (lambda: PROXY, 3.595884459),
    "yard": (YardWorld, -0.592141649),
}
"""Worlds whose value is exact, and the value of their start, recorded."""
SLOW: dict[str, Callable[[], Any]] = {
    "pole": lambda: CartPole(Network(4), seed=3),
    "gymnasium": lambda: Linear("MountainCarContinuous-v0", evaluations=2),
}


def walked(world: Any, count: int) -> tuple[Any, Any, Any, Any]:
    """Three repetitions of walks off the start: their θ, numbers, walks and returns."""
    theta = world.theta0 + np.random.default_rng(3).normal(size=(3, world.dim))
    u = draws(world, [1, 2, 3], 0, 0, count)
    return theta, u, world.walks(theta, u), world.returns(theta, u)


def test_walks_return_what_they_are_worth_and_repetitions_do_not_meet():
    made = {name: make for name, (make, _) in WORLDS.items()} | SLOW
    for name, make in made.items():
        with case(name):
            world = make()
            assert isinstance(world, World)
            theta, u, walks, returns = walked(world, 3)
            np.testing.assert_allclose(walks.returns, returns, atol=1e-9)
            alone = [world.returns(theta[i : i + 1], u[i : i + 1]) for i in range(3)]
            np.testing.assert_allclose(np.concatenate(alone), returns, atol=1e-9)


def test_values_are_those_recorded_and_the_mean_of_many_returns():
    for name, (make, recorded) in WORLDS.items():
        with case(name):
            world = make()
            assert world.value(world.theta0[None])[0] == pytest.approx(recorded, abs=1e-6)
            theta, _, _, returns = walked(world, 20_000)
            stderr = returns.std(1) / np.sqrt(returns.shape[1])
            assert (np.abs(returns.mean(1) - world.value(theta)) < 4 * stderr).all()


@pytest.mark.parametrize("crn", [True, False])
def test_a_worlds_policy_keeps_the_policys_contract(crn):
    prompts = [Prompt.user(f"Walk {i}.") for i in range(6)]
    for world in (DENSE, TRUTH):
        with case(world):
            policy = WorldPolicy(world, 5, crn=crn)
            check_policy(policy, prompts, radius=1.0, space=policy.space)
            assert policy.value() == pytest.approx(world.value(policy.theta()["theta"][None])[0])
    with pytest.raises(RunError, match="is not a walk"):
        worth(Answer("no"))
