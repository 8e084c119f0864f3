"""Reward model and PPO: ask, fit a Bradley-Terry reward, improve the policy on it, in n rounds.

One round is the usual recipe (Christiano et al. 2017; Ouyang et al. 2022): all votes on pairs of
the starting policy, one reward model, one PPO. More rounds spend the same votes on pairs of the
current policy, and fit the reward anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from szpo.aggregation import laplace
from szpo.types import Floats
from szpo_simulators.worlds import ppo
from szpo_simulators.worlds.curves import Curve, train_in_rounds
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.walks import Answers, Kind, Question, Walks, feature_indices


@dataclass(frozen=True)
class Recipe:
    """Settings of a reward model and PPO."""

    kind: Kind = "cells"
    rounds: int = 1
    """1: all pairs by the starting policy. More: by the current policy."""
    ridge: float = 0.01
    """Of the reward model's fit."""
    practice: ppo.Recipe = field(default_factory=ppo.Recipe)


def fit_reward(x: Floats, won: Floats, ridge: float) -> Floats:
    """Bradley-Terry weights (S, F) of features: P(plus preferred) = σ(x·w).

    They minimise −mean log-likelihood + ridge·|w|²/2.

    Args:
        x: features of plus less those of minus (S, n, F), batch means where batches were compared.
        won: share of the votes for plus (S, n), in [0, 1].
        ridge: above 0, so that the minimum is unique.
    """
    runs, count, size = x.shape
    votes = laplace.Rows(x, won, np.ones(won.shape))
    precision = np.broadcast_to(ridge * count * np.eye(size), (runs, size, size))
    return laplace.approximate(votes, np.zeros((runs, size)), precision).coef


def reward_of(kind: Kind, world: GridWorld, w: Floats) -> ppo.Reward:
    """A learned reward: each move earns the weight, w (S, F), of the feature it counts for."""
    runs = np.arange(len(w))[:, None, None]

    def reward(made: Walks) -> Floats:
        index, _ = feature_indices(kind, world, made)
        return np.asarray(w[runs, index])

    return reward


def train(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    how: Recipe,
    *,
    rows: int = 1,
    panel: LinkPanel,
) -> Curve:
    """Train on one vote on each of n pairs of batches of D walks; values after every round."""

    def improve(step: int, theta: Floats, answers: Answers) -> Floats:
        w = fit_reward(answers.x, answers.won, how.ridge)
        reward, done = reward_of(how.kind, world, w), step * how.practice.batches
        thetas = ppo.improve(world, theta, reward, root_seeds, how.practice, first=done)
        return ppo.take(thetas, how.practice.batches)

    question = Question(how.kind, rows, panel)
    return train_in_rounds(world, root_seeds, pairs, how.rounds, question, improve)
