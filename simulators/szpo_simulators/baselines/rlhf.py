"""Reward model and PPO: ask, fit a Bradley-Terry reward, improve the policy on it; or do so again.

One round is the usual recipe (Christiano et al. 2017; Ouyang et al. 2022): all votes on pairs of
the starting policy, one reward model, one PPO. More rounds spend the same votes on pairs of the
policy as it stands, and fit the reward anew each time, to the latest votes or to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from szpo.types import Floats
from szpo_simulators.baselines import ppo, reward_model
from szpo_simulators.baselines.curves import Curve, curve, shares
from szpo_simulators.baselines.walks import Answers, Kind, Walks, ask, places
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import Panel


@dataclass(frozen=True)
class Recipe:
    """How the votes become a policy."""

    kind: Kind = "cells"
    rounds: int = 1
    keep: bool = False
    """Fit to the votes of all rounds, not only to the latest."""
    ridge: float = 0.01
    practice: ppo.Clip = field(default_factory=ppo.Clip)


def learnt(kind: Kind, world: GridWorld, w: Floats) -> ppo.Reward:
    """The reward of moves whose places weigh w (S, F)."""
    runs = np.arange(len(w))[:, None, None]

    def reward(made: Walks) -> Floats:
        place, _ = places(kind, world, made)
        return np.asarray(w[runs, place])

    return reward


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    how: Recipe,
    *,
    rows: int = 1,
    panel: Panel,
) -> Curve:
    """Spend one vote on each of so many pairs of batches of D rows; values after every round."""
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    asked: list[Answers] = []
    values, votes, spent, practised = [], [], 0, 0
    for step, count in enumerate(shares(pairs, how.rounds)):
        latest = ask(world, theta, root_seeds, step, count, rows=rows, kind=how.kind, panel=panel)
        asked = [*asked, latest] if how.keep else [latest]
        w = reward_model.fit(
            np.concatenate([one.x for one in asked], axis=1),
            np.concatenate([one.won for one in asked], axis=1),
            how.ridge,
        )
        theta = ppo.improve(
            world, theta, learnt(how.kind, world, w), root_seeds, how.practice, first=practised
        )
        practised += how.practice.batches
        spent += count
        values.append(world.value(theta))
        votes.append(spent)
    return curve(values, votes, [2 * rows * n for n in votes])
