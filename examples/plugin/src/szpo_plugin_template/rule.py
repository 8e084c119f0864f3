"""The rule `cautious`: like `known`, but a direction's estimate counts up to a limit only.

θ moves along each direction by α · clip(Δ̂) / (c·μ·K). A direction on which all votes agree by
chance moves θ no further than one on which the votes are about three to one.
"""

import numpy as np

from szpo.optim import known_and_sign

LIMIT = 1.0
"""In units of Δ̂, log-odds."""


def measure(settings, delta, tally):
    """What the rule reads in the votes of each direction, (..., K)."""
    return np.clip(delta, -LIMIT, LIMIT)


RULE = known_and_sign.rule(
    known_and_sign.OnePointRule(
        name="cautious",
        statistic=measure,
        divisor=lambda settings, mu: settings.distance * mu,
        null_rms=lambda settings: min(LIMIT, known_and_sign.known_null_rms(settings)),
        is_exact=known_and_sign.KNOWN_PARTS.is_exact,
        can_warm_up=True,
    )
)
