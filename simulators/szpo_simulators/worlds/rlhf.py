"""Reward model and PPO: ask, fit a Bradley-Terry reward, improve the policy on it, in n rounds.

One round is the usual recipe (Christiano et al. 2017; Ouyang et al. 2022): all votes on pairs of
the starting policy, one reward model, one PPO training. More rounds spend the same votes on pairs
of the current policy; each round fits a new reward to that round's votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from szpo.aggregation import laplace
from szpo.types import Floats
from szpo_simulators.worlds import ppo
from szpo_simulators.worlds.curves import Curve, train_in_rounds
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.walks import Kind, Walks, feature_indices


def fit_reward(x: Floats, won: Floats, ridge: float) -> Floats:
    """Bradley-Terry weights (S, F) of features: P(plus preferred) = σ(x·w).

    They minimise −mean log-likelihood + ridge·|w|²/2.

    Args:
        x: features of plus minus those of minus (S, n, F); batch means if batches were compared.
        won: share of the votes for plus (S, n), in [0, 1].
        ridge: strength of the penalty, above 0, so that the minimum is unique.
    """
    runs, count, size = x.shape
    votes = laplace.Rows(x, won, np.ones(won.shape))
    precision = np.broadcast_to(ridge * count * np.eye(size), (runs, size, size))
    return laplace.approximate(votes, np.zeros((runs, size)), precision).coef


def reward_of(kind: Kind, world: GridWorld, w: Floats) -> ppo.Reward:
    """A learned reward with weights w (S, F): a move's reward is the weight of its feature."""
    runs = np.arange(len(w))[:, None, None]

    def reward(made: Walks) -> Floats:
        index, _ = feature_indices(kind, world, made)
        return np.asarray(w[runs, index])

    return reward


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    practice: ppo.Recipe,
    *,
    panel: LinkPanel,
    rows: int = 1,
    kind: Kind = "cells",
    rounds: int = 1,
    ridge: float = 0.01,
) -> Curve:
    """Train on one vote on each of ``pairs`` pairs of batches; values after every round.

    Args:
        world: The world of the policies.
        root_seeds: One for each repetition.
        pairs: Total number of votes.
        practice: Settings of PPO on a learned reward.
        panel: The voters.
        rows: D, walks per batch.
        kind: The features of the reward model.
        rounds: 1: all pairs by the starting policy. More: each round by the current policy.
        ridge: See `fit_reward`.
    """

    def improve(step: int, theta: Floats, x: Floats, won: Floats) -> Floats:
        reward, done = reward_of(kind, world, fit_reward(x, won, ridge)), step * practice.batches
        thetas = ppo.improve(world, theta, reward, root_seeds, practice, first=done)
        return next(islice(thetas, practice.batches, None))

    return train_in_rounds(
        world, root_seeds, pairs, rounds, improve, kind=kind, rows=rows, panel=panel
    )
