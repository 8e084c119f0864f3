"""The rule `known`: the link σ is known, so its inverse turns votes into a value difference.

The paper's step (Zhang & Ying, arXiv 2409.17401). c is 1 where θ + μv is compared with θ
(one-sided: `pairing` forward), and 2 where it is compared with θ − μv (antithetic, as in SPSA):

    v ~ N(0, I), θ′ = θ + μv                  `szpo.optim.sample_directions`, `optimizer.ask`
    a batch from each policy, N times         `szpo.runs.sample_batches`
    M evaluators compare each pair            `szpo.runs.controller`
    p_n = k_n / M, Δ̂ = (1/N) Σ_n σ⁻¹(p_n)     `szpo.optim.links`
    ĝ = Δ̂/(cμ) · v                            cμ is `divisor` below; see `along_direction`
    θ ← θ + α ĝ                               `szpo.runs.update_policy`
"""

from __future__ import annotations

import math
from typing import Any

from szpo.optim import along_direction, links
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


def statistic(settings: Settings, delta: Floats, tally: Tally | None) -> Floats:
    """Δ̂ (..., K) itself: the mean over n of σ⁻¹(p_n)."""
    return delta


def divisor(settings: Settings, mu: Any) -> Any:
    """c·μ, which turns a difference of values into a slope along v."""
    return settings.distance * mu


def null_rms(settings: Settings) -> float:
    """Root mean square of a direction's Δ̂ when nobody has a preference."""
    o = settings.section
    invert = links.inversion(o.smoothing, links.link(o.link))
    return links.null_rms(o.M, invert) / math.sqrt(o.N)


COUNTING = along_direction.OnePointRule(
    name="known",
    equation="Δ̂ = mean over N of σ⁻¹(p), p = {p}; θ ← θ + α Δ̂/{c} v",
    statistic=statistic,
    divisor=divisor,
    null_rms=null_rms,
    is_exact=lambda s: s.section.link == "logistic" and s.section.smoothing == "haldane",
    can_warm_up=True,
)
RULE = along_direction.rule(COUNTING)
