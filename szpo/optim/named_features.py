"""Named features as a rule sees them: the fit of all votes on what the shown texts differ in.

Votes are regressed on the recorded differences of named features of the shown texts, and on their
scores along the leading coordinates, under the prior of `szpo.optim.sparse_prior`. A weight on a
feature is a direction: the feature's natural gradient, which `NamedFeatures.map` holds in the
run's coordinates. So the posterior of the weights is one of the gradient in coordinates, and
radius, ball, guards and steps are those of any other fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from szpo.errors import UsageError
from szpo.optim import vote_regression
from szpo.optim.sparse_prior import Prior
from szpo.optim.sparse_regression import Fit
from szpo.types import Floats, Ints

GRID: Final = 4096
"""Steps of a recorded number in one spread, 2¹²."""


@dataclass(frozen=True, slots=True)
class NamedFeatures:
    """The features of a run in its coordinates; every number is fixed at the set-up.

    Raises:
        UsageError: names, groups, scales and map differ in length, or the map is not whole.
    """

    names: tuple[str, ...]
    """Of k features."""
    groups: tuple[int, ...]
    """(k,): numbered from 0; features of a group move the policy nearly alike."""
    scales: tuple[int, ...]
    """(k,): their spreads at the start, in units of 2⁻¹²."""
    map: tuple[tuple[int, ...], ...]
    """(k, d): natural gradients, in units of 2⁻¹² spreads for a unit of each coordinate."""
    components: int
    """Leading coordinates that are score components: the dense block of the prior."""
    dictionary: str
    """Digest of the dictionary that the features are of."""

    def __post_init__(self) -> None:
        k, dims = len(self.names), {len(row) for row in self.map}
        if not k or not k == len(self.groups) == len(self.scales) == len(self.map):
            raise UsageError("features: names, groups, scales and map must be as many")
        if len(dims) != 1 or not 0 <= self.components <= min(dims):
            raise UsageError("features: every row of the map has one value for each coordinate")
        if min(self.scales) <= 0:
            raise UsageError("features: the scales must be positive")

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> NamedFeatures:
        """The features that a run's spec holds, as plain JSON values."""
        return cls(
            tuple(body["names"]),
            tuple(body["groups"]),
            tuple(body["scales"]),
            tuple(tuple(row) for row in body["map"]),
            body["components"],
            body["dictionary"],
        )

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len(self.map[0])

    @property
    def columns(self) -> int:
        """Regressors of a vote, p: the features, then the scores along the components."""
        return len(self.names) + self.components


@dataclass(frozen=True, slots=True)
class Claim:
    """What votes say of a group of features that move the policy nearly alike."""

    feature: str
    """The likeliest of the group."""
    more: bool
    """More of it is liked, not less."""
    chance: float
    """Probability that the group is one of the one or two that votes are about, in this sense."""
    share: float
    """Of it, that it is this very feature."""
    group: str = ""
    """The feature that the group is called by; empty in old records."""


@lru_cache(maxsize=8)
def heads(features: NamedFeatures) -> tuple[int, ...]:
    """Of each group the feature that its direction changes most, by which the group is called."""
    lengths = np.linalg.norm(np.array(features.map, dtype=np.float64), axis=1)
    groups = np.array(features.groups)
    every = (np.flatnonzero(groups == group) for group in range(groups.max() + 1))
    return tuple(int(members[np.argmax(lengths[members])]) for members in every)


def claims(found: Fit, features: NamedFeatures, least: float = 0.02) -> tuple[Claim, ...]:
    """What the votes are about, the likeliest first, as far as it is as likely as ``least``.

    The two senses of a group are two claims, which are never added up.
    """
    groups, called = np.array(features.groups), heads(features)
    listed = []
    for more, chances in ((True, found.more), (False, found.less)):
        own = chances[: len(groups)]
        sums = np.bincount(groups, own)
        for group in np.flatnonzero(sums >= least):
            members = np.flatnonzero(groups == group)
            best = int(members[np.argmax(own[members])])
            share = float(own[best] / sums[group])
            name = features.names[called[group]]
            listed.append(Claim(features.names[best], more, float(sums[group]), share, name))
    return tuple(sorted(listed, key=lambda each: (-each.chance, each.feature, each.more)))


@lru_cache(maxsize=8)
def directions(features: NamedFeatures) -> Floats:
    """(d, p): the direction in coordinates of a weight on each regressor."""
    gradients = np.array(features.map, dtype=np.float64).T / GRID
    return np.concatenate([gradients, np.eye(features.dim)[:, : features.components]], axis=1)


@lru_cache(maxsize=8)
def prior_of(features: NamedFeatures, rows: int) -> Prior:
    """What is believed of the weights before any vote on comparisons of ``rows`` rows a side."""
    groups = np.array([*features.groups, *[-1] * features.components])
    return Prior(groups, np.full(features.columns, np.sqrt(2 / rows)))


def regressors(differences: Ints, scores: Floats) -> Floats:
    """Recorded differences (..., k), integers, and scores (..., components) as x (..., p)."""
    return np.concatenate([differences / GRID, scores], axis=-1)


def in_coordinates(found: Fit, features: NamedFeatures, count: float) -> vote_regression.Fit:
    """The same posterior, of the gradient in coordinates (d,), as rules and reports take it.

    Args:
        found: Of the weights.
        features: Their directions.
        count: Votes that were fitted.
    """
    A = directions(features)
    mean, covariance = A @ found.w, A @ found.covariance @ A.T
    nothing, whole = np.zeros(features.dim), np.eye(features.dim)
    return vote_regression.Fit(
        w=mean,
        covariance=covariance,
        signal=np.asarray(found.signal),
        log_factor=np.asarray(found.log_factor),
        side=np.asarray(found.side),
        weights=np.ones(1),
        modes=mean[None],
        covariances=covariance[None],
        means=nothing[None],
        precisions=whole[None],
        count=np.asarray(count),
    )
