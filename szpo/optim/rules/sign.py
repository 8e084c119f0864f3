"""The rule `sign`: a step of constant length to the side with more votes; needs no link."""

from __future__ import annotations

import numpy as np

from szpo.aggregation import estimators
from szpo.optim.rules import counting
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


def measure(settings: Settings, delta: Floats, tally: Tally | None) -> Floats:
    """The sign (..., K) of the votes' majority, or of Δ̂ where it came from elsewhere."""
    return np.sign(delta) if tally is None else estimators.majority(tally)


COUNTING = counting.Counting(
    name="sign",
    measure=measure,
    unit=lambda settings, mu: 1.0,
    null_rms=lambda settings: 1.0,
    is_exact=lambda settings: True,
    measures=False,
)
RULE = counting.rule(COUNTING)
