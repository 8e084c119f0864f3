"""Rivals of szpo on tabular worlds: PPO, reward models, DPO, and methods with the true return.

`train_in_rounds` and `trace_walks` compute the exact value after each round and count the budget,
so that no method does its own accounting.

DPO: a pair's margin is m = Σ_t log π(a|s)/π_ref(a|s) over plus minus the same over minus (batch
means if whole batches were compared), and the loss is −log σ(β m) if plus was preferred (Rafailov
et al. 2023). The derivation holds for bandits and deterministic transitions. With stochastic
transitions the return also depends on chance, which no ratio of policies can express.

For a table the clipped objective of a batch needs only two sums per (cell, move): of the
advantages above 0 and of those below 0. So an epoch needs no pass over the trajectories.

Reward model and PPO: ask, fit a Bradley-Terry reward, improve the policy on it, in n rounds. One
round is the usual recipe (Christiano et al. 2017; Ouyang et al. 2022): all votes on pairs of the
starting policy, one reward model, one PPO training. More rounds spend the same votes on pairs of
the current policy; each round fits a new reward to that round's votes.

Reference methods that see the true return and need no votes. REINFORCE (Williams 1992) with
returns to go and a baseline, and plain evolution strategies (Salimans et al. 2017): θ ← θ + α/(n
σ) Σ_i R̂_i ε_i, where R̂ are the returns of n perturbed policies, standardised over these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from szpo import seeds
from szpo.baselines.advantages import gae, returns_to_go
from szpo.optim import bradley_terry
from szpo.types import Floats, Ints
from szpo_simulators.worlds.gridworld import (
    MOVES,
    Adam,
    GridWorld,
    Kind,
    Walks,
    ask,
    feature_indices,
    log_policy,
    sum_by_index,
    sum_by_move,
    to_logits,
    true_rewards,
    walk,
)
from szpo_simulators.worlds.world import World, draws, uniforms

Reward: TypeAlias = Callable[[Walks], Floats]
"""From walks to the rewards (S, n, H) of their moves."""
Sampler: TypeAlias = Callable[[Floats, int], tuple[Ints, Floats]]
"""(θ (S, d), batch) → cell · moves + move of each step, and its reward; both (S, n, H)."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Values (S, marks); ``votes`` and ``answers`` (marks,) spent so far by one repetition.

    For methods that see the true reward, answers are the walks whose returns they read.
    """

    values: Floats
    votes: tuple[int, ...]
    answers: tuple[int, ...]


def train_in_rounds(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    rounds: int,
    improve: Callable[[int, Floats, Floats, Floats], Floats],
    *,
    kind: Kind,
    rows: int,
    sharpness: float,
) -> Curve:
    """Spend one vote on each of ``pairs`` pairs of batches, in rounds; values after every round.

    With one round all pairs are of the starting policy's walks; else each round is of the current
    one's. ``improve``: from (round, θ (S, d), the round's x and won as `ask` returns them) to the
    next θ. ``rows``: D, walks per batch. ``sharpness``: the voters' β.
    """
    counts = split_budget(pairs, rounds)
    theta, values = np.tile(world.theta0, (len(root_seeds), 1)), []
    for step, count in enumerate(counts):
        x, won = ask(
            world, theta, root_seeds, step, count, kind=kind, rows=rows, sharpness=sharpness
        )
        theta = improve(step, theta, x, won)
        values.append(world.value(theta))
    votes = tuple(accumulate(counts))
    return Curve(np.stack(values, axis=1), votes, tuple(2 * rows * n for n in votes))


def trace_walks(world: World, thetas: Iterable[Floats], marks: Sequence[int], walks: int) -> Curve:
    """The curve of a method that sees true returns and needs no votes.

    ``thetas``: θ (S, d) before the first step and after each; may be endless. ``marks``: steps
    after which the value is computed, in order.
    """
    reached = enumerate(islice(thetas, marks[-1] + 1))
    values = [world.value(theta) for step, theta in reached if step in marks]
    return Curve(np.stack(values, axis=1), (0,) * len(marks), tuple(walks * n for n in marks))


def split_budget(total: int, rounds: int) -> list[int]:
    """A budget split over n rounds, as evenly as whole numbers allow; no round is empty.

    >>> split_budget(10, 4), split_budget(2, 5)
    ([2, 3, 3, 2], [1, 1])
    """
    ends = np.linspace(0, total, min(rounds, total) + 1).round().astype(int)
    return [int(n) for n in np.diff(ends)]


def dpo_gradient(
    theta: Floats, reference: Floats, x: Floats, won: Floats, *, beta: float
) -> Floats:
    """Gradient of the mean loss over pairs with respect to the logits, (S, d).

    ``theta`` and ``reference``: logits (S, d). ``x`` (S, n, d): counts of (cell, move) of plus
    minus those of minus. ``won`` (S, n): share of the votes for plus. ``beta`` ties the policy to
    the reference.
    """
    ratio = log_policy(theta, MOVES) - log_policy(reference, MOVES)
    m = beta * (x @ ratio[..., None])[..., 0]
    pull = beta * (1 / (1 + np.exp(-m)) - won) / x.shape[-2]  # ∂loss/∂margin = β(σ(m) − y)/n
    towards = (np.swapaxes(x, -1, -2) @ pull[..., None])[..., 0]
    return to_logits(towards, theta, MOVES)


def train_dpo(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    *,
    sharpness: float,
    rows: int = 1,
    rounds: int = 1,
    beta: float = 0.1,
    rate: float = 0.03,
    epochs: int = 8,
) -> Curve:
    """DPO, offline in one round and online in more; see `train_in_rounds`.

    A round takes ``epochs`` steps of Adam on its pairs, against the policy that made them.
    """
    adam = Adam((len(root_seeds), world.dim))

    def improve(step: int, theta: Floats, x: Floats, won: Floats) -> Floats:
        reference = theta
        for _ in range(epochs):
            slope = dpo_gradient(theta, reference, x, won, beta=beta)
            theta = theta + adam.step(-slope, rate)
        return theta

    return train_in_rounds(
        world, root_seeds, pairs, rounds, improve, kind="moves", rows=rows, sharpness=sharpness
    )


def sum_advantages(
    index: NDArray[np.integer], advantages: Floats, d: int
) -> tuple[Floats, Floats]:
    """Sums (S, d) of the advantages above and below 0 over a batch, divided by n.

    ``index``: cell · moves + move of each step, (S, n, H), as ``advantages``.
    """
    signed = np.maximum(advantages, 0), np.minimum(advantages, 0)
    up, down = (sum_by_move(index, d, each) for each in signed)
    return up, down


def ppo_gradient(
    theta: Floats, old: Floats, up: Floats, down: Floats, *, clip: float, moves: int
) -> Floats:
    """Gradient of the clipped objective with respect to the logits, (S, d).

    The objective is Σ min(ρA, clip(ρ, 1 − ε, 1 + ε)A) per trajectory, with ρ = π_θ/π_old.
    """
    ratio = np.exp(log_policy(theta, moves) - log_policy(old, moves))
    slope = ratio * (up * (ratio < 1 + clip) + down * (ratio > 1 - clip))
    return to_logits(slope, theta, moves)


@dataclass(frozen=True)
class PpoRecipe:
    """Settings of PPO-clip on a reward."""

    batches: int = 40
    """Batches per reward; `iterate` itself has no end."""
    walks: int = 64
    epochs: int = 4
    """Gradient steps per batch."""
    rate: float = 0.1
    """Adam's learning rate."""
    clip: float = 0.2
    """ε."""
    lam: float = 0.95
    """λ of the advantages."""
    tie: float = 0.0
    """Weight of the KL penalty per move towards the starting policy."""


