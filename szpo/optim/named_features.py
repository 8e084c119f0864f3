"""Named features as a rule sees them: the fit of all votes on what the shown texts differ in.

Votes are regressed on the recorded differences of named features of the shown texts, and on their
scores along the leading coordinates, under the prior of `szpo.optim.sparse_prior`. A weight on a
feature is a direction: the feature's natural gradient, which `NamedFeatures.map` holds in the
run's coordinates. So the posterior of the weights is one of the gradient in coordinates, and
radius, ball, guards and steps are those of any other fit.
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
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import Votes
from szpo.types import FEATURE_GRID, Floats, Ints

OWN: Final = 0.5
"""Prior probability that a feature which votes are about is one of the user's own, if any are:
who names a feature has a reason."""
FROM_PAIRS: Final = 0.5
"""How far preferences from elsewhere say what votes are about, at most: their taste may differ."""


@dataclass(frozen=True, slots=True)
class NamedFeatures:
    """The features of a run in its coordinates; every number is fixed at the set-up.

    Raises:
        UsageError: names, groups, scales and map differ in length, or are not what they are to be.
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
    own: tuple[tuple[str, ...], ...] = ()
    """The user's own among them: name, kind, package, version and digest of the source."""

    def __post_init__(self) -> None:
        k, dims = len(self.names), {len(row) for row in self.map}
        if not k or not k == len(self.groups) == len(self.scales) == len(self.map):
            raise UsageError("features: names, groups, scales and map must be as many")
        if len(dims) != 1 or not 0 <= self.components <= min(dims):
            raise UsageError("features: every row of the map has one value for each coordinate")
        if any(len(each) != 5 for each in self.own):
            raise UsageError("features: of each of one's own five facts are recorded")
        texts = [*self.names, self.dictionary, *itertools.chain(*self.own)]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("features: names, and the facts of one's own, are texts")
        numbers = [*self.scales, self.components, *itertools.chain(*self.map)]
        if not all(isinstance(number, int) and abs(number) < 2**53 for number in numbers):
            raise UsageError("features: scales, components and map are integers below 2^53")
        if {*self.groups} != {*range(len({*self.groups}))}:
            raise UsageError("features: groups are numbered from 0 without gaps")
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
            tuple(tuple(each) for each in body.get("own", ())),
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


def members(features: NamedFeatures, name: str) -> tuple[int, ...]:
    """The features of the group that a feature of this name is of.

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
    """The features of each group, by the feature that the group is called by."""
    called = (features.names[i] for i in group_heads(features))
    return {name: tuple(features.names[i] for i in members(features, name)) for name in called}


@lru_cache(maxsize=8)
def group_heads(features: NamedFeatures) -> tuple[int, ...]:
    """Of each group the feature that its direction changes most, by which the group is called."""
    lengths = np.linalg.norm(np.array(features.map, dtype=np.float64), axis=1)
    groups = np.array(features.groups)
    every = (np.flatnonzero(groups == group) for group in range(groups.max() + 1))
    return tuple(int(own[np.argmax(lengths[own])]) for own in every)


def claims(found: SparseFit, features: NamedFeatures, least: float = 0.02) -> tuple[Claim, ...]:
    """What the votes are about, the likeliest first, as far as it is as likely as ``least``.

    The two senses of a group are two claims, which are never added up.
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
    """(d, p): the direction in coordinates of a weight on each regressor."""
    gradients = np.array(features.map, dtype=np.float64).T / FEATURE_GRID
    return np.concatenate([gradients, np.eye(features.dim)[:, : features.components]], axis=1)


@lru_cache(maxsize=8)
def projection_without(features: NamedFeatures, aside: tuple[int, ...]) -> Floats:
    """(d, d): what takes a direction to the nearest one, by KL, that changes no feature aside.

    To first order around the start: the projection at right angles to their natural gradients.
    """
    gradients = np.array([features.map[i] for i in aside], dtype=np.float64) / FEATURE_GRID
    _, sizes, axes = np.linalg.svd(gradients, full_matrices=False)
    axes = axes[sizes > 1e-9 * sizes[0]]
    return np.asarray(np.eye(features.dim) - axes.T @ axes)


