"""Radius μ and step size α at a step: their defaults, and how they decay.

Unless they are set, μ comes from the KL radius κ of one side of a comparison and α from the KL
κ_step of one step. Both may fall with a power of the step, as step sizes of stochastic
approximation do (Robbins & Monro 1951; Kiefer & Wolfowitz 1952).
"""

from __future__ import annotations

import decimal
import functools
import math
from typing import Final

from szpo.optim.settings import Settings

DECIMAL_DIGITS: Final = 50
"""Decimal digits of a power, so that every machine rounds it to the same bits."""
LEAST_SHARE: Final = 0.01
"""Neither μ nor α falls below this share of its first value."""


def base_mu(settings: Settings) -> float:
    """μ at step 0: as set, or scale · √(2κ/d)."""
    if settings.section.mu is not None:
        return float(settings.section.mu)
    return settings.scale * math.sqrt(2 * settings.section.kl_radius / settings.dim)


def mu_at(settings: Settings, step: int) -> float:
    """μ at a step."""
    return base_mu(settings) * share_left(settings.mu_decay, step, settings.decay_horizon)


def alpha_share(settings: Settings, step: int) -> float:
    """α at a step as a share of the first α."""
    return share_left(settings.alpha_decay, step, settings.decay_horizon)


@functools.lru_cache(maxsize=64)  # a step asks for the same one several times
def share_left(decay: float, step: int, horizon: float = 1.0) -> float:
    """(1 + step/horizon)^−decay, at least `LEAST_SHARE`, rounded once.

    >>> [share_left(0.5, step) for step in (0, 3, 99, 10**6)]
    [1.0, 0.5, 0.1, 0.01]
    """
    if decay == 0:
        return 1.0
    with decimal.localcontext(decimal.Context(prec=DECIMAL_DIGITS)):
        base = 1 + decimal.Decimal(step) / decimal.Decimal(horizon)
        return max(float(base ** -decimal.Decimal(decay)), LEAST_SHARE)
