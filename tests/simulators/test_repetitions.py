"""Many repetitions at once are the ordinary loop; the methods beside SZPO in a known world."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.optim import optimizer, parameters
from szpo.optim.parameters import Space
from szpo.seeds import derive
from szpo.types import Tally
from szpo_simulators.gridworld import value
from szpo_simulators.track import TRUTH
from szpo_simulators.worlds import rivals
from szpo_simulators.worlds.cartpole import CartPole, Network
from szpo_simulators.worlds.gridworld import Courier, GridWorld, ask
from szpo_simulators.worlds.rivals import trace_walks
from szpo_simulators.worlds.world import count_plus, draw_coins, settings_for, train, uniforms

WORLD = GridWorld(size=3, horizon=5)


def mean_returns(world, space, theta, shift, step, chosen, crn):
    """Mean returns (N,) of the batches of one side: the step's walks, shared by both or not."""
    side = None if crn else "plus" if shift.sign > 0 else "minus"
    size = chosen.section.N * chosen.section.D * world.width
    key = derive(space.root_seed, "world walk", k=shift.k, name=side)
    u = uniforms(key, size, size * step).reshape(1, -1, world.width)
    moved = parameters.shift(space, theta, shift)["theta"]
    return world.returns(moved[None], u).reshape(chosen.section.N, chosen.section.D).mean(1)


SMALL = GridWorld(size=2, horizon=5)


def theta(world, runs=3):
    return np.random.default_rng(2).normal(size=(runs, world.dim))


def test_the_courier_delivers_what_a_walk_read_by_hand_says_and_by_memory_more_than_without():
    """Depot 0, customer 8 on a grid of three: bag full at 0, delivered at 8, once a bag."""
    world = Courier(horizon=6, slip=0.0)
    full, done = world.cells, 2 * world.cells
    up, down, _, right = range(4)
    assert world.landing[0, up] == full + 0  # bumps into the wall: stays at the depot
    assert world.landing[full + 5, down] == done + 8 and world.arrival[done + 8] == 1
    assert world.landing[5, down] == 8 and world.arrival[8] == 0  # an empty bag
    assert world.landing[done + 8, right] == 8  # standing there delivers nothing again
    world = Courier()
    assert world.value(theta(world, 50)).max() < world.optimum() == pytest.approx(10.277, abs=1e-3)


def test_same_seeds_give_the_same_curve_in_any_company():
    both = rivals.train_dpo(SMALL, [4, 9], 12, rounds=3, rows=2, sharpness=1.0)
    alone = rivals.train_dpo(SMALL, [9], 12, rounds=3, rows=2, sharpness=1.0)
    assert both.values[1] == pytest.approx(alone.values[0], abs=1e-12)
    assert both.votes == (4, 8, 12) and both.answers == (16, 32, 48)


@pytest.mark.parametrize(
    "train",
    [
        lambda s: rivals.train_dpo(SMALL, s, 400, rounds=20, sharpness=3.0),
        lambda s: rivals.train_rlhf(SMALL, s, 400, rivals.PpoRecipe(20), sharpness=1.0),
        lambda s: trace_walks(SMALL, rivals.reinforce(SMALL, s), [60], 32),
        lambda s: trace_walks(SMALL, rivals.evolve(SMALL, s), [60], 32),
    ],
    ids=["online DPO", "reward model and PPO", "REINFORCE", "evolution strategies"],
)
def test_each_climbs_most_of_the_way_on_a_small_grid(train):
    start, best = SMALL.value(np.zeros((1, 16)))[0], SMALL.optimum()
    assert train(range(6)).values[:, -1].mean() > start + 0.75 * (best - start)


def test_a_plan_on_the_true_reward_is_the_optimum_and_on_a_reversed_one_the_worst():
    world = GridWorld()
    right = value(world, world.arrival[None])
    assert right[0] == pytest.approx(world.optimum())
    assert value(world, -world.arrival[None])[0] < world.value(np.zeros((1, 100)))[0]


