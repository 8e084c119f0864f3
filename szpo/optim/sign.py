"""The rule `sign`: the link is unknown, so θ moves by a constant length to the better side.

A step of the paper (Zhang & Ying, arXiv 2506.03066):

    v ~ N(0, I), θ′ = θ + μv                  `szpo.optim.sample_directions`, `optimizer.ask`
    a batch from each policy, N times         `szpo.runs.sample_batches`
    M evaluators compare each pair            `szpo.runs.controller`
    s = sign(wins − losses), all N·M votes    here
    θ ← θ + α s v                             `szpo.runs.update_policy`
"""

from __future__ import annotations

import numpy as np

from szpo.optim import along_direction
from szpo.optim.links import ordered_sum
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


def statistic(settings: Settings, delta: Floats, tally: Tally | None) -> Floats:
    """The sign s (..., K) of the votes' majority, or of Δ̂ where that was given instead."""
    return np.sign(delta) if tally is None else majority(tally)


def majority(tally: Tally) -> Floats:
    """Sign of all votes for plus less all votes against, per direction; 0 for an exact tie."""
    lead = np.where(tally.identical, 0.0, tally.plus - tally.minus)
    return np.asarray(np.sign(ordered_sum(lead)))


COUNTING = along_direction.OnePointRule(
    name="sign",
    equation="θ ← θ + α sign(wins − losses) v",
    statistic=statistic,
    divisor=lambda settings, mu: 1.0,
    null_rms=lambda settings: 1.0,
    is_exact=lambda settings: True,
    can_warm_up=False,
)
RULE = along_direction.rule(COUNTING)
