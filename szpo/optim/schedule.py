"""Sizes along a run: the perturbation radius μ of a step, and the share of the step size α.

Unless they are set, μ comes from the KL radius κ of one side of a comparison and α from the KL
κ_step of one step. Both may fall with the step, as step sizes of stochastic approximation do
(Robbins & Monro 1951; Kiefer & Wolfowitz 1952).
"""

from __future__ import annotations

import math
from typing import Final

from szpo.optim.settings import Settings

LEAST_SHARE: Final = 0.01
"""α does not fall below this share of its first value."""


def base_mu(settings: Settings) -> float:
    """μ at step 0: as set, or scale · √(2κ/d)."""
    if settings.section.mu is not None:
        return float(settings.section.mu)
    return settings.scale * math.sqrt(2 * settings.section.kl_radius / settings.dim)


def mu_at(settings: Settings, step: int) -> float:
    """μ at a step: that of step 0, over (1 + step/horizon)^¼ where it narrows."""
    share = 1 / math.sqrt(math.sqrt(1 + step / settings.horizon)) if settings.narrows else 1.0
    return base_mu(settings) * share  # roots are rounded alike on every machine, powers are not


def alpha_share(settings: Settings, step: int) -> float:
    """α at a step as a share of the first α: 1/(1 + step/horizon), at least `LEAST_SHARE`."""
    return max(1 / (1 + step / settings.horizon), LEAST_SHARE)
