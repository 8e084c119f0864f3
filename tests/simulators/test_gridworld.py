"""The grid world against an independent count of every walk, and its two ways to walk."""

from itertools import product

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo_simulators.worlds.gridworld import DENSE, GridWorld
from szpo_simulators.worlds.world import draws

SMALL = {
    "dense": GridWorld(size=2, slip=0.3, horizon=4),
    "rewards by cell": GridWorld(size=3, slip=0.1, horizon=3, rewards=tuple(np.arange(9) ** 1.5)),
}


def brute_force(world, logits):
    """Expected return by the sum over all (action, slipped or not, slip's move) of every move.

    Written from the rules of the grid alone: places are (row, column), not numbers.
    """
    ways = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    far = 2 * world.size - 2
    total = 0.0

    def walk(place, left, chance, gained):
        nonlocal total
        if left == 0:
            total += chance * gained
            return
        cell = place[0] * world.size + place[1]
        powers = [np.exp(logits[4 * cell + a]) for a in range(4)]
        for action, (slips, other) in product(
            range(4), [(False, 0)] + [(True, m) for m in range(4)]
        ):
            p = powers[action] / sum(powers) * (world.slip / 4 if slips else 1 - world.slip)
            step = list(ways.values())[other if slips else action]
            row = min(max(place[0] + step[0], 0), world.size - 1)
            column = min(max(place[1] + step[1], 0), world.size - 1)
            here = row * world.size + column
            gain = 1 - (far - row - column) / far
            if world.rewards is not None:
                gain = world.rewards[here]
            walk((row, column), left - 1, chance * p, gained + gain)

    walk((0, 0), world.horizon, 1.0, 0.0)
    return total


@pytest.mark.full
@pytest.mark.parametrize("name", SMALL)
def test_values_are_the_sum_over_all_walks(name):
    world = SMALL[name]
    theta = np.random.default_rng(1).normal(size=(2, world.dim))
    expected = [brute_force(world, logits) for logits in theta]
    np.testing.assert_allclose(world.value(theta), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_beats_the_optimum(name):
    world = SMALL[name]
    sharp = 30 * np.random.default_rng(2).normal(size=(3000, world.dim))
    best = world.value(sharp).max()
    assert world.value(world.theta0[None])[0] < best <= world.optimum() + 1e-12


def test_the_reference_values_of_the_default_grid():
    # Recorded for a 5 × 5 grid of the same rules by an independent program: 2.845 and 7.552.
    assert DENSE.value(DENSE.theta0[None])[0] == pytest.approx(2.845, abs=5e-4)
    assert DENSE.optimum() == pytest.approx(7.552, abs=5e-4)


def test_walks_keep_the_action_that_was_chosen():
    """Frequencies of (chosen, executed) against (1 − slip)·1[c = m]·π + slip·π/4."""
    # From the middle of 3 × 3, where each executed move ends elsewhere.
    middle = GridWorld(size=3, slip=0.4, horizon=3)
    theta = np.random.default_rng(4).normal(size=(1, middle.dim))
    pi = middle.action_probabilities(theta)[0, 4]
    walked = middle.walks(theta, draws(middle, [6], 0, 0, 400_000))
    here = walked.states[0, :, :-1] == 4
    chosen, after = walked.actions[0][here], walked.states[0, :, 1:][here]
    for action in range(4):
        for move, cell in enumerate(middle.moves[4]):
            p = pi[action] * (0.6 * (action == move) + 0.1)
            share = ((chosen == action) & (after == cell)).mean()
            assert abs(share - p) < 3.5 * np.sqrt(p * (1 - p) / here.sum())


def test_numbers_are_shared_or_each_sides_own():
    shared = draws(DENSE, [1, 2], 3, 0, 4)
    assert np.array_equal(shared, draws(DENSE, [1, 2], 3, 0, 4))
    assert np.array_equal(shared[1], draws(DENSE, [2], 3, 0, 4)[0])
    others = [
        draws(DENSE, [1, 2], 4, 0, 4), draws(DENSE, [1, 2], 3, 1, 4),
        draws(DENSE, [1, 2], 3, 0, 4, "plus"), draws(DENSE, [1, 2], 3, 0, 4, "minus"),
    ]  # fmt: skip
    for other in others:
        assert not np.intersect1d(shared, other).size > 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 1}, "size from 2"),
        ({"slip": 1.5}, "slip within"),
        ({"rewards": (1.0,)}, "1 rewards for 25 cells"),
    ],
)
def test_a_grid_that_is_none_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        GridWorld(**changes)
