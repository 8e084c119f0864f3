"""CartPole: our step against gymnasium's, worlds against themselves, the net against torch."""

import gymnasium
import numpy as np
import pytest

from szpo.types import Floats
from szpo_simulators.worlds.cartpole import HORIZON, NOTEBOOK, CartPole, Network, step
from szpo_simulators.worlds.world import draws

KEEN = np.array([0.0, 0.5, 8.0, 10.0, 0.0])
"""A linear net that balances well, but not always: lean and spin decide."""


def pushes(seed: int, count: int = HORIZON) -> Floats:
    return np.random.default_rng(seed).random(count)


def by_gymnasium(state: Floats, u: Floats, theta: Floats, net: Network) -> list[Floats]:
    """All states of an episode in gymnasium's own environment, from ``state``."""
    world = gymnasium.make("CartPole-v1")
    world.reset(seed=0)
    world.unwrapped.state = state.copy()
    found, over = [state], False
    while not over:
        odds = net.logit(theta[None], found[-1][None, None])[0, 0]
        action = int(u[len(found) - 1] < 1 / (1 + np.exp(-odds)))
        _, reward, fallen, cut, _ = world.step(action)
        assert reward == 1.0
        found.append(np.array(world.unwrapped.state))
        over = fallen or cut
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_gymnasiums_step_number_for_number(seed):
    both = gymnasium.make_vec("CartPole-v1", 64, vectorization_mode="vector_entry_point")
    seen, _ = both.reset(seed=seed)
    state = np.array(both.unwrapped.state.T)
    ended = np.zeros(64, dtype=bool)
    for t in range(60):
        right = pushes(1000 * seed + t, 64) < 0.5
        state, fallen = step(state, right)
        seen, _, terminated, _, _ = both.step(right.astype(np.int64))
        live = ~ended
        assert np.array_equal(seen[live], state[live].astype(np.float32))
        assert np.array_equal(terminated[live], fallen[live])
        ended |= fallen
        if ended.all():
            break
    assert ended.sum() > 50


@pytest.mark.parametrize("theta", [np.zeros(5), KEEN, -KEEN], ids=["even", "keen", "contrary"])
def test_whole_episodes_are_those_of_make(theta):
    world = CartPole()
    u = draws(world, [1], 0, 0, 6)
    walks = world.walks(theta[None], u)
    for i in range(6):
        found = by_gymnasium(walks.states[0, i, 0], u[0, i, 4:], theta, world.net)
        assert walks.moves[0, i] == len(found) - 1
        ours = walks.states[0, i, : len(found)]
        assert np.allclose(ours, np.array(found), rtol=0, atol=1e-9)
    if theta is KEEN:
        assert (walks.moves == HORIZON).any()


def test_the_untrained_nets_and_their_value():
    assert np.array_equal(CartPole().theta0, np.zeros(5))
    for net in (Network(3), NOTEBOOK):
        theta = net.start(1)
        assert theta.shape == (net.dim,)
        assert np.abs(theta[: 5 * net.hidden]).max() <= 0.5
        assert np.abs(theta[5 * net.hidden :]).max() <= net.hidden**-0.5
        assert not np.array_equal(theta, net.start(2))
    world = CartPole()
    even, keen = world.value(np.stack([np.zeros(5), KEEN]))
    # A fair coin lasts 22.0 ± .2 moves (20,000 episodes of gymnasium's vector environment).
    assert 18 < even < 27
    assert keen > 300
    assert world.value(KEEN[None])[0] == keen
