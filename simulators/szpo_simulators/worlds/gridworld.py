"""A stochastic grid with a tabular softmax policy, its exact value and its optimum.

The setting is that of Zhang & Ying (arXiv 2409.17401); their own grid is not known. A move slips
with probability ``slip``: it becomes any of the four moves with equal probability. Rewards
are earned on arrival at a cell. A world may have several states for each cell (`sets`), such as a
courier's bag being full; the policy sees only the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from szpo.errors import UsageError
from szpo.types import Floats, Ints
from szpo_simulators.worlds.world import Reals, Uniforms

_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True)
class GridWorld:
    """A square grid; a walk starts in the upper left cell, number 0, and makes ``horizon`` moves.

    ``rewards`` are given by cell, row by row; None is the dense default 1 − (L1 distance to the
    lower right cell)/(2·size − 2).
    """

    size: int = 5
    slip: float = 0.2
    horizon: int = 12
    rewards: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size < 2 or self.horizon < 1 or not 0 <= self.slip <= 1:
            raise UsageError(f"{self}: size from 2, horizon from 1, slip within [0, 1]")
        if self.rewards is not None and len(self.rewards) != self.cells:
            raise UsageError(f"grid: {len(self.rewards)} rewards for {self.cells} cells")

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.size**2

    @property
    def dim(self) -> int:
        """Number of parameters d: one logit per cell and action."""
        return 4 * self.cells

    @property
    def width(self) -> int:
        """Uniform numbers of a walk: one per move."""
        return self.horizon

    @property
    def theta0(self) -> Floats:
        """The starting θ (d,), under which all actions are equally likely."""
        return np.zeros(self.dim)

    @cached_property
    def moves(self) -> Ints:
        """The cell (cells, 4) in which each executed move ends."""
        row, column = np.divmod(np.arange(self.cells), self.size)
        down, right = np.array(_STEPS).T
        rows = np.clip(row[:, None] + down, 0, self.size - 1)
        columns = np.clip(column[:, None] + right, 0, self.size - 1)
        return np.asarray(rows * self.size + columns, dtype=np.int64)

    @cached_property
    def cell_rewards(self) -> Floats:
        """The reward (cells,) on arrival at each cell."""
        if self.rewards is not None:
            return np.asarray(self.rewards, dtype=np.float64)
        row, column = np.divmod(np.arange(self.cells), self.size)
        far = 2 * self.size - 2
        return np.asarray(1 - (far - row - column) / far)

    @cached_property
    def sets(self) -> int:
        """Number of states per cell; a state's number is set · cells + cell."""
        return 1

    @cached_property
    def landing(self) -> Ints:
        """The state (sets · cells, 4) in which each executed move ends."""
        return self.moves

    @cached_property
    def arrival(self) -> Floats:
        """The reward (sets · cells,) on arrival at each state."""
        return self.cell_rewards

    def action_probabilities(self, theta: Reals) -> Floats:
        """π(action | cell) of the policies θ (S, d): (S, cells, 4)."""
        logits = np.asarray(theta, dtype=np.float64).reshape(-1, self.cells, 4)
        return np.asarray(softmax(logits, axis=-1))

    def executed_probabilities(self, theta: Reals) -> Floats:
        """Probability of each executed move, slip included: (S, cells, 4)."""
        return (1 - self.slip) * self.action_probabilities(theta) + self.slip / 4

    def value(self, theta: Reals) -> Floats:
        """Exact expected return (S,) by backward induction over the horizon."""
        chances = np.tile(self.executed_probabilities(theta), (1, self.sets, 1))
        ahead = np.zeros(chances.shape[:2])
        for _ in range(self.horizon):
            ahead = (chances * (self.arrival + ahead)[:, self.landing]).sum(-1)
        return np.asarray(ahead[:, 0])

    def optimum(self) -> float:
        """The best expected return of any policy, even one that sees time and state."""
        ahead = np.zeros(len(self.arrival))
        for _ in range(self.horizon):
            after = (self.arrival + ahead)[self.landing]
            ahead = (1 - self.slip) * after.max(-1) + self.slip * after.mean(-1)
        return float(ahead[0])

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n); one uniform number per move selects the executed move directly."""
        edges = _edges(self.executed_probabilities(theta), self.sets)
        runs, states = len(u), self.sets * self.cells
        base = (np.arange(runs, dtype=np.intp) * states)[:, None]
        # The repetitions' tables are joined, so that one index selects repetition and state.
        landing = self.landing.astype(np.intp).ravel()
        state = np.zeros(u.shape[:2], dtype=np.intp)
        place, total = np.empty_like(state), np.zeros(u.shape[:2])
        edge = np.empty(u.shape[:2], dtype=np.float32)
        for chance in np.ascontiguousarray(u.transpose(2, 0, 1)):
            np.add(state, base, out=place)
            state <<= 2
            for table in edges:
                np.take(table, place, out=edge, mode="clip")
                state += chance >= edge
            state = np.take(landing, state, mode="clip")
            total += np.take(self.arrival, state, mode="clip")
        return total


def _edges(executed: Floats, sets: int) -> list[NDArray[np.float32]]:
    """Cumulative probabilities of the first three executed moves, flat over (S, sets, cells)."""
    inner = np.cumsum(executed, axis=-1)[..., :3].astype(np.float32)
    return [np.tile(inner[..., i], (1, sets)).ravel() for i in range(3)]


DENSE = GridWorld()
"""The default world: reward grows towards the far corner. V(θ = 0) = 2.845, optimum 7.552."""


@dataclass(frozen=True)
class Courier(GridWorld):
    """A grid on which the return counts deliveries, which no reward by cell can express.

    Arriving at the depot, the upper left cell, fills the bag; arriving at the customer's, the
    lower right one, with a full bag delivers it. The state is (bag, cell). The policy sees only
    the cell, and so does a reward by cell or move: standing at either end correlates with
    deliveries but makes none. A policy without memory does well by walking in circles.
    """

    size: int = 3
    horizon: int = 100

    @cached_property
    def sets(self) -> int:
        """Three states per cell: bag empty, bag full, just delivered."""
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
        """The reward (3 · cells,): 1 in states in which a delivery was just made, else 0."""
        return np.repeat([0.0, 0.0, 1.0], self.cells)


COURIER = Courier()
"""The default courier world: nine cells, a hundred moves."""
