"""Bayesian logistic regression of verdicts on hidden states, in the dual.

A comparison has the regressor x = (h⁺ − h⁻)/s: h is the mean of one layer's output over an
answer's tokens, s one scale for all dimensions. P(plus) = σ(xᵀw + b·side), with w ~ N(0, t·I) and
b ~ N(0, `SIDE`²). So the logits are a Gaussian process with the kernel t·XXᵀ + SIDE²·ssᵀ, and
Laplace's approximation takes matrices as large as the number of rows, however wide the states are
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 3.4 and 3.7).

The prior is a mixture of the widths t, all equally likely: the evidence is the mean of their
marginal likelihoods, never the best of them. Against b alone its ratio is a Bayes factor, which
may be looked at after every step (Ville's inequality).

Where the directions v of earlier tastes are known, each width stands twice in the mixture: as it
is, and with w ~ N(0, t·I + `KNOWN`·Σ vvᵀ), so that something of each of them, in either sense, is
expected beside whatever else is liked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from szpo.errors import UsageError
from szpo.optim.bradley_terry import Rows, derivatives, log_likelihood
from szpo.types import FEATURE_GRID, Floats

WIDTHS: Final = (3.0, 10.0, 30.0)
"""Prior variances of the logit of a comparison whose x has length 1; all are equally likely."""
KNOWN: Final = 0.3
"""Prior variance of how much of an earlier taste there is; 1 is as much as in that one."""
SIDE: Final = 0.5
"""Standard deviation of the side's coefficient, in logits."""
_NEWTON_STEPS: Final = 100
_HALVINGS: Final = 40
_SETTLED: Final = 1e-10
"""Newton's method stops when no logit changes by more than this in a step."""

GRID: Final = 1024
"""Recorded states are whole numbers, in units of 1/`GRID` of the start's scale s."""
WIDEST: Final = 2**14
"""Most dimensions: a record of somebody else says them, and its states are unpacked to that."""
MOST_EARLIER: Final = 16
"""Most earlier tastes."""


@dataclass(frozen=True, slots=True)
class StateScale:
    """Which states a run's verdicts are fitted on; fixed with its named features."""

    layer: int
    """How many layers of the model stand below them."""
    width: int
    """Their number of dimensions."""
    scale: int
    """s, in units of 1/`GRID`: r.m.s. distance of two answers of the start to one prompt."""
    earlier: tuple[tuple[int, ...], ...] = ()
    """(E, width): directions of earlier tastes, in units of 2⁻¹² logits for h/s."""

    def __post_init__(self) -> None:
        numbers = self.layer, self.width, self.scale
        if not all(type(number) is int and 0 < number < 2**31 for number in numbers):
            raise UsageError("states: layer, width and scale must be whole numbers above 0")
        if self.width > WIDEST:
            raise UsageError(f"states: {self.width:,} dimensions; at most {WIDEST:,} are read")
        whole = all(type(n) is int and abs(n) < 2**41 for row in self.earlier for n in row)
        wide = {*map(len, self.earlier)} <= {self.width}
        if not whole or not wide or len(self.earlier) > MOST_EARLIER:
            raise UsageError(
                f"states: at most {MOST_EARLIER} earlier directions, each of {self.width} whole "
                "numbers"
            )

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> StateScale:
        """The scale from the JSON values in a run's record."""
        earlier = tuple(tuple(row) for row in body.get("earlier", ()))
        return cls(**{**body, "earlier": earlier})

    @property
    def known(self) -> Floats:
        """(E, width): directions of earlier tastes, logits for h/s."""
        rows = np.array(self.earlier, dtype=np.float64).reshape(-1, self.width)
        return np.asarray(rows / FEATURE_GRID)

    def rounded(self, states: Floats) -> NDArray[np.int16]:
        """States (..., width) as they are recorded: h/s in units of 1/`GRID`, clipped."""
        whole = np.rint(states * (GRID * GRID / self.scale))
        return np.clip(whole, -(2**15) + 1, 2**15 - 1).astype(np.int16)


@dataclass(frozen=True, slots=True, eq=False)
class Mode:
    """Laplace's approximation of the logits f ~ N(0, C) given the verdicts."""

    dual: Floats
    """(R,): slope of the log-likelihood at the mode; f = C·dual."""
    root: Floats
    """(R,): square roots of the log-likelihood's curvature, √W."""
    factor: Floats
    """(R, R): lower Cholesky factor of 1 + √W·C·√W."""
    evidence: float
    """Log marginal likelihood, nats."""

    def variance(self, across: Floats, own: Floats) -> Floats:
        """Posterior variances (n,) of other logits, from their covariances with the rows.

        Args:
            across: (n, R): prior covariances with the rows' logits.
            own: (n,): prior variances.
        """
        part = linalg.solve_triangular(self.factor, (across * self.root).T, lower=True)
        return np.asarray(own - (part * part).sum(0))


