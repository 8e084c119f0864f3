"""CartPole: our step against gymnasium's, worlds against themselves, the net against torch."""

import gymnasium
import numpy as np
import pytest

from szpo.types import Floats
from szpo_simulators.cartpole import NOTEBOOK
from szpo_simulators.worlds.cartpole import HORIZON, CartPole, Network, play, start
from szpo_simulators.worlds.world import draws

KEEN = np.array([0.0, 0.5, 8.0, 10.0, 0.0])
"""A linear net that balances well, but not always: lean and spin decide."""


def by_gymnasium(state: Floats, u: Floats, theta: Floats, net: Network) -> list[Floats]:
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


@pytest.mark.parametrize("theta", [np.zeros(5), KEEN, -KEEN], ids=["even", "keen", "contrary"])
def test_whole_episodes_are_those_of_make(theta):
    world = CartPole()
    u = draws(world, [1], 0, 0, 6)
    starts, lengths = start(u[:, :, :4]), world.returns(theta[None], u)
    states = [starts, *(after for after, _ in play(world.net, theta[None], starts, u[..., 4:]))]
    for i in range(6):
        found = by_gymnasium(starts[0, i], u[0, i, 4:], theta, world.net)
        assert lengths[0, i] == len(found) - 1
        ours = [state[0, i] for state in states[: len(found)]]
        assert np.allclose(ours, np.array(found), rtol=0, atol=1e-9)
    if theta is KEEN:
        assert (lengths == HORIZON).any()


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
