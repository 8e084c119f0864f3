"""The plain panel of the worlds: M identical voters compare mean returns.

This is the panel of the published experiments, P(plus) = σ(β·gap), at millions of votes per
second. `szpo_simulators.panels.raters` has raters with ties, lapses and side bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from szpo import seeds
from szpo.aggregation.links import link
from szpo.types import Floats
from szpo_simulators.panels import panel
from szpo_simulators.worlds.world import Reals, Uniforms, World, draws, uniforms


@dataclass(frozen=True)
class LinkPanel:
    """Identical voters: P(plus) = link(β · difference of mean returns)."""

    link: str = "logistic"
    beta: float = 1.0
    """Logits per unit of return."""

    def __post_init__(self) -> None:
        """Refuse a link that does not exist."""
        link(self.link)

    def chance(self, gap: ArrayLike) -> Floats:
        """P(plus) for differences of mean returns, plus over minus, any shape."""
        return link(self.link).prob(self.beta * np.asarray(gap, dtype=np.float64))


@lru_cache
def calibrate(world: World, rows: int) -> panel.Calibration:
    """β of ``bt70`` for mean returns of ``rows`` walks of a world's untrained policy."""
    returns = world.returns(world.theta0[None], draws(world, [0], 0, 0, 20_000, "calibration"))
    return panel.calibrate(returns.reshape(200, 100), rows, 0)


def votes(chance: Reals, coins: Uniforms) -> Floats:
    """Number of votes for plus (...) out of M, from P(plus) (...) and uniforms (..., M)."""
    bound = chance.astype(np.float32)
    if coins.shape[-1] == 1:
        return np.asarray(coins[..., 0] < bound, dtype=np.float64)
    return np.asarray((coins < bound[..., None]).sum(-1), dtype=np.float64)


def coins(
    root_seeds: Sequence[int], step: int, shape: tuple[int, ...], steps: int = 1
) -> Uniforms:
    """The voters' uniform numbers (steps, S, *shape) from ``step`` on, for each root seed."""
    size = int(np.prod(shape))
    keys = (seeds.derive(seed, "world votes") for seed in root_seeds)
    made = [uniforms(key, size * steps, size * step) for key in keys]
    return np.stack(made).reshape(len(made), steps, *shape).swapaxes(0, 1)
