"""A courier on a grid: the return counts deliveries, which no reward by cell can express.

Arriving at the depot, the upper left cell, fills the bag; arriving at the customer's, the lower
right one, with a full bag delivers it. The state is (bag, cell); the policy sees the cell alone,
and so does a reward by cell or by move: standing at either end correlates with deliveries and
makes none. A policy without memory does well by walking in circles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from szpo.types import Floats, Ints
from szpo_simulators.worlds.gridworld import GridWorld


@dataclass(frozen=True)
class Courier(GridWorld):
    """A `GridWorld` whose sets are what the bag is, and whose only reward is a delivery."""

    size: int = 3
    horizon: int = 100

    @cached_property
    def sets(self) -> int:
        """Bag empty, bag full, just delivered."""
        return 3

    @cached_property
    def landing(self) -> Ints:
        """The state (3 · cells, 4) in which each executed move ends."""
        full = np.repeat([False, True, False], self.cells)[:, None]
        cells = np.tile(self.moves, (3, 1))
        delivered = np.where(full & (cells == self.cells - 1), 2, full.astype(np.int64))
        after = np.where(cells == 0, 1, delivered)
        return np.asarray(after * self.cells + cells, dtype=np.int64)

    @cached_property
    def arrival(self) -> Floats:
        """1 (3 · cells,) where something was just delivered."""
        return np.repeat([0.0, 0.0, 1.0], self.cells)


COURIER = Courier()
"""The default: nine cells, a hundred moves."""
