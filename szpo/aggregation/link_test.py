"""Test whether the logistic link fits, on triads: three batches of answers, compared pairwise.

With the same texts in all three comparisons, value differences add up: x_ac = x_ab + x_bc. So
under the logistic link the log-odds must add up. Let a triad have m_e votes on edge e, k_e of them
for the edge's first batch. Then s₁ = k_ab + k_ac and s₂ = k_bc + k_ac are sufficient for x_ab and
x_bc, and given s₁ and s₂ the distribution of k_ac has no unknown:

    P(k_ac = k) ∝ C(m_ab, s₁ − k) · C(m_bc, s₂ − k) · C(m_ac, k).

So the test keeps its level, however large the differences and however few the votes of an edge. It
looks for log-odds of the form x + γx³: γ > 0 where votes become certain sooner than the logistic
link allows (probit .018, linear .083), γ < 0 where they stay uncertain at large differences
(cauchit −.122, a lapse of 10 % −.020), and where voters of different sharpness are pooled. Its
score is Σ 3·â·b̂·(â + b̂)·(k_ac − E k_ac): the locally most powerful weights at the estimated x.

Votes are assumed to be independent given the texts. Pure arithmetic, any leading axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from szpo.aggregation import laplace
from szpo.intervals import Share, Z
from szpo.types import Floats

LEVEL: Final = 0.05
MIN_TRIADS: Final = 5
"""Informative triads needed for a p-value; with fewer, none is reported."""
POWER_QUANTILE: Final = 0.8416212335729143
"""Normal quantile of 80 %."""
_PRIOR: Final = 1.5
"""Prior standard deviation of a difference x in `differences`, logits."""
_EDGES: Final[Floats] = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
"""ab, bc and ac in terms of x_ab and x_bc."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """Evidence on γ, per repetition (...)."""

    score: Floats
    information: Floats
    """Variance of the score under the logistic link."""
    telling: Floats
    """Informative triads: k_ac is not fixed by s₁ and s₂."""

    @property
    def z(self) -> Floats:
        """The score in standard deviations; 0 without an informative triad."""
        return np.asarray(
            self.score / np.sqrt(np.where(self.information > 0, self.information, 1))
        )

    @property
    def p(self) -> Floats:
        """Two-sided p-value; 1 with fewer than `MIN_TRIADS` informative triads."""
        found = 2 * special.ndtr(-np.abs(self.z))
        return np.where(self.telling >= MIN_TRIADS, found, 1.0)


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """The result of the link test, from triads and repeated comparisons."""

    triads: int
    votes: int
    """Votes for a side; ties are left out."""
    ties: int
    curvature: float | None
    """γ, to first order; None with fewer than `MIN_TRIADS` informative triads."""
    low: float | None
    high: float | None
    """``low`` and ``high``: the 95 % interval of γ."""
    p: float | None
    detectable: float | None
    """The |γ| that this number of votes detects with a power of 80 %."""
    scale: float | None
    """Size of the differences, in logits, from the agreement of different panelists' votes."""
    own_scale: float | None
    """The same from comparisons that one panelist answered twice."""

    @property
    def fits(self) -> bool | None:
        """Whether the logistic link is not rejected; None where there is too little data."""
        return None if self.p is None else self.p >= LEVEL

    @property
    def warning(self) -> str | None:
        """One line for the operator if the link does not fit, else None."""
        if self.fits is not False or self.curvature is None or self.p is None:
            return None
        how = "sooner sure" if self.curvature > 0 else "less sure of large differences"
        return (
            f"votes are {how} than the logistic link allows (p = {self.p:.2g}, {self.triads} "
            f"triads, {self.votes} votes): inverted votes mislead; set optimizer.rule=sign, "
            "which needs no link: szpo branch RUN --step K --rule sign"
        )

    def line(self) -> str:
        """The whole result in one line."""
        if self.curvature is None or self.p is None:
            return (
                f"{self.triads} triads, {self.votes} votes: too little to tell whether the "
                "logistic link fits (few votes, or batches too similar or too far apart)"
                f"{self._apart()}"
            )
        verdict = "does not fit" if self.fits is False else "is not contradicted"
        return (
            f"logistic link {verdict}: curvature {self.curvature:+.3f} [{self.low:+.3f}, "
            f"{self.high:+.3f}], p = {self.p:.2g}, from {self.triads} triads and {self.votes} "
            f"votes, which find {self.detectable:.3f} in 80 of 100 cases{self._apart()}"
        )

    def _apart(self) -> str:
        """The size of the differences, in words; '' where it is unknown."""
        scales = {"between panelists": self.scale, "for one panelist": self.own_scale}
        found = [f"{far:.1f} {who}" for who, far in scales.items() if far is not None]
        return f"; comparisons lie apart by {', '.join(found)}, in logits" if found else ""