@dataclass(frozen=True, slots=True, eq=False)
class StateFit:
    """The posterior of w and b: an equal mixture of widths, weighted by their likelihoods."""

    x: Floats = field(repr=False)
    """(R, p): regressors of the rows with verdicts."""
    known: Floats = field(repr=False)
    """(E, p): directions of earlier tastes."""
    widths: Floats
    """(T,)."""
    likeness: Floats
    """(T,): prior variance of the part of each known direction, beside each width."""
    modes: tuple[Mode, ...] = field(repr=False)
    """One for each width."""
    evidence: float
    """Log marginal likelihood of the mixture, nats."""
    log_factor: float
    """Log Bayes factor of w ≠ 0 against w = 0, nats."""
    side: float
    """Posterior mean of b, logits."""

    @property
    def chances(self) -> Floats:
        """(T,): posterior probabilities of the widths, given that w ≠ 0."""
        return np.asarray(special.softmax([each.evidence for each in self.modes]))

    @property
    def w(self) -> Floats:
        """(p,): posterior mean of w, given that w ≠ 0."""
        pulls = np.array([each.dual for each in self.modes]) @ self.x
        along = (self.chances * self.likeness) @ (pulls @ self.known.T) @ self.known
        return np.asarray((self.chances * self.widths) @ pulls + along)

    def logits(self, x: Floats) -> tuple[Floats, Floats]:
        """Means and variances (T, n) of xᵀw for other x (n, p), one row a width."""
        like, known = x @ self.known.T, self.x @ self.known.T
        across, own = (x @ self.x.T, like @ known.T), ((x * x).sum(-1), (like * like).sum(-1))
        means, spread = [], []
        for t, v, each in zip(self.widths, self.likeness, self.modes, strict=True):
            shared = t * across[0] + v * across[1]
            means.append(shared @ each.dual)
            spread.append(each.variance(shared, t * own[0] + v * own[1]))
        return np.array(means), np.array(spread)


def fit_states(
    x: Floats, up: Floats, down: Floats, side: Floats | None = None,
    widths: tuple[float, ...] = WIDTHS, known: Floats | None = None,
) -> StateFit:  # fmt: skip
    """The posterior of w given verdicts; rows without verdicts are ignored.

    Args:
        x: (R, p): differences of states, plus less minus, in units of the start's scale.
        up: (R,): verdicts for plus, fractions allowed, at least 0.
        down: (R,): verdicts for minus.
        side: (R,): +1 where plus stood on A, −1 on B, 0 if balanced; None: no such term.
        widths: Prior variances of a logit with |x| = 1.
        known: (E, p): directions of earlier tastes; None or empty: none.

    Raises:
        UsageError: shapes that do not fit, values that are not finite, negative counts.
    """
    side = np.zeros(len(up)) if side is None else side
    known = np.zeros((0, x.shape[-1])) if known is None else known
    if x.ndim != 2 or not up.shape == down.shape == side.shape == x.shape[:1]:
        raise UsageError(f"votes: states {x.shape}, counts {up.shape} and {down.shape}")
    finite = all(np.isfinite(each).all() for each in (x, up, down, side))
    if not finite or (up < 0).any() or (down < 0).any():
        raise UsageError("votes: states must be finite and counts at least 0")
    cast = up + down > 0
    x, up, total, side = x[cast], up[cast], (up + down)[cast], side[cast]
    own, gram, along = SIDE**2 * np.outer(side, side), x @ x.T, x @ known.T
    without, like = _find_mode(Rows(own, up, total)), along @ along.T
    shares = (0.0, KNOWN) if len(known) else (0.0,)
    priors = [(t, share) for share in shares for t in sorted(widths)]
    modes: list[Mode] = []
    start = np.zeros(len(up))
    for t, share in priors:
        modes.append(_find_mode(Rows(t * gram + share * like + own, up, total), start))
        start = modes[-1].dual
    each = np.array([mode.evidence for mode in modes])
    evidence = float(special.logsumexp(each)) - math.log(len(each))
    b = [SIDE**2 * float(side @ mode.dual) for mode in modes]
    of_widths, of_known = np.array(priors).T
    return StateFit(
        x, known, of_widths, of_known, tuple(modes), evidence, evidence - without.evidence,
        float(special.softmax(each) @ b),
    )  # fmt: skip


def _find_mode(rows: Rows, start: Floats | None = None) -> Mode:
    """Newton's method in the number of rows, whose design is C; long steps are halved."""
    covariance = rows.design
    dual = np.zeros(len(rows.up)) if start is None else start
    f = covariance @ dual
    height = _height(rows, dual, f)
    for _ in range(_NEWTON_STEPS):
        slope, weight = derivatives(rows, f)
        root = np.sqrt(weight)
        factor = _cholesky(covariance, root)
        pull = weight * f + slope
        inner = linalg.cho_solve((factor, True), root * (covariance @ pull))
        move = pull - root * inner - dual
        moved_f, size = covariance @ move, 1.0
        for _ in range(_HALVINGS):
            trial = _height(rows, dual + size * move, f + size * moved_f)
            if trial >= height - 1e-12 * (1 + abs(height)):
                break
            size /= 2
        dual, f, height = dual + size * move, f + size * moved_f, trial
        if np.abs(size * moved_f).max(initial=0.0) <= _SETTLED:
            break
    slope, weight = derivatives(rows, f)
    root = np.sqrt(weight)
    factor = _cholesky(covariance, root)
    volume = float(np.log(np.diag(factor)).sum())
    return Mode(slope, root, factor, height - volume)


def _cholesky(covariance: Floats, root: Floats) -> Floats:
    """Lower factor of 1 + √W·C·√W, which is well conditioned."""
    inner = root[:, None] * covariance * root
    inner[np.diag_indices_from(inner)] += 1.0
    return np.asarray(linalg.cholesky(inner, lower=True))


def _height(rows: Rows, dual: Floats, f: Floats) -> float:
    """Log-likelihood at logits f less half of fᵀC⁻¹f."""
    return float(log_likelihood(rows, f).sum() - 0.5 * dual @ f)
