"""What all single features and all pairs of features would say of the votes, without fitting them.

With k = 300 features there are 45 thousand pairs. A parabola of the log-likelihood gives the
evidence of any of them in closed form, and errs where it is used far from where it was drawn. So
one is drawn for each feature, around the logits of that feature alone; a pair is read off that of
its better feature, where only the other's addition is predicted. All parabolas together are three
products of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.optim import laplace
from szpo.optim.laplace import Approximation, Rows
from szpo.optim.sparse_prior import Prior, Support
from szpo.types import Floats

_NEWTON_STEPS = 6
"""Towards each feature's mode: a parabola needs to be near it, not on it."""
_LONGEST = 4.0
"""Logits by which such a step moves any vote at most."""
_BLOCK = 64
"""Features whose parabolas are made at a time, for little memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """All single features, on the diagonal, and pairs at T widths: arrays (T, k, k)."""

    evidence: Floats
    """Log marginal likelihood."""
    mean: Floats
    """[i, j]: of the coefficient of i in the support {i, j}."""
    variance: Floats
    """[i, j]: of the same."""
    covariance: Floats
    """[i, j]: of both; 0 on the diagonal."""

    def insert(self, supports: Sequence[Support], found: list[Approximation]) -> None:
        """Put exact fits of some supports in the place of what was predicted.

        ``found`` has one for each width, with the supports as leading axis and as many
        coefficients first as a support has features.
        """
        i, j = (np.array([each[end] for each in supports], dtype=np.int64) for end in (0, -1))
        at, last = np.arange(len(supports)), 1 * (i != j)
        for t, each in enumerate(found):
            own = each.covariance()
            self.evidence[t, i, j] = self.evidence[t, j, i] = each.evidence
            self.mean[t, i, j], self.mean[t, j, i] = each.coef[:, 0], each.coef[at, last]
            self.variance[t, i, j], self.variance[t, j, i] = own[:, 0, 0], own[at, last, last]
            mixed = np.where(last, own[at, 0, last], 0.0)
            self.covariance[t, i, j] = self.covariance[t, j, i] = mixed


@dataclass(frozen=True, slots=True, eq=False)
class _Parabolas:
    """Of the log-likelihood, around A features (anchors) alone; the side is integrated out."""

    level: Floats
    """(A,): at w = 0."""
    slope: Floats
    """(A, k): at w = 0, along each feature."""
    bend: Floats
    """(A, k): minus the second derivative along each feature."""
    mixed: Floats
    """(A, k): minus that along the anchor and each feature."""


def screen(rows: Rows, prior: Prior, nothing: Floats) -> Screen:
    """The prediction for all supports of one or two features.

    Args:
        rows: Votes; the design is (R, k), with the side as a last column where there is one.
        prior: Of k features.
        nothing: Logits (R,) where no feature matters, from which anchors start.
    """
    k = len(prior.groups)
    parts = [
        _expand(rows, prior, nothing, slice(at, min(at + _BLOCK, k))) for at in range(0, k, _BLOCK)
    ]
    level = np.concatenate([each.level for each in parts])
    slope = np.concatenate([each.slope for each in parts])
    bend = np.concatenate([each.bend for each in parts])
    mixed = np.concatenate([each.mixed for each in parts])
    precision = (prior.scale / np.array(prior.widths)[:, None]) ** 2  # (T, k)
    at = np.arange(k)

    total = precision + bend[at, at]
    alone = level + slope[at, at] ** 2 / total / 2 + np.log(precision / total) / 2

    # Pairs [t, i, j] as seen from i: the anchor's own is `a`, the other's is `b`.
    prior_a, prior_b = 2 * precision[:, :, None], 2 * precision[:, None, :]
    total_a, total_b = prior_a + bend[at, at][:, None], prior_b + bend
    slope_a = slope[at, at][:, None]
    volume = total_a * total_b - mixed**2
    mean_a = (total_b * slope_a - mixed * slope) / volume
    mean_b = (total_a * slope - mixed * slope_a) / volume
    pair = level[:, None] + (mean_a * slope_a + mean_b * slope) / 2
    pair += np.log(prior_a * prior_b / volume) / 2

    better = alone.max(0)[:, None] >= alone.max(0)  # i is the better feature of the two
    found = Screen(
        evidence=np.where(better, pair, pair.swapaxes(1, 2)),
        mean=np.where(better, mean_a, mean_b.swapaxes(1, 2)),
        variance=np.where(better, total_b / volume, (total_a / volume).swapaxes(1, 2)),
        covariance=np.where(better, -mixed / volume, (-mixed / volume).swapaxes(1, 2)),
    )
    found.evidence[:, at, at], found.mean[:, at, at] = alone, slope[at, at] / total
    found.variance[:, at, at], found.covariance[:, at, at] = 1 / total, 0.0
    return found


def _expand(rows: Rows, prior: Prior, nothing: Floats, part: slice) -> _Parabolas:
    """The parabolas around a part of the features."""
    k = len(prior.groups)
    x = rows.design[:, :k]
    own = np.ascontiguousarray(x[:, part].T)  # (A, R)
    precision = (prior.scale[part] / np.median(prior.widths)) ** 2
    furthest = _LONGEST / np.maximum(np.abs(own).max(1, initial=0.0), 1e-300)
    w = np.zeros(len(own))
    for _ in range(_NEWTON_STEPS):
        residual, curvature = _derivatives(rows, nothing + w[:, None] * own)
        newton = np.einsum("ar,ar->a", own, residual) - precision * w
        newton /= np.einsum("ar,ar,ar->a", own, own, curvature) + precision
        w += np.clip(newton, -furthest, furthest)
    logits = nothing + w[:, None] * own
    residual, curvature = _derivatives(rows, logits)
    toward = residual + curvature * logits
    level = laplace.log_likelihood(rows, logits).sum(1)
    level -= np.einsum("ar,ar->a", residual + toward, logits) / 2
    slope, bend, mixed = toward @ x, curvature @ (x * x), (curvature * own) @ x
    if rows.design.shape[1] == k:
        return _Parabolas(level, slope, bend, mixed)
    side = rows.design[:, k]
    certain = curvature @ side**2 + prior.side**-2
    pull = toward @ side / certain
    cross = (curvature * side) @ x
    with_own = np.einsum("ar,ar,r->a", curvature, own, side)
    return _Parabolas(
        level + pull**2 * certain / 2 - np.log(certain * prior.side**2) / 2,
        slope - cross * pull[:, None],
        bend - cross**2 / certain[:, None],
        mixed - cross * (with_own / certain)[:, None],
    )


def _derivatives(rows: Rows, logits: Floats) -> tuple[Floats, Floats]:
    """Slope of each row's log-likelihood at logits (A, R), and minus its second derivative."""
    rate = special.expit(logits)
    expected = rows.total * rate
    return rows.up - expected, expected * (1 - rate)
