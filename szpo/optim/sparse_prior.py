"""The prior of named features and coordinates: one or two features matter, or a few coordinates.

Every number is fixed at the set-up. Nothing depends on the votes, nor on the directions asked so
far, which earlier votes decided. Therefore the Bayes factor against "nothing matters" is a
martingale where votes are chance.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.errors import UsageError
from szpo.types import Floats, Ints

KINDS: Final = (0.45, 0.3, 0.25)
"""Relative probabilities, where anything matters, of one feature, two, and the dense block."""
ALIKE: Final = 0.8
"""Cosine of two natural gradients above which features move a policy nearly alike."""
COORDINATES: Final = 0.5
"""Probability that votes are about coordinates with names, given that they are about anything."""

Support = tuple[int, ...]
"""Regressors that have a coefficient, in rising order; empty where nothing matters."""


@dataclass(frozen=True, slots=True, eq=False)
class SparsePrior:
    """A mixture over supports of k features, each at several widths.

    A support is no feature, one, two of different groups, or the dense block of coordinates. Where
    coordinates have names, it may also be one, two or three of these. A width is the prior spread
    of the logit that all coefficients of a support give together.
    """

    groups: Ints
    """(k,): the group of each feature, from 0; −1 for coordinates: the dense block."""
    scale: Floats
    """(k,): r.m.s. of x between two batches of the start: √(2/rows), in units of the spread; of a
    named coordinate, between the two policies of a comparison."""
    chances: Floats | None = None
    """(k,): relative probability of each feature, given that one feature matters, and of each
    coordinate with a name, given that these matter; entries of a block without names do not count.
    None: equally likely groups of equally likely features, and equally likely coordinates."""
    widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Prior standard deviations of such a comparison's logit; all are equally likely."""
    signal: float = 0.65
    """Probability that anything matters."""
    side: float = 0.5
    """Standard deviation of the side's coefficient, in logits."""
    few: tuple[float, float, float, float] | None = None
    """Where coordinates have names: relative probabilities of one, two, three or all of them,
    given that they matter and no feature does, which has probability `COORDINATES`. None: without
    names."""

    def __post_init__(self) -> None:
        sizes = np.array([*np.ravel(self.scale), *self.widths, self.side])
        if self.groups.ndim != 1 or self.scale.shape != self.groups.shape:
            raise UsageError("prior of the features: one group and one scale for each feature")
        if not self.widths or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise UsageError("prior of the features: scales, widths and deviations must be > 0")
        few = self.few or (1.0,)
        if not 0 < self.signal < 1 or not min(few) >= 0 < few[0]:
            raise UsageError("prior of the features: `signal` and `few` are probabilities")
        named = self.groups >= 0
        groups = np.unique(self.groups[named])
        if not np.array_equal(groups, np.arange(len(groups))):
            raise UsageError("prior of the features: groups must be numbered from 0, none empty")
        if self.chances is None:
            return
        fits = self.chances.shape == self.groups.shape and (self.chances >= 0).all()
        some = not self._share or self._of_block().sum() > 0
        if not (fits and some and 0 < self.chances[named].sum() < np.inf):
            raise UsageError("prior of the features: one chance for each feature, some above 0")

    @property
    def block(self) -> Support:
        """The regressors of the dense block."""
        return tuple(np.flatnonzero(self.groups < 0).tolist())

    def features(self) -> Floats:
        """Probability of each regressor (k,), if one matters; 0 in a block without names."""
        chances = (1 - self._share) * self._of_features()
        if self._share:
            own = self._of_block()
            chances[self.groups < 0] = self._share * own / own.sum()
        return chances

    def _of_block(self) -> Floats:
        """Relative probabilities of the coordinates with names, of which all are 1 by default."""
        block = list(self.block)
        return np.ones(len(block)) if self.chances is None else self.chances[block]

    def _of_features(self) -> Floats:
        """Probability of each feature (k,), if one feature matters; 0 in the dense block."""
        named = self.groups >= 0
        chances = np.zeros(len(self.groups))
        own = self.groups[named]
        chances[named] = 1 / np.bincount(own)[own] if self.chances is None else self.chances[named]
        return np.asarray(chances / max(chances.sum(), 1e-300))

    @property
    def _share(self) -> float:
        """Probability that coordinates with names matter, given that anything matters."""
        if self.few is None or not self.block:
            return 0.0
        return COORDINATES if (self.groups >= 0).any() else 1.0

    def _of_coordinates(self) -> Floats:
        """Probability of one, two, three and all of the coordinates with names (4,)."""
        size = len(self.block)
        if self.few is None or not size:
            return np.zeros(4)
        few = np.array(self.few) * (True, size > 1, size > 2, size > 3)
        return np.asarray(self._share * few / few.sum())

    def log_chances(self) -> tuple[Floats, float]:
        """Log probability of each single regressor and pair (k, k), and of the dense block.

        All are given that anything matters. Singles are on the diagonal; each pair appears twice.
        """
        chances, block = self._of_features(), list(self.block)
        pairs = chances[:, None] * chances * (self.groups[:, None] != self.groups)
        nameless = len(block) > 0 and self.few is None
        kinds = np.array(KINDS) * (chances.any(), pairs.any(), nameless)
        one, two, dense = (1 - self._share) * kinds / max(kinds.sum(), 1e-300)
        table = two * pairs / max(pairs.sum() / 2, 1e-300) + one * np.diag(chances)
        single, pair, _, every = self._of_coordinates()
        if self._share:
            own = self._of_block()
            both = np.triu(np.outer(own, own), 1)
            table[np.ix_(block, block)] = pair * (both + both.T) / max(both.sum(), 1e-300)
            table[block, block] = single * own / own.sum()
        with np.errstate(divide="ignore"):
            return np.log(table), float(np.log(dense + every))

    def log_triples(self) -> Floats:
        """Log probability of each three coordinates with names, given that anything matters.

        In the order of `itertools.combinations`; empty where three cannot matter.
        """
        chance = self._of_coordinates()[2]
        own = np.array([*itertools.combinations(self._of_block() if chance else (), 3)])
        each = own.reshape(-1, 3).prod(1)
        return np.asarray(np.log(chance * each / max(each.sum(), 1e-300)))

    def precision(self, support: Support, width: float) -> Floats:
        """Prior precision of a support's coefficients, in (units of x per logit)²."""
        return np.asarray(len(support) * (self.scale[list(support)] / width) ** 2)


def group_features(metric: Floats, classes: Ints | None = None) -> Ints:
    """Group features that move a policy nearly alike: (k,) group numbers, by first feature.

    Two features are linked if their natural gradients have a cosine above `ALIKE` and they are of
    one class. A group is a connected component of these links. ``metric`` (k, k) is GᵀFG of the
    natural gradients G.
    """
    length = np.sqrt(np.diag(metric))
    near = metric > ALIKE * np.outer(length, length)
    if classes is not None:
        near &= classes[:, None] == classes
    from scipy.sparse import csgraph  # late: it loads what most commands do without

    labels = csgraph.connected_components(near, directed=False)[1]
    _, first, of = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[of], dtype=np.int64)
