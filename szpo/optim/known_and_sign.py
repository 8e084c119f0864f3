"""The rules `known` and `sign`: each direction's votes become one number, the step along it.

The paper's step (Zhang & Ying, arXiv 2409.17401 and 2506.03066). c is 1 where θ + μv is compared
with θ (one-sided: `pairing` forward), and 2 where it is compared with θ − μv (antithetic, as in
SPSA):

    v ~ N(0, I), θ′ = θ + μv                  `szpo.optim.sample_directions`, `optimizer.ask`
    a batch from each policy, N times         `szpo.runs.sample_batches`
    M evaluators compare each pair            `szpo.runs.controller`
    known: p_n = k_n / M, Δ̂ = (1/N) Σ_n σ⁻¹(p_n), θ ← θ + α Δ̂/(cμ) v        `szpo.optim.links`
    sign, for an unknown link: s = sign(wins − losses), all N·M votes, θ ← θ + α s v

That number is the rule's statistic. θ moves along the direction by α · statistic / (divisor · K),
so one number stands for the vector α ĝ. Where α is not set, it is chosen so that the expected step
costs ``kl_step``: from the distribution of votes when nobody has a preference, or from a warm-up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from szpo.optim import links
from szpo.optim.links import Estimate
from szpo.optim.rule import HistoryUse, Move, Perturbations, Rule, WeightedVotes, check_finite
from szpo.optim.schedule import alpha_share, base_mu
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally

COEF_CAP: Final = 10.0
"""The longest step along a direction, in units of μ."""


@dataclass(frozen=True, slots=True)
class OnePointRule:
    """The parts in which `known` and `sign` differ."""

    name: str
    statistic: Callable[[Settings, Floats, Tally | None], Floats]
    """(settings, Δ̂ (..., K), tally) → (..., K); the tally is None where Δ̂ was given instead."""
    divisor: Callable[[Settings, Any], Any]
    """(settings, μ (...)) → the divisor of the statistic."""
    null_rms: Callable[[Settings], float]
    """Root mean square of a direction's statistic when nobody has a preference."""
    is_exact: Callable[[Settings], bool]
    can_warm_up: bool
    equation: str = ""
    """The step in symbols: {c}: distance of the two policies, μ or (2μ); {p}: share of votes."""


@dataclass(frozen=True, slots=True)
class StepSize:
    """The step size, which `known` and `sign` carry from step to step."""

    alpha: float | None
    """Base step size; None during a warm-up."""
    warmup_squares: tuple[float, ...] = ()
    """Squared statistics of the warm-up, one per direction."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The arithmetic of one step, for any leading axes: arrays (..., K).

    ``coef`` multiplies the unit-variance direction (factor · grid values) and already contains
    1/K; it is neither scaled by the direction's factor nor rounded.
    """

    coef: Floats
    delta: Floats
    stderr: Floats
    statistic: Floats
    """See `OnePointRule.statistic`."""
    capped: NDArray[np.bool_]


def rule(counting: OnePointRule) -> Rule:
    """The `Rule` made of these parts."""
    return Rule(
        name=counting.name,
        init=functools.partial(init, counting),
        alpha=alpha_at,
        past=lambda settings, step_size: HistoryUse(),
        move=functools.partial(move, counting),
        figures=lambda done: {},
        is_exact=counting.is_exact,
        can_warm_up=counting.can_warm_up,
        equation=counting.equation,
    )


def init(counting: OnePointRule, settings: Settings, lead: tuple[int, ...] = ()) -> StepSize:
    """The step size; its alpha is None if a warm-up has to measure it."""
    return StepSize(None if settings.warmup else default_alpha(counting, settings))


def alpha_at(settings: Settings, step_size: StepSize, step: int) -> float | None:
    """α at a step; None during a warm-up."""
    return None if step_size.alpha is None else step_size.alpha * alpha_share(settings, step)


def with_directions(settings: Settings, step_size: StepSize, count: int) -> StepSize:
    """The step size for ``count`` directions a step; a size that was set stays.

    `default_alpha` grows with √K, since K directions are averaged.
    """
    if step_size.alpha is None or settings.alpha is not None:
        return step_size
    return replace(step_size, alpha=step_size.alpha * math.sqrt(count / settings.section.K))


def default_alpha(counting: OnePointRule, settings: Settings, rms: float | None = None) -> float:
    """The base step size: as set, or such that the expected step costs κ_step.

    An average of K independent directions with root mean square coefficient c is c · √(d/K) long;
    it should be μ · √d · √(κ_step/κ) long. ``rms`` is the statistic's root mean square in a
    warm-up; None takes it from the exact distribution of votes at rate ½.
    """
    o, mu = settings.section, base_mu(settings)
    if settings.alpha is not None:
        return float(settings.alpha)
    coef = mu * math.sqrt(o.kl_step / o.kl_radius) * math.sqrt(o.K)
    return float(coef * counting.divisor(settings, mu) / (rms or counting.null_rms(settings)))


