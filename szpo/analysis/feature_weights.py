"""Fit votes to named features: one weight per feature, for the panel and for each panelist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.aggregation.bradley_terry import RIDGE, Ties, halves, heterogeneity_p, newton, separable
from szpo.analysis import vote_rows
from szpo.analysis.features import Feature, differences
from szpo.errors import RunError
from szpo.intervals import Share, Z, share
from szpo.ledger.database import Ledger
from szpo.types import Floats, Ints

FOLDS = 10
"""Parts into which comparisons are divided to predict each part from the others."""


@dataclass(frozen=True, slots=True)
class FeatureVotes:
    """n votes, each with the difference of p features between the sides of its comparison."""

    x: Floats
    """(n, p) plus − minus, in the features' own units."""
    y: Floats
    """(n,) 1 plus, 0 minus, ½ tie."""
    panelists: Sequence[str]
    """(n,) the panelist of each vote."""
    comparisons: Sequence[str]
    """(n,) the comparison of each vote."""


@dataclass(frozen=True, slots=True)
class Taste:
    """The fitted weights of p features; a feature that never differs has weight nan."""

    weights: Floats
    """(p,) logits per standard deviation of the difference between the sides."""
    low: Floats
    high: Floats
    """Ends of the 95 % intervals."""
    scale: Floats
    """(p,) this standard deviation, about 0 since sides are arbitrary, in the feature's units."""
    votes: int
    ties: int
    panelists: int
    clustered: bool
    """The intervals are clustered by panelist, so that they hold for other such panelists."""
    separable: bool
    """Some weights predict every vote, so that only the ridge keeps them finite."""
    alone: tuple[Share, ...]
    """Per feature, the share of votes for a side that chose the batch with more of it."""
    held_out: Share
    """The share of votes for a side that votes on other comparisons predict."""
    heterogeneity_p: float
    """P-value of "the panelists share these weights"; nan for one panelist."""
    nu: float | None = None
    """Davidson's ν."""


def read_votes(ledger: Ledger, features: Sequence[Feature]) -> FeatureVotes:
    """The counted votes of a run's closed rounds, by the differences in these features."""
    cast = vote_rows.read_judged(ledger)
    x = differences(features, cast.comparisons)[cast.which]
    return FeatureVotes(x, cast.y, cast.panelist, [cast.comparisons[i].id for i in cast.which])


def held_out(x: Floats, y: Floats, groups: Ints, key: bytes, *, ridge: float = RIDGE) -> Share:
    """The share of votes for a side predicted by fits to other comparisons, at most `FOLDS` parts.

    Args:
        x: differences (n, p).
        y: votes (n,).
        groups: (n,) the comparison of each vote, 0 …; all votes of one are left out together.
        key: draws the division into parts.
        ridge: as in `fit_taste`.
    """
    count = int(groups.max()) + 1
    fold = (seeds.permutation(key, count) % FOLDS)[groups]
    hits, of = 0.0, 0
    for part in np.unique(fold):
        test = fold == part
        if test.all():
            continue
        u = x[test] @ newton(x[~test], y[~test], ridge).weights
        sided = y[test] != 0.5
        right = np.where(u == 0, 0.5, (u > 0) == (y[test] > 0.5))
        hits, of = hits + float(right[sided].sum()), of + int(sided.sum())
    return share(hits, of)


def fit_taste(
    votes: FeatureVotes, *, seed: int, ridge: float = RIDGE, ties: Ties = "half"
) -> Taste:
    """Fit the weights of features to votes.

    Args:
        votes: those of all panelists.
        seed: draws the parts of `held_out` and the shuffles of the permutation test.
        ridge: precision of the prior on each standardised weight.
        ties: counted as half a vote each way, or modelled as Davidson's.
    """
    x, y = votes.x, votes.y
    scale = np.sqrt(np.mean(x**2, axis=0))
    moves = scale > 0
    if not moves.any():
        raise RunError("no feature differs in any comparison; name others")
    z = x[:, moves] / scale[moves]
    _, panelists = np.unique(np.asarray(votes.panelists), return_inverse=True)
    _, groups = np.unique(np.asarray(votes.comparisons), return_inverse=True)
    ties = ties if (y == 0.5).any() else "half"
    fit = newton(z, y, ridge, ties)
    p = z.shape[1]
    half, clustered = halves(z, y, panelists, fit, ties)
    plain = fit if ties == "half" else newton(z, y, ridge)
    weights = _spread_out(fit.weights[:p], moves)
    width = _spread_out(half, moves)
    return Taste(
        weights=weights, low=weights - width, high=weights + width, scale=scale,
        votes=len(y), ties=int((y == 0.5).sum()), panelists=int(panelists.max()) + 1,
        clustered=clustered, separable=separable(z, y),
        alone=tuple(_alone(x[:, j], y) for j in range(x.shape[1])),
        held_out=held_out(z, y, groups, seeds.derive(seed, "taste parts"), ridge=ridge),
        heterogeneity_p=heterogeneity_p(
            z, y, panelists, plain, seeds.derive(seed, "taste shuffles")
        ),
        nu=float(np.exp(fit.weights[p])) if ties == "davidson" else None,
    )  # fmt: skip


def _spread_out(values: Floats, moves: NDArray[np.bool_]) -> Floats:
    wide = np.full(len(moves), np.nan)
    wide[moves] = values
    return wide


def _alone(x: Floats, y: Floats) -> Share:
    decided = (y != 0.5) & (x != 0)
    return share(int(((x > 0) == (y > 0.5))[decided].sum()), int(decided.sum()))


def fit_panelists(
    votes: FeatureVotes, panel: Taste
) -> dict[str, tuple[int, Floats, Floats, Floats]]:
    """Every panelist's votes, weights and their ends, by name, shrunk towards the panel's.

    The prior of each weight has the panel's as its mean and a standard deviation of one logit, so
    that few votes change little. Intervals are by Laplace's approximation.
    """
    moves = panel.scale > 0
    z = votes.x[:, moves] / panel.scale[moves]
    found = {}
    for name in sorted(set(votes.panelists)):
        mine = np.array([one == name for one in votes.panelists])
        fit = newton(z[mine], votes.y[mine], 1.0, centre=panel.weights[moves])
        half = Z * np.sqrt(np.diagonal(np.linalg.inv(fit.information)))
        weights, width = _spread_out(fit.weights, moves), _spread_out(half, moves)
        found[name] = int(mine.sum()), weights, weights - width, weights + width
    return found
