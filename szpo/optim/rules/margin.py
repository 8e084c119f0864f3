"""The rule `margin`: a step in proportion to the mean margin of the votes; needs no link."""

from __future__ import annotations

import math

import numpy as np

from szpo.aggregation import estimators, links
from szpo.optim.rules import counting
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


def measure(settings: Settings, delta: Floats, tally: Tally | None) -> Floats:
    """The mean margin (..., K), or the one that Δ̂ from elsewhere would give: 2σ(Δ̂) − 1."""
    if tally is None:
        return np.asarray(2 * links.link(settings.link).prob(delta) - 1)
    return estimators.margin(tally)


COUNTING = counting.Counting(
    name="margin",
    measure=measure,
    unit=lambda settings, mu: 1.0,
    null_rms=lambda settings: math.sqrt(1 / (settings.N * settings.M)),
    is_exact=lambda settings: True,
    measures=True,
)
RULE = counting.rule(COUNTING)
