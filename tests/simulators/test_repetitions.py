"""Many repetitions at once are each the ordinary loop, alone or in company."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.optim import optimizer, parameters
from szpo.optim.directions import Law
from szpo.types import Tally
from szpo_simulators.worlds import oracle, repetitions
from szpo_simulators.worlds.cartpole import CartPole, Network
from szpo_simulators.worlds.gridworld import DENSE, GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.policies import PROMPT, WorldPolicy, worth
from szpo_simulators.worlds.track import TRUTH

WORLD = GridWorld(size=3, horizon=5)
PANEL = LinkPanel("cauchit", 1.5)


def one_by_one(chosen, root_seed, steps, crn, world=WORLD):
    """The same repetition through ask, rollout, votes, tell and apply."""
    chosen = replace(chosen, root_seed=root_seed)
    policy = WorldPolicy(world, root_seed, chosen.law, crn=crn)
    state = optimizer.init(chosen)
    prompts, best = [PROMPT] * (chosen.N * chosen.D), policy.theta()
    for step in range(steps):
        query = optimizer.ask(state)
        gap = []
        for pair in query.shifts:
            batches = policy.rollout([prompts] * 2, pair, seed=step)
            means = [
                np.reshape([worth(answer) for answer in batch], (chosen.N, chosen.D)).mean(1)
                for batch in batches
            ]
            gap.append(means[0] - means[1])
        coins = oracle.coins([root_seed], step, (chosen.K, chosen.N, chosen.M))[0, 0]
        plus = (coins < PANEL.chance(gap)[..., None].astype(np.float32)).sum(-1) * 1.0
        tally = Tally(plus, chosen.M - plus, 0 * plus, np.zeros(plus.shape, dtype=bool))
        state, updates, _ = optimizer.tell(state, query, tally)
        for update in optimizer.added_updates(chosen, updates, "centre"):
            policy.apply(update)
        for update in optimizer.added_updates(chosen, updates):
            best = parameters.apply_update(policy.space, best, update)
    return best["theta"]


CASES = {
    "known, forward": {"alpha": 0.5, "pairing": "forward", "D": 2},
    "known, two directions, cauchit": {"alpha": 0.5, "K": 2, "link": "cauchit"},
    "sign, powers of the step": {
        "rule": "sign", "alpha": 0.2, "alpha_decay": 0.5, "mu": 0.8, "mu_decay": 0.25,
    },
    "sign, plain Gaussian": {"rule": "sign", "alpha": 0.3, "law": Law()},
    "regression": {"rule": "regression", "centre_step": 0.6},
    "regression in a ball": {
        "rule": "regression", "kl_budget": ((0.0, 1.0), (60.0, 6.0)), "centre_step": 0.3, "K": 2,
    },
    "regression, a prior": {
        "rule": "regression", "prior_mean": tuple(np.linspace(-2, 2, WORLD.dim).tolist()),
        "prior_precision": tuple(map(tuple, np.diag(np.linspace(1, 90, WORLD.dim)).tolist())),
    },
    "regression that forgets": {"rule": "regression", "centre_step": 0.6, "forgetting": 0.8},
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("crn", [True, False], ids=["shared numbers", "own numbers"])
@pytest.mark.parametrize("case", CASES)
def test_a_repetition_is_the_ordinary_loop(case, crn):
    chosen = repetitions.settings_for(WORLD, **{"N": 3, "M": 3, "mu": 0.7, **CASES[case]})
    found = repetitions.train(WORLD, chosen, [3, 4], 12, panel=PANEL, crn=crn)
    for theta, root_seed in zip(found.theta, (3, 4), strict=True):
        expected = one_by_one(chosen, root_seed, 12, crn)
        # A posterior solves systems together, which may round differently; else bit for bit.
        near = case.startswith("regression")
        np.testing.assert_allclose(theta, expected, atol=1e-5 if near else 0)
        assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize(
    "world",
    [CartPole(horizon=40), CartPole(Network(3), horizon=40), TRUTH],
    ids=["linear", "net", "track"],
)
def test_so_it_is_for_nets_that_balance_a_pole_and_for_the_track(world):
    chosen = repetitions.settings_for(world, rule="sign", N=3, D=2, mu=1.0, alpha=0.3)
    found = repetitions.train(world, chosen, [3, 4], 6, panel=PANEL)
    for theta, root_seed in zip(found.theta, (3, 4), strict=True):
        np.testing.assert_array_equal(theta, one_by_one(chosen, root_seed, 6, True, world))
    assert np.abs(found.theta - world.theta0.astype(np.float32)).max() > 0.1


def test_company_blocks_and_threads_change_nothing():
    chosen = repetitions.settings_for(WORLD, alpha=1.0, N=4)
    alone = repetitions.train(WORLD, chosen, [9], 40, marks=(20, 40))
    together = repetitions.train(
        WORLD,
        chosen,
        range(7, 13),
        40,
        marks=(20, 40),
        batching=repetitions.Batching(4, threads=2),
    )
    np.testing.assert_array_equal(alone.theta[0], together.theta[2])
    np.testing.assert_array_equal(alone.curve[0], together.curve[2])
    assert len(np.unique(together.final)) == 6


def test_it_learns_and_the_truth_teaches_more_than_one_vote():
    chosen = repetitions.settings_for(WORLD, alpha=1.0, N=4)
    start = WORLD.value(WORLD.theta0[None])[0]
    voted = repetitions.train(WORLD, chosen, range(30), 60).final
    exact = repetitions.train(WORLD, chosen, range(30), 60, truth=True).final
    assert start + 0.5 < voted.mean() < exact.mean() < WORLD.optimum()


def test_budgets_are_counted():
    chosen = repetitions.settings_for(WORLD, alpha=1.0, K=2, N=4, M=3, D=5)
    found = repetitions.train(WORLD, chosen, [1], 1)
    # 2 directions × 4 comparisons × 3 votes; a vote reads 2 × 5 walks, a comparison makes 10.
    assert (found.votes, found.answers, found.walks) == (24, 240, 80)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup": 2}, "no warm-up"),
        ({}, "needs alpha"),
        ({"alpha": 1.0, "ties": "davidson", "tie_nu": 1.0}, "ties davidson"),
    ],
)
def test_settings_that_no_world_can_run_are_refused(changes, words):
    chosen = repetitions.settings_for(WORLD, **changes)
    with pytest.raises(UsageError, match=words):
        repetitions.train(WORLD, chosen, [1], 1)


def test_the_truth_is_no_vote_so_regression_refuses_it():
    # All its votes would count for minus: it walked away from what is better.
    chosen = repetitions.settings_for(WORLD, rule="regression")
    with pytest.raises(UsageError, match=r"truth .* regression"):
        repetitions.train(WORLD, chosen, [1], 1, truth=True)


@pytest.mark.full
@pytest.mark.parametrize(
    ("rule", "own", "least"),
    [("known", {"alpha": 0.3, "smoothing": "trim"}, 6.0), ("sign", {"alpha": 0.2}, 5.6)],
)
def test_the_algorithm_as_published_climbs_the_dense_grid(rule, own, least):
    """One-sided, N = 8, M = 5, D = 1, own random numbers, 9,600 votes: 2.85 to 7.55."""
    plain = {"pairing": "forward", "N": 8, "M": 5, **own}
    chosen = repetitions.settings_for(DENSE, rule=rule, **plain)
    found = repetitions.train(DENSE, chosen, range(900, 910), 9600 // 40, crn=False)
    assert found.final.mean() >= least
