"""Radius and step size: what is used when the settings name none.

Both come from the KL radius κ of one side of a comparison and the KL κ_step of one step.
"""

from __future__ import annotations

import math

import numpy as np

from szpo.aggregation.win_rates import better_side
from szpo.optim.settings import Schedule, Settings
from szpo.types import Tally


def base_mu(settings: Settings) -> float:
    """μ at step 0: as set, or scale · √(2κ/d)."""
    default = settings.scale * math.sqrt(2 * settings.kl_radius / settings.dim)
    if isinstance(settings.mu, Schedule):
        return settings.mu.at(0, default)
    return default if settings.mu is None else float(settings.mu)


def shape(settings: Settings, step: int) -> float:
    """The factor that a schedule of α puts on a step."""
    alpha = settings.alpha
    return alpha.shape(step) if isinstance(alpha, Schedule) else 1.0


STEPS = 10
FACTOR = 1.25
RATES = (0.65, 0.85)
Pool = tuple[float, float, int]
"""Sum of agreements, pairs of votes, steps since the last decision."""


def steer(
    kl_radius: float, pool: Pool, tally: Tally, bounds: tuple[float, float]
) -> tuple[float, Pool]:
    """κ × or ÷ 1.25 within bounds, every ten steps, towards win rates of 65–85 %.

    The win rate is estimated without bias from pairs of votes on different comparisons of one
    direction: with y = ±1 (0 for a tie) their mean product is (2p − 1)². Majority shares of M
    votes would say nothing: they are far from ½ by chance alone.
    """
    live = ~tally.identical
    score = np.where(live, tally.plus - tally.minus, 0.0)
    size = np.where(live, tally.plus + tally.minus + tally.tie, 0.0)
    agreed = pool[0] + float((score.sum(-1) ** 2 - (score**2).sum(-1)).sum())
    pairs = pool[1] + float((size.sum(-1) ** 2 - (size**2).sum(-1)).sum())
    steps = pool[2] + 1
    if steps < STEPS:
        return kl_radius, (agreed, pairs, steps)
    radius = kl_radius
    if pairs > 0:
        rate = better_side(agreed / pairs)
        if rate < RATES[0]:
            radius = min(radius * FACTOR, bounds[1])
        elif rate > RATES[1]:
            radius = max(radius / FACTOR, bounds[0])
    return radius, (0.0, 0.0, 0)
