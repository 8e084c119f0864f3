"""Named features as a rule uses them: votes are fitted on the differences of the shown texts.

The regressors of a vote are the recorded differences of named features between the shown texts,
and the texts' scores along the leading coordinates. Where the coordinates have names, as adapters
have, the distance of the two policies along each takes the place of scores. The prior is that of
`szpo.optim.sparse_prior`. A weight on a feature is a direction: the feature's natural gradient in
the run's coordinates, held in `NamedFeatures.map`; a weight on a named coordinate is the direction
in which that one alone moves. So a posterior of the weights is also a posterior of the gradient,
and radius, ball, guards and steps work as with any other fit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from szpo.errors import UsageError
from szpo.optim import vote_regression
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.optim.state_regression import StateScale
from szpo.types import FEATURE_GRID, Floats, Ints

FEW: Final = (0.4, 0.25, 0.15, 0.2)
"""`SparsePrior.few` of named coordinates: one, two, three, or all of them a little."""
CARRIED: Final = 0.3
"""A coordinate carries a feature if a unit along it moves the feature by this many spreads."""
LENGTHS: Final = (1.0, 2.0)
"""|z| along a named coordinate alone at which its KL is measured; |z|²/2 is .5 and 2 nats."""
Curve: TypeAlias = Sequence[float]
"""KL of a named coordinate alone at `LENGTHS`, nats: two numbers against its name, two with it."""
BY_SQUARE: Final = (0.5, 2.0, 0.5, 2.0)
"""|z|²/2 nats, where nothing was measured."""


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
    coordinates: tuple[str, ...] = ()
    """Names of the run's coordinates, as of adapters; empty where they have none."""
    axes: tuple[tuple[int, ...], ...] = ()
    """(coordinates, d): the unit vector along which each of them alone moves, in units of 2⁻¹²."""
    curves: tuple[tuple[int, ...], ...] = ()
    """(coordinates, 4): the `Curve` of each in units of 2⁻¹² nats, for words; empty: |z|²/2."""
    made_for: tuple[tuple[str, int], ...] = ()
    """(coordinates,): what each was made for, as of a set of adapters, and 1 for more of it, 0 for
    less; an empty text where nobody said; empty: nobody said of any."""
    said: tuple[str, ...] = ()
    """Features and coordinates that a person named in words before the first vote."""
    states: StateScale | None = None
    """The hidden states that verdicts are fitted on beside the features; None: on none."""

    def __post_init__(self) -> None:
        k, dims = len(self.names), {len(row) for row in (*self.map, *self.axes)}
        if not k == len(self.groups) == len(self.scales) == len(self.map) or not dims:
            raise UsageError("features: names, groups, scales and map must have one length")
        if len(self.coordinates) != len(self.axes) or (self.axes and self.components):
            raise UsageError("features: each named coordinate needs an axis, and none a component")
        if len(dims) != 1 or not 0 <= self.components <= min(dims):
            raise UsageError("features: every row of the map has one value for each coordinate")
        if any(len(each) != 5 for each in self.own):
            raise UsageError("features: each of the user's own needs five facts")
        texts = [*self.names, self.dictionary, *itertools.chain(*self.own), *self.coordinates,
                 *self.said]  # fmt: skip
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("features: names and the facts of the user's own must be texts")
        if self.made_for and len(self.made_for) != len(self.coordinates):
            raise UsageError("features: each named coordinate was made for something, or none")
        if self.curves and [*map(len, self.curves)] != [4] * len(self.coordinates):
            raise UsageError("features: a curve of a named coordinate needs four numbers")
        if min(itertools.chain(*self.curves), default=1) <= 0:
            raise UsageError("features: the nats of a curve must be positive")
        rows = itertools.chain(*self.map, *self.axes, *self.curves)
        numbers = [*self.scales, self.components, *rows]
        if not all(isinstance(number, int) and abs(number) < 2**53 for number in numbers):
            raise UsageError("features: scales, components and map must be integers below 2^53")
        if not all(any(axis) for axis in self.axes):
            raise UsageError("features: a named coordinate moves nothing")
        if {*self.groups} != {*range(len({*self.groups}))}:
            raise UsageError("features: groups must be numbered from 0 without gaps")
        if min(self.scales, default=1) <= 0:
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
            tuple(body.get("coordinates", ())),
            tuple(tuple(axis) for axis in body.get("axes", ())),
            tuple(tuple(curve) for curve in body.get("curves", ())),
            tuple((str(name), int(more)) for name, more in body.get("made_for", ())),
            tuple(body.get("said", ())),
            StateScale.from_json(body["states"]) if body.get("states") else None,
        )

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len((self.map or self.axes)[0])

    @property
    def columns(self) -> int:
        """Number of regressors p of a vote: features, then components or named coordinates."""
        return len(self.names) + (len(self.coordinates) or self.components)


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
    """The feature or coordinate that the group is named after; empty in old records."""


