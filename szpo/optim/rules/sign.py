"""The rule `sign`: the link is not known, so a step of constant length goes to the better side.

A step of the paper (Zhang & Ying, arXiv 2506.03066):

    v ~ N(0, I), θ′ = θ + μv                              `szpo.optim.optimizer.query`
    both answer the same prompts, evaluators vote         `szpo.training.rollouts`, `.controller`
    n₊ and n₋: N batches, M evaluators each                `szpo.types.Tally`
    s = sign(n₊ − n₋)                                      here
    θ ← θ + α s v                                          `szpo.optim.parameters.apply_update`
"""

from __future__ import annotations

import numpy as np

from szpo.aggregation import estimators
from szpo.optim.rules import counting
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


def measure(settings: Settings, delta: Floats, tally: Tally | None) -> Floats:
    """The sign s (..., K) of the votes' majority, or of Δ̂ where it came from elsewhere."""
    return np.sign(delta) if tally is None else estimators.majority(tally)


COUNTING = counting.Counting(
    name="sign",
    equation="θ ← θ + α sign(n₊ − n₋) v",
    measure=measure,
    unit=lambda settings, mu: 1.0,
    null_rms=lambda settings: 1.0,
    is_exact=lambda settings: True,
    measures=False,
)
RULE = counting.rule(COUNTING)