def iterate(theta: Floats, sample: Sampler, how: PpoRecipe, *, moves: int) -> Iterator[Floats]:
    """θ (S, d) before the first batch and after each, without end.

    Advantages come from GAE with `estimate_values` as critic and are standardised over the batch.
    """
    adam = Adam(theta.shape)
    for batch in itertools.count():
        yield theta
        taken, rewards = sample(theta, batch)
        values = estimate_values(rewards, taken // moves, theta.shape[-1] // moves)
        advantage = gae(rewards, values, how.lam)
        advantage -= advantage.mean((1, 2), keepdims=True)
        advantage /= advantage.std((1, 2), keepdims=True) + 1e-9
        up, down = sum_advantages(taken, advantage, theta.shape[-1])
        old = theta
        for _ in range(how.epochs):
            slope = ppo_gradient(theta, old, up, down, clip=how.clip, moves=moves)
            theta = theta + adam.step(slope, how.rate)


def improve_policy(
    world: GridWorld,
    theta: Floats,
    reward: Reward,
    root_seeds: Sequence[int],
    how: PpoRecipe,
    *,
    first: int = 0,
) -> Iterator[Floats]:
    """`iterate` on walks in a grid world with any reward.

    ``first`` is the number of the first batch, which selects the uniform numbers of its walks.
    """
    start = log_policy(theta, MOVES)
    runs = np.arange(len(theta))[:, None, None]

    def sample(theta: Floats, batch: int) -> tuple[Ints, Floats]:
        u = draws(world, root_seeds, first + batch, 0, how.walks, "practice")
        made = walk(world, theta, u)
        taken, rewards = made.taken.astype(np.int64), reward(made)
        if how.tie:
            rewards = rewards - how.tie * (log_policy(theta, MOVES) - start)[runs, taken]
        return taken, rewards

    return iterate(theta, sample, how, moves=MOVES)


def estimate_values(rewards: Floats, cells: NDArray[np.integer], size: int) -> Floats:
    """V (S, n, H + 1) at each move of a batch, from its rewards and cells (S, n, H).

    V is a table by time and cell: the batch's mean return to go, shrunk towards the mean at that
    time with the weight of two observations.
    """
    to_go = returns_to_go(rewards)
    runs, count, horizon = to_go.shape
    place = (np.arange(horizon) * size + cells).reshape(runs, -1)
    total = sum_by_index(place, horizon * size, to_go.reshape(runs, -1))
    seen = sum_by_index(place, horizon * size)
    usual = np.repeat(to_go.mean(1), size, axis=-1)
    table = (total + 2 * usual) / (seen + 2)
    found = np.take_along_axis(table, place, 1).reshape(runs, count, horizon)
    return np.concatenate([found, np.zeros((runs, count, 1))], axis=-1)


def fit_reward(x: Floats, won: Floats, ridge: float) -> Floats:
    """Bradley-Terry weights (S, F) of features: P(plus preferred) = σ(x·w).

    They minimise −mean log-likelihood + ridge·|w|²/2; ``ridge`` is above 0, so that the minimum is
    unique. ``x`` (S, n, F): features of plus minus those of minus, batch means if batches were
    compared. ``won`` (S, n): share of the votes for plus.
    """
    return bradley_terry.fit_ridge(x, won, ridge * x.shape[-2]).coef


def reward_of(kind: Kind, world: GridWorld, w: Floats) -> Reward:
    """A learned reward with weights w (S, F): a move's reward is the weight of its feature."""
    runs = np.arange(len(w))[:, None, None]

    def reward(made: Walks) -> Floats:
        index, _ = feature_indices(kind, world, made)
        return np.asarray(w[runs, index])

    return reward


def train_rlhf(
    world: GridWorld,
    root_seeds: Sequence[int],
    pairs: int,
    practice: PpoRecipe,
    *,
    sharpness: float,
    rows: int = 1,
    kind: Kind = "cells",
    rounds: int = 1,
    ridge: float = 0.01,
) -> Curve:
    """PPO on rewards that `fit_reward` fits to each round's votes; see `train_in_rounds`."""

    def improve(step: int, theta: Floats, x: Floats, won: Floats) -> Floats:
        reward, done = reward_of(kind, world, fit_reward(x, won, ridge)), step * practice.batches
        thetas = improve_policy(world, theta, reward, root_seeds, practice, first=done)
        return next(islice(thetas, practice.batches, None))

    return train_in_rounds(
        world, root_seeds, pairs, rounds, improve, kind=kind, rows=rows, sharpness=sharpness
    )


def true_gradient(theta: Floats, index: NDArray[np.integer], advantages: Floats) -> Floats:
    """Mean over trajectories of Σ_t A_t ∇log π(a_t|s_t), (S, d), for logits θ (S, d).

    ``index``: cell · 4 + move of each step, ``advantages``: A_t; both (S, n, H).
    """
    return to_logits(sum_by_move(index, theta.shape[-1], advantages), theta, MOVES)


def reinforce(
    world: GridWorld, root_seeds: Sequence[int], *, walks: int = 32, rate: float = 0.1
) -> Iterator[Floats]:
    """REINFORCE's θ (S, d) before the first step and after each, without end.

    The advantage of a move is its return to go minus the batch's mean at that time.
    """
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    adam = Adam(theta.shape)
    for step in itertools.count():
        yield theta
        made = walk(world, theta, draws(world, root_seeds, step, 0, walks, "practice"))
        to_go = returns_to_go(true_rewards(world, made))
        advantages = to_go - to_go.mean(1, keepdims=True)
        theta = theta + adam.step(true_gradient(theta, made.taken, advantages), rate)


def evolve(
    world: World,
    root_seeds: Sequence[int],
    *,
    walkers: int = 32,
    spread: float = 1.0,
    alpha: float = 1.0,
) -> Iterator[Floats]:
    """Evolution strategies' θ (S, d) before the first step and after each, without end.

    A step walks once with each of n = ``walkers`` policies perturbed by σ = ``spread``.
    """
    runs, n, d = len(root_seeds), walkers, world.dim
    theta = np.tile(world.theta0, (runs, 1))
    for step in itertools.count():
        yield theta
        keys = (seeds.derive(seed, "es noise") for seed in root_seeds)
        u = np.stack([uniforms(key, n * d, n * d * step) for key in keys]).astype(np.float64)
        noise = ndtri(u + 2.0**-25).reshape(runs, n, d)
        shifted = (theta[:, None] + spread * noise).reshape(runs * n, d)
        chance = draws(world, root_seeds, step, 0, n, "practice")
        returns = world.returns(shifted, chance.reshape(runs * n, 1, -1)).reshape(runs, n)
        centred = returns - returns.mean(1, keepdims=True)
        scaled = centred / (centred.std(1, keepdims=True) + 1e-9)
        # α/(n σ) Σ R̂ ε
        theta = theta + alpha / (n * spread) * np.einsum("sn,snd->sd", scaled, noise)