@dataclass(frozen=True, slots=True)
class Group:
    """Regressors that mean one thing: near features, or a named coordinate and what it carries."""

    name: str
    members: tuple[int, ...]
    """Their columns, in rising order."""
    senses: tuple[int, ...]
    """+1 for a member that is more where the name is more, −1 for the opposite."""
    coordinate: int | None = None
    """The number of the named coordinate in the group; None without one."""


def members(features: NamedFeatures, name: str) -> tuple[int, ...]:
    """Columns of the group of the feature or coordinate with this name."""
    columns = names_of(features)
    return group_of(features, len(columns) - 1 - columns[::-1].index(name)).members


def names_of(features: NamedFeatures) -> tuple[str, ...]:
    """The name of each feature, then of each named coordinate."""
    return (*features.names, *features.coordinates)


def group_of(features: NamedFeatures, column: int) -> Group:
    """The group that a regressor is in."""
    return next(group for group in groups(features) if column in group.members)


def groups_of(features: NamedFeatures) -> dict[str, tuple[str, ...]]:
    """The names in each group, by the name of the group."""
    names = names_of(features)
    every = groups(features)
    return {each.name: tuple(dict.fromkeys(names[i] for i in each.members)) for each in every}


@lru_cache(maxsize=8)
def groups(features: NamedFeatures) -> tuple[Group, ...]:
    """The groups of features, in order, each with the coordinate that carries it; then the others.

    A coordinate carries the group of the feature of its own name, or that it was made for, or else
    of the one that it moves most, if no other coordinate moves that feature more. It gives the
    group its name.
    """
    count, own = len(features.names), np.array(features.groups, dtype=np.int64)
    moved = response(features)
    by_name = {name: i for i, name in enumerate(features.names)}
    carried: dict[int, tuple[int, int]] = {}
    for j, name in enumerate(features.coordinates):
        if name in by_name:
            carried[int(own[by_name[name]])] = (by_name[name], j)
    called = {j for _, j in carried.values()}
    senses_of = {
        (by_name[name], j): 1 if more else -1
        for j, (name, more) in enumerate(features.made_for)
        if name in by_name and j not in called
    }
    for i, j in sorted(senses_of, key=lambda each: -abs(moved[each])):
        if int(own[i]) not in carried:
            carried[int(own[i])] = (i, j)
            called.add(j)
    for j in range(len(features.coordinates) if count else 0):
        if j in called:
            continue
        most = int(np.abs(moved[:, j]).argmax())
        size = abs(moved[most, j])
        if size >= CARRIED and int(np.abs(moved[most]).argmax()) == j:
            known = carried.get(int(own[most]))
            if known is None or (known[1] not in called and abs(moved[known]) < size):
                carried[int(own[most])] = (most, j)
    groups = []
    for group, head in enumerate(group_heads(features)):
        inside = np.flatnonzero(own == group).tolist()
        if group not in carried:
            groups.append(Group(features.names[head], tuple(inside), (1,) * len(inside)))
            continue
        j = carried[group][1]
        name = features.coordinates[j]
        signs = [-1 if moved[i, j] < 0 and features.names[i] != name else 1 for i in inside]
        senses = [senses_of.get((i, j), sign) for i, sign in zip(inside, signs, strict=True)]
        groups.append(Group(name, (*inside, count + j), (*senses, 1), j))
    alone = [
        j for j in range(len(features.coordinates)) if j not in {g.coordinate for g in groups}
    ]
    groups += [Group(features.coordinates[j], (count + j,), (1,), j) for j in alone]
    return tuple(groups)