def coefficients(
    counting: OnePointRule,
    settings: Settings,
    at: Perturbations,
    tally: Tally,
    *,
    delta: ArrayLike | None = None,
) -> Coefficients:
    """The coefficient of each direction (..., K) from votes (..., K, N); see the module.

    A coefficient beyond `COEF_CAP` · μ is clipped to that. ``delta`` (..., K), such as true
    value differences, replaces the estimate.
    """
    difference = estimate(settings, tally)
    value = difference.delta if delta is None else np.asarray(delta, dtype=np.float64)
    measure = counting.statistic(settings, value, tally if delta is None else None)
    coef, capped = _scale(counting, settings, at.mu, at.alpha, measure)
    return Coefficients(coef, value, difference.stderr, measure, capped)


def _scale(
    counting: OnePointRule,
    settings: Settings,
    mu: ArrayLike,
    alpha: ArrayLike | None,
    measure: Floats,
) -> tuple[Floats, NDArray[np.bool_]]:
    size = np.asarray(mu, dtype=np.float64)[..., None]
    rate = np.asarray(alpha, dtype=np.float64)[..., None]
    K = settings.section.K
    coef = rate * measure / counting.divisor(settings, size) / K  # θ ← θ + coef · v
    limit = COEF_CAP * size
    capped = np.abs(coef) > limit
    return np.where(capped, np.copysign(limit, coef), coef), capped


def estimate(settings: Settings, tally: Tally) -> Estimate:
    """Δ̂ and its standard error per direction, with the settings' link and smoothing."""
    link = links.link(settings.section.link)
    invert = links.inversion(settings.section.smoothing, link)
    return links.estimate(tally, invert)


def move(
    counting: OnePointRule,
    settings: Settings,
    step_size: StepSize,
    at: Perturbations,
    votes: WeightedVotes,
) -> Move:
    """Move along each direction by its coefficient, or measure α while the warm-up lasts."""
    if step_size.alpha is None:
        return _warm_up(counting, settings, step_size, at, votes)
    done = coefficients(counting, settings, at, votes.tally, delta=votes.delta)
    check_finite(done.coef, at.step, "coefficient")
    return Move(
        step_size,
        done.coef,
        delta=done.delta,
        stderr=done.stderr,
        capped=bool(done.capped.any()),
    )


def _warm_up(
    counting: OnePointRule,
    settings: Settings,
    step_size: StepSize,
    at: Perturbations,
    votes: WeightedVotes,
) -> Move:
    """A warm-up step: votes are recorded and nothing moves; the last warm-up step sets α.

    A direction without counted votes (after a deadline) is left out of the measurement.
    """
    at_one = replace(at, alpha=1.0)
    done = coefficients(counting, settings, at_one, votes.tally, delta=votes.delta)
    check_finite(done.delta, at.step, "value difference")
    measured = done.statistic[np.isfinite(done.stderr)]
    squares = (value * value for value in measured.tolist())
    warm = (*step_size.warmup_squares, *squares)
    alpha = None
    if at.step + 1 >= settings.warmup:
        total = 0.0
        for square in warm:
            total += square
        # Ties alone do not show the spread: fall back to the spread of pure vote noise.
        rms = math.sqrt(total / max(len(warm), 1))
        alpha = default_alpha(counting, settings, rms or None)
    return Move(
        replace(step_size, alpha=alpha, warmup_squares=warm),
        coef=np.zeros(settings.section.K),
        delta=done.delta,
        stderr=done.stderr,
    )


def majority(tally: Tally) -> Floats:
    """Sign of all votes for plus less all votes against, per direction; 0 for an exact tie."""
    lead = np.where(tally.identical, 0.0, tally.plus - tally.minus)
    return np.asarray(np.sign(links.ordered_sum(lead)))


def known_null_rms(settings: Settings) -> float:
    """Root mean square of a direction's Δ̂ when nobody has a preference."""
    o = settings.section
    invert = links.inversion(o.smoothing, links.link(o.link))
    return links.null_rms(o.M, invert) / math.sqrt(o.N)


KNOWN_PARTS: Final = OnePointRule(
    name="known",
    equation="Δ̂ = mean over N of σ⁻¹(p), p = {p}; θ ← θ + α Δ̂/{c} v",
    statistic=lambda settings, delta, tally: delta,
    divisor=lambda settings, mu: settings.distance * mu,
    null_rms=known_null_rms,
    is_exact=lambda s: s.section.link == "logistic" and s.section.smoothing == "haldane",
    can_warm_up=True,
)
SIGN_PARTS: Final = OnePointRule(
    name="sign",
    equation="θ ← θ + α sign(wins − losses) v",
    statistic=lambda settings, delta, tally: np.sign(delta) if tally is None else majority(tally),
    divisor=lambda settings, mu: 1.0,
    null_rms=lambda settings: 1.0,
    is_exact=lambda settings: True,
    can_warm_up=False,
)
KNOWN: Final = rule(KNOWN_PARTS)
SIGN: Final = rule(SIGN_PARTS)