def test_votes_on_a_well_specified_reward_come_back_as_its_weights():
    theta = np.zeros((2, 16))
    x, won = ask(SMALL, theta, [1, 2], 0, 8000, kind="cells", rows=1, sharpness=1.0)
    w = rivals.fit_reward(x, won, 1e-6)
    # Every walk has as many moves, so rewards are known up to a constant.
    centred = w - w.mean(1, keepdims=True)
    truth = SMALL.arrival - SMALL.arrival.mean()
    assert centred == pytest.approx(np.tile(truth, (2, 1)), abs=0.12)


SHARPNESS = 1.5


def loop_one_by_one(chosen, root_seed, steps, crn, world):
    """The same repetition through ask, rollout, votes, tell and apply."""
    chosen = replace(chosen, root_seed=root_seed)
    space = Space(root_seed, chosen.layout, chosen.law)
    shape = chosen.section.K, chosen.section.N, chosen.section.M
    state, theta = optimizer.init(chosen), {"theta": world.theta0.astype(np.float32)}
    for step in range(steps):
        query = optimizer.ask(state)
        up, down = (
            np.array([mean_returns(world, space, theta, pair[side], step, chosen, crn)
                      for pair in query.shifts])
            for side in (0, 1)
        )  # fmt: skip
        coins = draw_coins([root_seed], step, shape)[0, 0]
        plus = count_plus(up - down, SHARPNESS, coins)
        tally = Tally(plus, chosen.section.M - plus, 0 * plus, np.zeros(plus.shape, dtype=bool))
        state, updates, _ = optimizer.tell(state, query, tally)
        for update in optimizer.added_updates(chosen, updates):
            theta = parameters.apply_update(space, theta, update)
    return theta["theta"]


CASES = {
    "known, forward": {"alpha": 0.5, "pairing": "forward", "D": 2},
    "known, two directions, cauchit": {"alpha": 0.5, "K": 2, "link": "cauchit"},
    "sign, powers of the step": {
        "rule": "sign", "alpha": 0.2, "horizon": 9.0, "mu": 0.8, "narrows": True,
    },
    "sign, plain Gaussian": {"rule": "sign", "alpha": 0.3, "law": "gaussian"},
}  # fmt: skip


def require_the_ordinary_loop(world, chosen, steps, crn=True):
    found = train(world, chosen, [3, 4], steps, sharpness=SHARPNESS, crn=crn)
    for theta, root_seed in zip(found.theta, (3, 4), strict=True):
        np.testing.assert_array_equal(theta, loop_one_by_one(chosen, root_seed, steps, crn, world))
        assert np.abs(theta - world.theta0.astype(np.float32)).max() > 0.1


@pytest.mark.full
@pytest.mark.parametrize("crn", [True, False], ids=["shared numbers", "own numbers"])
@pytest.mark.parametrize("case", CASES)
def test_a_repetition_is_the_ordinary_loop(case, crn):
    chosen = settings_for(WORLD, **{"N": 3, "M": 3, "mu": 0.7, **CASES[case]})
    require_the_ordinary_loop(WORLD, chosen, 12, crn)


@pytest.mark.parametrize(
    "world",
    [CartPole(horizon=40), CartPole(Network(3), horizon=40), TRUTH],
    ids=["linear", "net", "track"],
)
def test_so_it_is_for_nets_that_balance_a_pole_and_for_the_track(world):
    chosen = settings_for(world, rule="sign", N=3, D=2, mu=1.0, alpha=0.3)
    require_the_ordinary_loop(world, chosen, 6)


def test_company_and_blocks_change_nothing_and_budgets_are_counted():
    chosen = settings_for(WORLD, alpha=1.0, N=4)
    alone = train(WORLD, chosen, [9], 40, marks=(20, 40))
    together = train(WORLD, chosen, range(7, 13), 40, marks=(20, 40), block=4)
    np.testing.assert_array_equal(alone.theta[0], together.theta[2])
    np.testing.assert_array_equal(alone.curve[0], together.curve[2])
    assert len(np.unique(together.final)) == 6
    chosen = settings_for(WORLD, alpha=1.0, K=2, N=4, M=3, D=5)
    found = train(WORLD, chosen, [1], 1)
    # 2 directions × 4 comparisons × 3 votes; a vote reads 2 × 5 walks.
    assert (found.votes, found.answers) == (24, 240)
