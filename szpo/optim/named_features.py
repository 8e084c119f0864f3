"""Named features as a rule uses them: votes are fitted on the differences of the shown texts.

The regressors of a vote are the recorded differences of named features between the shown texts,
and the texts' scores along the leading coordinates. The prior is that of
`szpo.optim.sparse_prior`. A weight on a feature is a direction: the feature's natural gradient in
the run's coordinates, held in `NamedFeatures.map`. So a posterior of the weights is also a
posterior of the gradient, and radius, ball, guards and steps work as with any other fit.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from szpo.errors import UsageError
from szpo.optim import vote_regression
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.types import FEATURE_GRID, Floats, Ints

OWN: Final = 0.5
"""Prior probability that a feature which votes are about is one of the user's own, if there are
own features: a user has a reason to name a feature."""


@dataclass(frozen=True, slots=True)
class NamedFeatures:
    """The features of a run in its coordinates; every number is fixed at the set-up."""

    names: tuple[str, ...]
    """(k,): one for each feature."""
    groups: tuple[int, ...]
    """(k,): group of each feature, from 0; features of a group move the policy nearly alike."""
    scales: tuple[int, ...]
    """(k,): the features' spreads at the start, in units of 2⁻¹²."""
    map: tuple[tuple[int, ...], ...]
    """(k, d): natural gradients, in units of 2⁻¹² spreads for a unit of each coordinate."""
    components: int
    """Number of leading coordinates that are score components: the dense block of the prior."""
    dictionary: str
    """Digest of the dictionary that the features come from."""
    own: tuple[tuple[str, ...], ...] = ()
    """The user's own features: name, kind, package, version and digest of the source of each."""

    def __post_init__(self) -> None:
        k, dims = len(self.names), {len(row) for row in self.map}
        if not k or not k == len(self.groups) == len(self.scales) == len(self.map):
            raise UsageError("features: names, groups, scales and map must have one length")
        if len(dims) != 1 or not 0 <= self.components <= min(dims):
            raise UsageError("features: every row of the map has one value for each coordinate")
        if any(len(each) != 5 for each in self.own):
            raise UsageError("features: each of the user's own needs five facts")
        texts = [*self.names, self.dictionary, *itertools.chain(*self.own)]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("features: names and the facts of the user's own must be texts")
        numbers = [*self.scales, self.components, *itertools.chain(*self.map)]
        if not all(isinstance(number, int) and abs(number) < 2**53 for number in numbers):
            raise UsageError("features: scales, components and map must be integers below 2^53")
        if {*self.groups} != {*range(len({*self.groups}))}:
            raise UsageError("features: groups must be numbered from 0 without gaps")
        if min(self.scales) <= 0:
            raise UsageError("features: the scales must be positive")

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> NamedFeatures:
        """The features from the JSON values in a run's spec."""
        return cls(
            tuple(body["names"]),
            tuple(body["groups"]),
            tuple(body["scales"]),
            tuple(tuple(row) for row in body["map"]),
            body["components"],
            body["dictionary"],
            tuple(tuple(each) for each in body["own"]),
        )

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len(self.map[0])

    @property
    def columns(self) -> int:
        """Number of regressors p of a vote: the features, then the scores along the components."""
        return len(self.names) + self.components


@dataclass(frozen=True, slots=True)
class Claim:
    """What votes say of a group of features that move the policy nearly alike."""

    feature: str
    """The likeliest feature of the group."""
    more: bool
    """True: more of the feature is liked; False: less."""
    chance: float
    """Probability that the votes are about this group and prefer this sense, more or less."""
    share: float
    """The part of ``chance`` that belongs to ``feature`` itself."""
    group: str = ""
    """The feature that the group is named after; empty in old records."""


def members(features: NamedFeatures, name: str) -> tuple[int, ...]:
    """Indices of the features in the group of the feature with this name.

    Raises:
        UsageError: there is no such feature.
    """
    if name not in features.names:
        near = difflib.get_close_matches(name, features.names, n=1)
        hint = f'did you mean "{near[0]}"?' if near else "szpo features --list has them"
        raise UsageError(f"{name!r} is no feature that this run's coordinates move; {hint}")
    group = features.groups[features.names.index(name)]
    return tuple(i for i, each in enumerate(features.groups) if each == group)


