"""Panels of members in worlds: many repetitions at once are the ordinary loop with `Rater`s."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri

from szpo.aggregation import registry, weighting
from szpo.aggregation.weighting import VotesByVoter
from szpo.errors import UsageError
from szpo.optim import optimizer
from szpo_simulators.panels.flaws import members
from szpo_simulators.panels.raters import law, pick
from szpo_simulators.worlds import people, repetitions
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.people import People
from szpo_simulators.worlds.policies import PROMPT, WorldPolicy, worth

WORLD = GridWorld(size=3, horizon=5)
OTHER = replace(WORLD, rewards=tuple(float(cell == 2) for cell in range(9)))
WORDS = replace(WORLD, rewards=tuple(float(cell % 3 == 0) for cell in range(9)))
VIEWS = (WORLD, OTHER, WORDS)
PANEL = People(
    "mtbench+spread=.5+side=.4+words=.3+fatigue=2+drift=-1+types=.4+other=it+turn=.5"
    "+hostile=1+lazy=1+random=1+ring=2",
    1.5, 9, OTHER, WORDS,
)  # fmt: skip


def cast_one_by_one(panel: People, root_seed: int, step: int, gaps, shape) -> np.ndarray:
    """Verdicts (P, K, N): seat by seat, with scalar raters."""
    raters = members(panel.name, panel.beta, panel.size, root_seed)
    seat_coins, own = (part[0, 0] for part in people.coins([root_seed], step, shape))
    found = np.zeros((panel.size, *shape[:2]), dtype=np.int8)
    each = int(np.prod(shape))
    for k, n, m in np.ndindex(*shape):
        place = step * each + (k * shape[1] + n) * shape[2] + m
        member = place % panel.size
        # Votes of this member on earlier steps, counted one by one.
        given = sum(seat % panel.size == member for seat in range(step * each))
        rater = raters[member].at(given, step)
        gap, other, words = (view[k, n] for view in gaps)
        gap = (1 - rater.taste) * gap + rater.taste * other
        on_a = rater.ring or bool(seat_coins[k, n, m, 1] < 0.5)
        items = ndtri(own[k, n, :2].astype(float) + 2.0**-25)
        coin = own[k, n, 2] if rater.ring else seat_coins[k, n, m, 0]
        answer = int(pick(law(rater, gap, on_a, items, words), coin))
        if answer == 2:
            found[member, k, n] = weighting.TIE
        else:
            found[member, k, n] = weighting.PLUS if (answer == 0) == on_a else weighting.MINUS
    return found


def one_by_one(chosen, root_seed, steps, panel):
    """A repetition through ask, rollout, votes, tell and apply."""
    chosen = replace(chosen, root_seed=root_seed)
    policies = [WorldPolicy(view, root_seed, chosen.law) for view in VIEWS]
    state = optimizer.init(chosen)
    shape = (chosen.K, chosen.N, chosen.M)
    prompts = [PROMPT] * (chosen.N * chosen.D)
    for step in range(steps):
        query = optimizer.ask(state)
        gaps = []
        for policy in policies:
            means = [
                [np.reshape([worth(a) for a in batch], (chosen.N, chosen.D)).mean(1)
                 for batch in policy.rollout([prompts] * 2, pair, seed=step)]
                for pair in query.shifts
            ]  # fmt: skip
            gaps.append(np.array([plus - minus for plus, minus in means]))
        ballots = VotesByVoter(
            panel.names, cast_one_by_one(panel, root_seed, step, gaps, shape),
            np.zeros(shape[:2], dtype=bool),
        )  # fmt: skip
        state, updates, _ = optimizer.tell(state, query, ballots.tally(), by_voter=ballots)
        for policy in policies:
            for update in updates:
                policy.apply(update)
    return policies[0].theta()["theta"]


@pytest.mark.full
@pytest.mark.parametrize("name", registry.WEIGHTINGS)
def test_a_repetition_with_every_flaw_is_the_ordinary_loop(name):
    chosen = repetitions.settings_for(WORLD, N=3, M=2, K=2, mu=0.7, alpha=0.5, weighting=name)
    found = repetitions.train(WORLD, chosen, [3, 4], 8, panel=PANEL)
    for theta, root_seed in zip(found.theta, (3, 4), strict=True):
        expected = one_by_one(chosen, root_seed, 8, PANEL)
        # Learned weights come from sums of other order: the last digit may differ.
        np.testing.assert_allclose(theta, expected, atol=1e-5 if name in registry.LEARNED else 0)
        assert np.abs(expected).max() > 0.05


@pytest.mark.full
def test_company_changes_no_member():
    chosen = repetitions.settings_for(WORLD, N=3, M=2, mu=0.7, alpha=0.5, weighting="skill")
    alone = repetitions.train(WORLD, chosen, [9], 40, panel=PANEL)
    together = repetitions.train(
        WORLD, chosen, range(7, 12), 40, panel=PANEL, batching=repetitions.Batching(2)
    )
    np.testing.assert_allclose(alone.theta[0], together.theta[2], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: People("bt70+types=.5+other=it"), "other taste needs a view"),
        (lambda: People("bt70+words=.1"), "words are counted by a view"),
        (lambda: People("bt70+hostile=3", size=3), "too few members"),
        (lambda: People("bt70", size=2).seats(0, (1, 1, 3)), "M = 3 needs 3 panelists"),
    ],
)
def test_panels_that_cannot_vote_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_weights_of_voters_need_voters():
    chosen = repetitions.settings_for(WORLD, N=3, alpha=0.5, weighting="skill")
    with pytest.raises(UsageError, match="needs a panel of members"):
        repetitions.train(WORLD, chosen, [1], 1)
