"""The rule `bayes`: a posterior on the local gradient from a window of recent votes.

A vote has the feature x = z⁺ − z⁻ and P(plus) = σ(xᵀw + u_c), with w the gradient in link units
and u_c ~ N(0, s²) shared by the votes of one comparison (they read the same texts). The prior is
N(w₀, Λ⁻¹), a vote of age a weighs λ^a, and the Laplace posterior N(ŵ, P) gives the step
δ = ℓ · ŵ/√(|ŵ|² + tr P): its full length where the votes say much, short where they say little.

Where no comparison has two votes s cannot be seen and is 0: ŵ is then attenuated by
1/√(1 + πs²/8), which turns no direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo.errors import UsageError
from szpo.types import Floats, Ints, Tally

AGE_CUT = 1e-3
"""Votes of a smaller weight λ^a leave the window."""
S_MAX = 4.0
"""Largest comparison noise s considered, in link units."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())
_S_GRID = np.linspace(0.0, S_MAX, 41)
_NEWTON_STEPS = 30


@dataclass(frozen=True, slots=True)
class Window:
    """Recent votes: one row per (step, direction), with counts per comparison.

    Shapes: steps (R,), x (..., R, d), counts (..., R, N); plus and minus hold half a vote for each
    of the ties, and a comparison that does not count has none. Counts of a row stand in sorted
    order, so that the order in which votes came cannot matter.
    """

    steps: Ints
    x: Floats
    plus: Floats
    minus: Floats
    ties: Floats
    squares: Floats | None = None
    """Σw² over a comparison's votes where they are weighted; ``ties`` is then that of ties."""

    @classmethod
    def empty(cls, dim: int, comparisons: int, lead: tuple[int, ...] = ()) -> Window:
        """No votes yet, for d coordinates and N comparisons per direction."""
        none = np.zeros((*lead, 0, comparisons))
        return cls(np.zeros(0, dtype=np.int64), np.zeros((*lead, 0, dim)), none, none, none)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Gaussian posterior on the gradient.

    Shapes: mean w (..., d), covariance (..., d, d), comparison noise s (...).
    """

    w: Floats
    covariance: Floats
    s: Floats

    def interval(self, x: ArrayLike, z: float = 1.959963984540054) -> tuple[Floats, Floats]:
        """Lower and upper end of the interval of xᵀw, ± z standard deviations."""
        feature = np.asarray(x, dtype=np.float64)
        centre = (feature * self.w).sum(-1)
        half = z * np.sqrt(np.einsum("...i,...ij,...j->...", feature, self.covariance, feature))
        return centre - half, centre + half


def add(window: Window, step: int, x: Floats, tally: Tally, *, forget: float) -> Window:
    """The window after a step's votes, without those that have become too old.

    Shapes: x (..., K, d), counts (..., K, N).
    """
    live = ~tally.identical
    up = np.where(live, tally.plus + 0.5 * tally.tie, 0.0)
    down = np.where(live, tally.minus + 0.5 * tally.tie, 0.0)
    even = np.where(live, tally.tie, 0.0)
    order = np.lexsort((even, down, up), axis=-1)
    up, down, even = (np.take_along_axis(count, order, -1) for count in (up, down, even))
    keep = forget ** (step - window.steps.astype(np.float64)) >= AGE_CUT
    rows = np.full(x.shape[-2], step, dtype=np.int64)
    return Window(
        np.concatenate([window.steps[keep], rows]),
        np.concatenate([window.x[..., keep, :], x], axis=-2),
        np.concatenate([window.plus[..., keep, :], up], axis=-2),
        np.concatenate([window.minus[..., keep, :], down], axis=-2),
        np.concatenate([window.ties[..., keep, :], even], axis=-2),
    )


def posterior(
    window: Window,
    *,
    precision: ArrayLike,
    mean: ArrayLike | None = None,
    forget: float,
    step: int | None = None,
    s: ArrayLike | None = None,
) -> Posterior:
    """The Laplace posterior N(ŵ, P) of the gradient given the window.

    ``precision`` is the prior's: a number (times the identity) or a (d, d) matrix; ``mean`` its
    mean, 0 by default. ``step`` is the step whose votes weigh 1 (the newest by default). ``s``
    None estimates the comparison noise from the votes, twice: at w = 0 and at the first fit.

    Raises:
        UsageError: precision or mean do not fit the coordinates.
    """
    dim = window.x.shape[-1]
    Lambda = np.asarray(precision, dtype=np.float64)
    if Lambda.ndim == 0:
        Lambda = Lambda * np.eye(dim)
    start = np.zeros(dim) if mean is None else np.asarray(mean, dtype=np.float64)
    if Lambda.shape[-2:] != (dim, dim) or start.shape[-1:] != (dim,):
        raise UsageError(f"bayes: prior of {Lambda.shape} and {start.shape} for {dim} coordinates")
    newest = step if step is not None else int(window.steps.max(initial=0))
    ages = newest - window.steps.astype(np.float64)
    weight = forget**ages
    if s is not None:
        noise = np.broadcast_to(np.asarray(s, dtype=np.float64), window.x.shape[:-2])
        return _laplace(window, weight, Lambda, start, noise)
    noise = comparison_noise(window, weight, np.zeros(window.x.shape[:-1]))
    fit = _laplace(window, weight, Lambda, start, noise)
    if not noise.any():
        return fit
    eta = np.einsum("...rd,...d->...r", window.x, fit.w)
    return _laplace(window, weight, Lambda, start, comparison_noise(window, weight, eta))


def comparison_noise(window: Window, weight: Floats, eta: Floats) -> Floats:
    """The noise s: agreement within comparisons against agreement between them.

    With votes y = ±1 (0 for a tie), pairs within a comparison have mean E[m(η+u)²], pairs
    between comparisons of the same direction (E m)², with m = 2σ − 1; the difference, pooled over
    directions by their pairs within, is the variance of m, which grows with s. ``eta`` (..., R)
    is where on the link each direction stands. 0 where no comparison has two votes.
    """
    score = window.plus - window.minus
    size = window.plus + window.minus
    own = size if window.squares is None else window.squares
    pairs = np.where(size * size - own > 1e-9, size * size - own, 0.0)
    agree = np.where(pairs > 0, score**2 - (own - window.ties), 0.0)  # a tie is y = 0
    between = size.sum(-1) ** 2 - (size**2).sum(-1)
    across = score.sum(-1) ** 2 - (score**2).sum(-1)
    usable = (pairs.sum(-1) > 0) & (between > 0)
    trust = weight * np.where(usable, pairs.sum(-1), 0.0)
    total = trust.sum(-1)
    if not total.any():
        return np.zeros(total.shape)
    within_mean = agree.sum(-1) / np.where(usable, pairs.sum(-1), 1.0)
    between_mean = across / np.where(usable, between, 1.0)
    seen = (trust * (within_mean - between_mean)).sum(-1)
    # Expected excess on a grid of s; it increases, so invert by interpolation.
    expected = np.stack([(trust * _spread(eta, s)).sum(-1) for s in _S_GRID], axis=-1)
    out = np.zeros(total.shape)
    for index in np.ndindex(total.shape):
        if total[index] > 0:
            curve = np.maximum.accumulate(expected[index])
            out[index] = np.interp(seen[index], curve, _S_GRID)
    return out


def step_vector(posterior: Posterior, length: ArrayLike) -> Floats:
    """δ = ℓ · ŵ/√(|ŵ|² + tr P), shape (..., d)."""
    trace = np.trace(posterior.covariance, axis1=-2, axis2=-1)
    norm = np.sqrt((posterior.w**2).sum(-1) + trace)
    return np.asarray(np.asarray(length)[..., None] * posterior.w / norm[..., None])


def prior_precision(mu: float, distance: int, dim: int) -> float:
    """1/τ² with τ² · E|x|² = 1, for features x of ``distance`` · μ · v."""
    return (distance * mu) ** 2 * dim


def attenuation(s: ArrayLike) -> Floats:
    """By how much unseen comparison noise shrinks xᵀw: 1/√(1 + πs²/8)."""
    return np.asarray(1 / np.sqrt(1 + math.pi * np.asarray(s, dtype=np.float64) ** 2 / 8))


def _spread(eta: Floats, s: float) -> Floats:
    """Variance of 2σ(η + u) − 1 over u ~ N(0, s²)."""
    if s == 0:
        return np.zeros_like(eta)
    m = np.tanh((eta[..., None] + s * _NODES) / 2)
    weights = np.exp(_LOG_WEIGHTS)
    mean = (m * weights).sum(-1)
    return np.asarray(((m - mean[..., None]) ** 2 * weights).sum(-1))


def _likelihood(window: Window, eta: Floats, s: Floats) -> tuple[Floats, Floats, Floats]:
    """Log-likelihood of each row (..., R) at η, its slope and its curvature (≥ 0)."""
    if not s.any():
        up, down = window.plus.sum(-1), window.minus.sum(-1)
        rate = special.expit(eta)
        value = up * special.log_expit(eta) + down * special.log_expit(-eta)
        return value, up - (up + down) * rate, (up + down) * rate * (1 - rate)
    up, down = window.plus[..., None], window.minus[..., None]
    at = eta[..., None, None] + s[..., None, None, None] * _NODES
    rate = special.expit(at)
    log = up * special.log_expit(at) + down * special.log_expit(-at) + _LOG_WEIGHTS
    top = log.max(-1, keepdims=True)
    share = np.exp(log - top)
    total = share.sum(-1, keepdims=True)
    share = share / total
    slope = up - (up + down) * rate
    mean_slope = (share * slope).sum(-1)
    bend = (share * ((up + down) * rate * (1 - rate) - slope**2)).sum(-1) + mean_slope**2
    value = (np.log(total) + top)[..., 0]
    return value.sum(-1), mean_slope.sum(-1), np.maximum(bend, 0.0).sum(-1)


def _laplace(
    window: Window, weight: Floats, Lambda: Floats, start: Floats, s: Floats
) -> Posterior:
    """Newton's method on the log-posterior, which is concave, with halving where it overshoots."""
    x = window.x
    lead, dim = x.shape[:-2], x.shape[-1]
    Lambda = np.broadcast_to(Lambda, (*lead, dim, dim))
    start = np.broadcast_to(start, (*lead, dim))

    def objective(w: Floats) -> tuple[Floats, Floats, Floats]:
        value, slope, bend = _likelihood(window, np.einsum("...rd,...d->...r", x, w), s)
        pull = np.einsum("...ij,...j->...i", Lambda, w - start)
        total = (weight * value).sum(-1) - 0.5 * ((w - start) * pull).sum(-1)
        gradient = np.einsum("...rd,...r->...d", x, weight * slope) - pull
        heavy = x * (weight * bend)[..., None]
        return total, gradient, np.einsum("...ri,...rj->...ij", heavy, x) + Lambda

    w = start.copy()
    value, gradient, hessian = objective(w)
    for _ in range(_NEWTON_STEPS):
        move = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        size = np.ones(lead)
        for _ in range(20):
            trial = w + size[..., None] * move
            found = objective(trial)
            worse = found[0] < value - 1e-12 * (1 + np.abs(value))
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        w, (value, gradient, hessian) = trial, found
        if (np.abs(move) <= 1e-12 * (1 + np.abs(w))).all():
            break
    covariance = np.linalg.inv(hessian)
    return Posterior(w, (covariance + np.swapaxes(covariance, -1, -2)) / 2, s)
