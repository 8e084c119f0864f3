"""The rules `known`, `sign` and `margin`: vote counts to one coefficient per direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo.aggregation import estimators, links
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The arithmetic of one step, for any leading axes: arrays (..., K).

    ``coef`` multiplies the unit-variance direction (factor · grid values) and already contains
    1/K; it is neither scaled by the direction's factor nor rounded.
    """

    coef: Floats
    delta: Floats
    stderr: Floats
    capped: NDArray[np.bool_]


def coefficients(
    settings: Settings,
    tally: Tally,
    *,
    mu: ArrayLike,
    alpha: ArrayLike,
    nu: float | None = None,
    delta: ArrayLike | None = None,
    cast: Floats | None = None,
) -> Coefficients:
    """Votes (..., K, N) to the coefficient of each direction (..., K): `known`, `sign`, `margin`.

    known: α · Δ̂ / (c μ K) with c = 2 antithetic, 1 forward; sign: α · sign / K; margin:
    α · m / K. ``mu`` and ``alpha`` are numbers or arrays of the leading axes. A coefficient
    beyond ``coef_cap`` · μ is cut to it, but under Adam, where it is a gradient and not yet a
    step. ``delta`` (..., K) replaces the estimate: true value differences, or one estimate per
    direction from a weighting of evaluators. ``cast`` (..., K, N): the votes given, where the
    tally is weighted.
    """
    link = links.link(settings.link)
    size = np.asarray(mu, dtype=np.float64)[..., None]
    rate = np.asarray(alpha, dtype=np.float64)[..., None]
    found = estimators.estimate(
        tally.plus,
        tally.minus,
        tally.tie,
        tally.identical,
        estimators.inversion(settings.smoothing, link, trim=settings.trim),
        nu=nu,
        pool=settings.smoothing == "pooled",
        share=tally.share,
        share_noise=settings.selection_noise is not None,
    )
    value = found.delta if delta is None else np.asarray(delta, dtype=np.float64)
    if settings.rule == "sign":
        lead = estimators.majority(tally.plus, tally.minus, tally.identical, tally.share)
        coef = rate * (lead if delta is None else np.sign(value))
    elif settings.rule == "margin":
        m = estimators.margin(
            tally.plus, tally.minus, tally.tie, tally.identical, cast, tally.share
        )
        coef = rate * (m if delta is None else 2 * link.prob(value) - 1)
    else:
        coef = rate * value / (settings.distance * size)
    coef = coef / settings.K
    limit = settings.coef_cap * size if settings.adam is None else np.inf
    capped = np.abs(coef) > limit
    coef = np.where(capped, np.copysign(limit, coef), coef)
    return Coefficients(coef, value, found.stderr, capped)