def curvature(won: Floats, votes: Floats) -> Curvature:
    """The conditional score test of γ = 0.

    ``won`` and ``votes`` (..., T, 3), for edges ab, bc, ac of T triads: votes for the edge's first
    batch, and all votes for a side.
    """
    m = np.asarray(votes, dtype=np.float64)
    won = np.asarray(won, dtype=np.float64)
    first, second = won[..., 0] + won[..., 2], won[..., 1] + won[..., 2]
    x_ab, x_bc = differences(first, second, m)
    k = np.arange(int(m[..., 2].max(initial=0)) + 1, dtype=np.float64)
    log = (
        _log_ways(m[..., 0, None], first[..., None] - k)
        + _log_ways(m[..., 1, None], second[..., None] - k)
        + _log_ways(m[..., 2, None], k)
    )
    chance = np.exp(log - log.max(-1, keepdims=True))
    chance = chance / chance.sum(-1, keepdims=True)
    mean = (chance * k).sum(-1)
    variance = (chance * (k - mean[..., None]) ** 2).sum(-1)
    weight = 3 * x_ab * x_bc * (x_ab + x_bc)  # (a + b)³ − a³ − b³
    return Curvature(
        (weight * (won[..., 2] - mean)).sum(-1),
        (weight**2 * variance).sum(-1),
        ((variance > 1e-9) & (np.abs(weight) > 1e-9)).sum(-1) * 1.0,
    )


def differences(first: Floats, second: Floats, votes: Floats) -> tuple[Floats, Floats]:
    """x_ab and x_bc (..., T) at their posterior mode given s₁ and s₂.

    The prior of each of the three differences is N(0, 1.5²).
    """
    # The likelihood depends on the wins through s₁ and s₂ only, so ac may have none.
    wins = np.stack([first, second, np.zeros(first.shape)], axis=-1)
    rows = laplace.Rows(np.broadcast_to(_EDGES, (*wins.shape, 2)), wins, votes)
    precision = np.broadcast_to(_EDGES.T @ _EDGES / _PRIOR**2, (*first.shape, 2, 2))
    found = laplace.approximate(rows, np.zeros((*first.shape, 2)), precision).coef
    clean = np.where(np.abs(found) > 1e-9, found, 0.0)
    return clean[..., 0], clean[..., 1]


def check(won: Floats, votes: Floats, *, ties: int, again: Share) -> LinkCheck:
    """The test of one run's triads (T, 3), and the size of the differences.

    ``again``: the share of comparisons answered twice that got the same side both times.
    """
    found = curvature(won, votes)
    enough = int(found.telling) >= MIN_TRIADS
    scale, width = math.sqrt(max(float(found.information), 1e-300)), float(found.information)
    gamma = float(found.score) / width if enough else None
    pairs = votes * (votes - 1) / 2
    same = (won * (won - 1) + (votes - won) * (votes - won - 1)) / 2
    between = float(same.sum() / pairs.sum()) if pairs.sum() else None
    return LinkCheck(
        triads=len(votes),
        votes=round(float(votes.sum())),
        ties=ties,
        curvature=gamma,
        low=None if gamma is None else gamma - Z / scale,
        high=None if gamma is None else gamma + Z / scale,
        p=float(found.p) if enough else None,
        detectable=(Z + POWER_QUANTILE) / scale if enough else None,
        scale=spread(between),
        own_scale=spread(again.value if again.of else None),
    )


def spread(same: float | None) -> float | None:
    """The difference in logits at which two votes agree with probability a, 2·atanh √(2a − 1).

    >>> round(spread(0.7), 3), spread(0.4), spread(None)
    (1.491, 0.0, None)
    """
    if same is None:
        return None
    return 2 * math.atanh(math.sqrt(min(max(2 * same - 1, 0.0), 0.9999)))


def _log_ways(m: Floats, k: Floats) -> Floats:
    """Log of C(m, k); −inf outside 0 … m."""
    inside = (k >= 0) & (k <= m)
    safe = np.where(inside, k, 0.0)
    value = special.gammaln(m + 1) - special.gammaln(safe + 1) - special.gammaln(m - safe + 1)
    return np.where(inside, value, -np.inf)
