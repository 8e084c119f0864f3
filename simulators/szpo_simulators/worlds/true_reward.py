"""Reference methods that see the true return and need no votes.

REINFORCE (Williams 1992) with returns to go and a baseline, and plain evolution strategies
(Salimans et al. 2017): θ ← θ + α/(n σ) Σ_i R̂_i ε_i, where R̂ are the returns of n perturbed
policies, standardised over these.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from szpo import seeds
from szpo.baselines.advantages import returns_to_go
from szpo.types import Floats
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.tables import Adam, sum_by_move, to_logits
from szpo_simulators.worlds.walks import MOVES, true_rewards, walk
from szpo_simulators.worlds.world import World, draws, uniforms


def gradient(
    theta: Floats, index: NDArray[np.integer], advantages: Floats, *, moves: int
) -> Floats:
    """Mean over trajectories of Σ_t A_t ∇log π(a_t|s_t), (S, d).

    Args:
        theta: logits (S, d).
        index: cell · moves + move of each step, (S, n, H).
        advantages: A_t (S, n, H), constants.
        moves: moves per cell.
    """
    return to_logits(sum_by_move(index, theta.shape[-1], advantages), theta, moves)


def reinforce(
    world: GridWorld, root_seeds: Sequence[int], *, walks: int = 32, rate: float = 0.1
) -> Iterator[Floats]:
    """REINFORCE's θ (S, d) before the first step and after each, without end.

    The advantage of a move is its return to go minus the batch's mean at that time.

    Args:
        world: The world of the policies.
        root_seeds: One for each repetition.
        walks: Walks per step.
        rate: Adam's learning rate.
    """
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    adam = Adam(theta.shape)
    for step in itertools.count():
        yield theta
        made = walk(world, theta, draws(world, root_seeds, step, 0, walks, "practice"))
        to_go = returns_to_go(true_rewards(world, made))
        advantages = to_go - to_go.mean(1, keepdims=True)
        theta = theta + adam.step(gradient(theta, made.taken, advantages, moves=MOVES), rate)


def evolve(
    world: World,
    root_seeds: Sequence[int],
    *,
    walkers: int = 32,
    spread: float = 1.0,
    alpha: float = 1.0,
) -> Iterator[Floats]:
    """Evolution strategies' θ (S, d) before the first step and after each, without end.

    Args:
        world: The world of the policies.
        root_seeds: One for each repetition.
        walkers: n, perturbed policies per step, with one walk each.
        spread: σ, standard deviation of the perturbations.
        alpha: α, step size.
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