@lru_cache(maxsize=8)
def prior_of(
    features: NamedFeatures, rows: int, chances: tuple[float, ...] | None = None
) -> SparsePrior:
    """What is believed of the weights before any vote on comparisons of ``rows`` rows a side.

    Args:
        features: Of the run.
        rows: Of a comparison.
        chances: Of each feature (k,); None for groups that are equally likely, and the user's own
            features together as likely as all others.
    """
    groups = np.array([*features.groups, *[-1] * features.components])
    scale = np.full(features.columns, np.sqrt(2 / rows))
    if chances is not None:
        return SparsePrior(groups, scale, np.array([*chances, *[0.0] * features.components]))
    equal, own = SparsePrior(groups, scale), {name for name, *_ in features.own}
    if not own or own.issuperset(features.names):
        return equal
    mine = np.array([name in own for name in features.names] + [False] * features.components)
    given = equal.features()
    share = np.where(mine, OWN / given[mine].sum(), (1 - OWN) / given[~mine].sum())
    return SparsePrior(groups, scale, given * share)


def chances_of_pairs(features: NamedFeatures, x: Floats) -> tuple[float, ...]:
    """Of each feature (k,): what preferences from elsewhere make of its prior probability.

    Half of what it was, and half of how likely these are to be about it. Which way round does not
    count: votes have to show that.

    Args:
        features: Of the run.
        x: Regressors of what was preferred less those of the other (n, p).
    """
    count = len(x)
    votes = Votes(x, np.ones(count), np.zeros(count), np.zeros(count, dtype=np.int64))
    found, k = fit_sparse(votes, prior_of(features, 1)), len(features.names)
    seen = (found.more + found.less)[:k]
    seen = seen / max(1.0, float(seen.sum()))
    before = prior_of(features, 1).features()[:k]
    mixed = FROM_PAIRS * seen + (1 - FROM_PAIRS * float(seen.sum())) * before
    return tuple(np.round(mixed, 6).tolist())


def describe_likelier(likelier: Mapping[str, float]) -> str:
    """What preferences made of the prior of named features, in words.

    >>> describe_likelier({"length": 0.1, "commas": 0.38})
    'make likelier that votes are about commas (38 %), length (10 %)'
    """
    if not likelier:
        return "point at no named feature"
    ordered = sorted(likelier.items(), key=lambda each: -each[1])
    listed = ", ".join(f"{name} ({100 * chance:.0f} %)" for name, chance in ordered)
    return f"make likelier that votes are about {listed}"


def regressors(differences: Ints, scores: Floats) -> Floats:
    """Recorded differences (..., k), integers, and scores (..., components) as x (..., p)."""
    return np.concatenate([differences / FEATURE_GRID, scores], axis=-1)


def in_coordinates(
    found: SparseFit, features: NamedFeatures, count: float, aside: tuple[int, ...] = ()
) -> vote_regression.Fit:
    """The same posterior, of the gradient in coordinates (d,), as rules and reports take it.

    Args:
        found: Of the weights.
        features: Their directions.
        count: Votes that were fitted.
        aside: Features whose predicted change is held at 0.
    """
    A = directions(features)
    if aside:
        A = projection_without(features, aside) @ A
    mean, covariance = A @ found.w, A @ found.covariance @ A.T
    nothing, whole = np.zeros(features.dim), np.eye(features.dim)
    return vote_regression.Fit(
        w=mean,
        covariance=covariance,
        signal=np.asarray(found.signal),
        log_factor=np.asarray(found.log_factor),
        side_coefficient=np.asarray(found.side),
        weights=np.ones(1),
        modes=mean[None],
        covariances=covariance[None],
        means=nothing[None],
        precisions=whole[None],
        count=np.asarray(count),
    )