def groups_of(features: NamedFeatures) -> dict[str, tuple[str, ...]]:
    """The features of each group, by the feature that the group is named after."""
    called = (features.names[i] for i in group_heads(features))
    return {name: tuple(features.names[i] for i in members(features, name)) for name in called}


@lru_cache(maxsize=8)
def group_heads(features: NamedFeatures) -> tuple[int, ...]:
    """For each group the feature with the longest natural gradient: the group's name."""
    lengths = np.linalg.norm(np.array(features.map, dtype=np.float64), axis=1)
    groups = np.array(features.groups)
    every = (np.flatnonzero(groups == group) for group in range(groups.max() + 1))
    return tuple(int(own[np.argmax(lengths[own])]) for own in every)


def claims(found: SparseFit, features: NamedFeatures, least: float = 0.02) -> tuple[Claim, ...]:
    """What the votes are about, the likeliest first, without claims below probability ``least``.

    The two senses of a group, more and less, are two claims and are never added up.
    """
    groups, called = np.array(features.groups), group_heads(features)
    listed = []
    for more, chances in ((True, found.more), (False, found.less)):
        own = chances[: len(groups)]
        sums = np.bincount(groups, own)
        for group in np.flatnonzero(sums >= least):
            near = np.flatnonzero(groups == group)
            best = int(near[np.argmax(own[near])])
            share = float(own[best] / sums[group])
            name = features.names[called[group]]
            listed.append(Claim(features.names[best], more, float(sums[group]), share, name))
    return tuple(sorted(listed, key=lambda each: (-each.chance, each.feature, each.more)))


@lru_cache(maxsize=8)
def directions(features: NamedFeatures) -> Floats:
    """(d, p): for each regressor, the direction in coordinates that a weight on it means."""
    gradients = np.array(features.map, dtype=np.float64).T / FEATURE_GRID
    return np.concatenate([gradients, np.eye(features.dim)[:, : features.components]], axis=1)


@lru_cache(maxsize=8)
def projection_without(features: NamedFeatures, aside: tuple[int, ...]) -> Floats:
    """(d, d): maps a direction to the nearest one, by KL, that changes no feature in ``aside``.

    To first order around the start: the projection orthogonal to the features' natural gradients.
    """
    gradients = np.array([features.map[i] for i in aside], dtype=np.float64) / FEATURE_GRID
    _, sizes, axes = np.linalg.svd(gradients, full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes[0]]
    return np.asarray(np.eye(features.dim) - axes.T @ axes)


@lru_cache(maxsize=8)
def prior_of(features: NamedFeatures, rows: int) -> SparsePrior:
    """The prior of the weights, for comparisons of ``rows`` answers a side.

    Groups are equally likely, and the user's own features together as likely as all others.
    """
    groups = np.array([*features.groups, *[-1] * features.components])
    scale = np.full(features.columns, np.sqrt(2 / rows))
    equal, own = SparsePrior(groups, scale), {name for name, *_ in features.own}
    if not own or own.issuperset(features.names):
        return equal
    mine = np.array([name in own for name in features.names] + [False] * features.components)
    given = equal.features()
    share = np.where(mine, OWN / given[mine].sum(), (1 - OWN) / given[~mine].sum())
    return SparsePrior(groups, scale, given * share)


def regressors(differences: Ints, scores: Floats) -> Floats:
    """Join recorded integer differences (..., k) and scores (..., components) to x (..., p)."""
    return np.concatenate([differences / FEATURE_GRID, scores], axis=-1)


def in_coordinates(
    found: SparseFit, features: NamedFeatures, aside: tuple[int, ...] = ()
) -> vote_regression.Fit:
    """The posterior of the weights as one of the gradient (d,), which rules and reports use.

    Args:
        found: The posterior of the weights.
        features: The run's features, with their directions.
        aside: Features whose predicted change is held at 0.
    """
    A = directions(features)
    if aside:
        A = projection_without(features, aside) @ A
    return vote_regression.Fit(
        w=A @ found.w,
        covariance=A @ found.covariance @ A.T,
        signal=np.asarray(found.signal),
        log_factor=np.asarray(found.log_factor),
        side_coefficient=np.asarray(found.side),
        weights=np.ones(1),
    )