def with_said(features: NamedFeatures, names: Collection[str]) -> NamedFeatures:
    """The features where a person named these: a coordinate, and what it carries, are one."""
    columns, said = names_of(features), {*names}
    for each in groups(features):
        if each.coordinate is not None:
            coordinate = columns[len(features.names) + each.coordinate]
            own = {columns[i] for i in each.members}
            said |= own if coordinate in names else {coordinate} if own & {*names} else set()
    return replace(features, said=tuple(name for name in dict.fromkeys(columns) if name in said))


@lru_cache(maxsize=8)
def group_heads(features: NamedFeatures) -> tuple[int, ...]:
    """For each group of features the one with the longest natural gradient: the group's name."""
    if not features.names:
        return ()
    lengths = np.linalg.norm(np.array(features.map, dtype=np.float64), axis=1)
    groups = np.array(features.groups)
    every = (np.flatnonzero(groups == group) for group in range(groups.max() + 1))
    return tuple(int(own[np.argmax(lengths[own])]) for own in every)


@lru_cache(maxsize=8)
def response(features: NamedFeatures) -> Floats:
    """(features, coordinates): spreads by which a unit along a named coordinate moves each."""
    gradients = np.array(features.map, dtype=np.float64).reshape(-1, features.dim)
    return np.asarray(gradients @ axes(features).T / FEATURE_GRID)


def axes(features: NamedFeatures) -> Floats:
    """(coordinates, d): the unit vector along which each named coordinate moves."""
    return np.array(features.axes, dtype=np.float64).reshape(-1, features.dim) / FEATURE_GRID


def claims(
    fit: SparseFit, features: NamedFeatures, least: float = 0.02, kept: float = 1.0
) -> tuple[Claim, ...]:
    """What the votes are about, the likeliest first, without claims below probability ``least``.

    The two senses of a group, more and less, are two claims and are never added up. A coordinate
    and the features that it carries are added up, so that they are said once. ``kept``: by what
    probabilities are multiplied where hidden states may explain the votes too (`JointFit.kept`).
    """
    names, listed = names_of(features), []
    for group in groups(features):
        for more in (True, False):
            own = [
                kept * float((fit.more if more == (sense > 0) else fit.less)[i])
                for i, sense in zip(group.members, group.senses, strict=True)
            ]
            whole = sum(own)
            if whole < least:
                continue
            best = len(own) - 1 if group.coordinate is not None else int(np.argmax(own))
            name = names[group.members[best]]
            listed.append(Claim(name, more, whole, own[best] / whole, group.name))
    return tuple(sorted(listed, key=lambda each: (-each.chance, each.feature, each.more)))


def nats_along(features: NamedFeatures, z: Floats) -> tuple[float, ...]:
    """Nats of each named coordinate alone, negative against its name, of a whitened point (d,).

    The parts add up to the point; their nats do not add up.
    """
    grid = np.array(features.curves).reshape(-1, 4) / FEATURE_GRID
    return nats_of_parts(axes(features), grid.tolist(), z)


def nats_of_parts(axes: Floats, curves: Sequence[Curve], z: ArrayLike) -> tuple[float, ...]:
    """The same by unit vectors of the coordinates and what each costs; no curves: |z|²/2."""
    parts = np.linalg.lstsq(axes.T, np.asarray(z, np.float64))[0].tolist()
    return tuple(map(nats_at, curves or [BY_SQUARE] * len(parts), parts))


def nats_at(curve: Curve, length: float) -> float:
    """KL at a length |z| along one coordinate alone, both negative against its name.

    As the square up to the first measured length, a power through both up to the second; beyond
    it no steeper than the square, since a few answers tell a power badly.

    >>> [round(nats_at((0.5, 2.0, 0.6, 4.8), length), 2) for length in (-3.0, 0.5, 1.0, 4.0)]
    [-4.5, 0.15, 0.6, 19.2]
    """
    size, (first, second) = abs(length), curve[2:] if length > 0 else curve[:2]
    power = math.log2(second / first)
    if size > LENGTHS[1]:
        nats = second * (size / LENGTHS[1]) ** min(power, 2.0)
    else:
        nats = first * size ** (power if size > LENGTHS[0] else 2.0)
    return math.copysign(nats, length)


