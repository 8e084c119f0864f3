"""The rule `known`: invert the known link, estimate the gradient, and follow it.

ĝ = Δ̂ / (c·μ) · v, with c = 2 where the policies stand at θ ± μv (antithetic, as in SPSA), and 1
where one stands at θ (forward). Published for the logistic link by Zhang & Ying (arXiv
2409.17401).
"""

from __future__ import annotations

import math

from szpo.aggregation import estimators, links
from szpo.optim.rules import counting
from szpo.optim.settings import Settings, SettingsError


def null_rms(settings: Settings) -> float:
    """Root mean square of Δ̂ of a direction when nobody has a preference.

    Raises:
        UsageError: the estimator is 0 whatever the votes (clip at M = 1).
    """
    invert = estimators.inversion(
        settings.smoothing, links.link(settings.link), trim=settings.trim
    )
    if settings.smoothing == "pooled":
        rms = estimators.null_rms(settings.N * settings.M, invert)
    else:
        rms = estimators.null_rms(settings.M, invert) / math.sqrt(settings.N)
    if rms < 1e-12:
        raise SettingsError(
            f"`smoothing` {settings.smoothing} with `M` = {settings.M} is 0 whatever the votes; "
            "choose haldane, or a larger `M`"
        )
    return rms


COUNTING = counting.Counting(
    name="known",
    measure=lambda settings, delta, tally: delta,
    unit=lambda settings, mu: settings.distance * mu,
    null_rms=null_rms,
    is_exact=lambda s: s.link == "logistic" and s.smoothing in ("haldane", "pooled"),
    measures=True,
)
RULE = counting.rule(COUNTING)
