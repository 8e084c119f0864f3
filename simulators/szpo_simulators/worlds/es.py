"""Plain evolution strategies on the true return (Salimans et al. 2017): a reference, no votes.

θ ← θ + α/(n σ) Σ_i R̂_i ε_i, with R̂ the returns of n perturbed walkers, standardised over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from szpo import seeds
from szpo.types import Floats
from szpo_simulators.worlds.world import World, draws, uniforms


@dataclass(frozen=True)
class Recipe:
    """Settings of evolution strategies."""

    walkers: int = 32
    """n, perturbed policies of a step."""
    spread: float = 1.0
    """σ, standard deviation of the perturbations."""
    alpha: float = 1.0
    """α, step size."""


def update(noise: Floats, returns: Floats, how: Recipe) -> Floats:
    """The step (S, d) from perturbations ε (S, n, d) and their returns R (S, n)."""
    centred = returns - returns.mean(1, keepdims=True)
    scaled = centred / (centred.std(1, keepdims=True) + 1e-9)
    share = how.alpha / (returns.shape[1] * how.spread)
    # α/(n σ) Σ R̂ ε
    return np.asarray(share * np.einsum("sn,snd->sd", scaled, noise))


def iterate(world: World, root_seeds: Sequence[int], how: Recipe) -> Iterator[Floats]:
    """θ (S, d) before the first step and after each, without end; one walk for each walker."""
    runs, n, d = len(root_seeds), how.walkers, world.dim
    theta = np.tile(world.theta0, (runs, 1))
    for step in itertools.count():
        yield theta
        keys = (seeds.derive(seed, "es noise") for seed in root_seeds)
        u = np.stack([uniforms(key, n * d, n * d * step) for key in keys]).astype(np.float64)
        noise = ndtri(u + 2.0**-25).reshape(runs, n, d)
        shifted = (theta[:, None] + how.spread * noise).reshape(runs * n, d)
        chance = draws(world, root_seeds, step, 0, n, "practice")
        returns = world.returns(shifted, chance.reshape(runs * n, 1, -1)).reshape(runs, n)
        theta = theta + update(noise, returns, how)