def length_at(curve: Curve, nats: float) -> float:
    """The length at which a coordinate alone costs so many nats: the inverse of `nats_at`.

    >>> [round(length_at((0.5, 2.0, 0.6, 4.8), nats), 2) for nats in (-2.0, 0.6, 4.8, 19.2)]
    [-2.0, 1.0, 2.0, 4.0]
    """
    cost, (first, second) = abs(nats), curve[2:] if nats > 0 else curve[:2]
    power = math.log2(second / first)
    if cost > second:
        size = LENGTHS[1] * (cost / second) ** (1 / min(power, 2.0))
    else:
        size = (cost / first) ** (1 / power if cost > first else 0.5)
    return math.copysign(size, nats)


def rising(first: float, second: float) -> tuple[float, float]:
    """Nats measured at `LENGTHS`, which grow at least as the length does; else what is between.

    >>> rising(0.4, 2.0), rising(0.5, 0.4)
    ((0.4, 2.0), (0.31622776601683794, 0.6324555320336759))
    """
    if second >= 2 * first:
        return first, second
    between = math.sqrt(first * second / 2)
    return between, 2 * between


@lru_cache(maxsize=8)
def directions(features: NamedFeatures) -> Floats:
    """(d, p): for each regressor, the direction in coordinates that a weight on it means."""
    gradients = np.array(features.map, dtype=np.float64).reshape(-1, features.dim).T / FEATURE_GRID
    own = np.eye(features.dim)[:, : features.components]
    return np.concatenate([gradients, axes(features).T if features.axes else own], axis=1)


@lru_cache(maxsize=8)
def prior_of(features: NamedFeatures, rows: int, apart: float = 1.0) -> SparsePrior:
    """The prior of the weights, for comparisons of ``rows`` answers a side.

    Groups are equally likely, but the user's own features together are as likely as all others,
    and so are those that were said in words: a person has a reason to name one. Of coordinates
    with names, those that were said are as likely as all others.
    ``apart``: r.m.s. distance of two compared policies along a named coordinate.
    """
    more = features.columns - len(features.names)
    groups = np.array([*features.groups, *[-1] * more], dtype=np.int64)
    scale = np.full(features.columns, np.sqrt(2 / rows))
    few = FEW if features.coordinates else None
    if few is not None:
        scale[len(features.names) :] = apart
    equal = SparsePrior(groups, scale, few=few)
    own, said = {name for name, *_ in features.own}, {*features.said}
    if not own | said:
        return equal
    kinds = [2 if name in own else int(name in said) for name in features.names]
    kinds += [3 + (name in said) for name in features.coordinates] or [3] * more
    given = np.where(groups < 0, 1.0, equal.features())
    return SparsePrior(groups, scale, given / np.bincount(kinds, given)[kinds], few=few)


def along(features: NamedFeatures, apart: Floats) -> Floats:
    """Distances (..., p − k) of policies that lie ``apart`` (..., d) along named coordinates.

    They are 0 for score components, which are of texts.
    """
    if features.axes:
        return np.asarray(apart @ axes(features).T)
    return np.zeros((*apart.shape[:-1], features.components))


def regressors(differences: Ints, along: Floats) -> Floats:
    """Join recorded integer differences (..., k) and what is along coordinates to x (..., p)."""
    return np.concatenate([differences / FEATURE_GRID, along], axis=-1)


def in_coordinates(fit: SparseFit, features: NamedFeatures) -> vote_regression.Fit:
    """The posterior of the weights as one of the gradient (d,), which rules and reports use."""
    A = directions(features)
    return vote_regression.Fit(
        w=A @ fit.w,
        covariance=A @ fit.covariance @ A.T,
        signal=np.asarray(fit.signal),
        log_factor=np.asarray(fit.log_factor),
        side_coefficient=np.asarray(fit.side),
        weights=np.ones(1),
    )
