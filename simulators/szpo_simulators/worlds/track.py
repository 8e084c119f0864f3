"""A round track with checkpoints, where the proxy reward (checkpoints) can be hacked.

A car on a ring of cells drives forward, drives back, or waits. The true reward is progress, in
laps. The proxy counts how often a line between two cells is crossed, in either direction. Among
ordinary drives those that pass more checkpoints also make more progress. But driving back and
forth over one line passes most and gets nowhere, as in the boat race of Clark and Amodei (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from szpo.errors import UsageError
from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Uniforms

MOVES = ("forward", "back", "wait")
_STEPS = np.array([1, -1, 0])
FEATURES = ("progress", "checkpoints")
"""Features of a drive: laps of progress, lines crossed."""


@dataclass(frozen=True)
class Track:
    """A `World`: H moves on the ring, softmax over three moves in each cell, d = 3 · cells.

    ``seen`` is the feature that the return counts. A move slips with probability ``slip``: it
    becomes any of the three. ``start`` has the probabilities of the untrained driver's moves, the
    same in every cell: mostly it waits. A walk starts in the middle of the first section and uses
    2·H uniform numbers: first for its choices, then for its slips.
    """

    seen: Literal["progress", "checkpoints"] = "progress"
    cells: int = 12
    lines: int = 4
    horizon: int = 24
    slip: float = 0.05
    start: tuple[float, float, float] = (0.4, 0.05, 0.55)

    def __post_init__(self) -> None:
        if self.lines < 1 or self.cells % self.lines or self.cells // self.lines < 2:
            raise UsageError(f"{self}: lines must divide the cells, two cells or more to a line")
        if self.horizon < 1 or not 0 <= self.slip <= 1 or self.seen not in FEATURES:
            raise UsageError(f"{self}: horizon from 1, slip within [0, 1], seen one of {FEATURES}")
        if min(self.start) <= 0 or abs(sum(self.start) - 1) > 1e-9:
            raise UsageError(f"{self}: start needs three positive chances that sum to 1")

    @property
    def dim(self) -> int:
        """Number of parameters d: one logit per cell and move."""
        return 3 * self.cells

    @property
    def width(self) -> int:
        """Uniform numbers of a walk: one for the choice and one for the slip of each move."""
        return 2 * self.horizon

    @property
    def section(self) -> int:
        """Number of cells between two lines."""
        return self.cells // self.lines

    @property
    def first(self) -> int:
        """The cell in which a walk starts."""
        return self.section // 2

    @cached_property
    def theta0(self) -> Floats:
        """Parameters (d,) of the untrained driver."""
        return np.tile(np.log(self.start), self.cells)

    @cached_property
    def landing(self) -> NDArray[np.int64]:
        """The cell (cells, 3) in which each executed move ends."""
        after: NDArray[np.int64] = (np.arange(self.cells)[:, None] + _STEPS) % self.cells
        return after

    @cached_property
    def features(self) -> Floats:
        """`FEATURES` (cells, 3, 2) of a move executed in a cell; each section ends at a line."""
        place = np.arange(self.cells) % self.section
        crossed = np.stack([place == self.section - 1, place == 0, np.zeros_like(place)], axis=1)
        progress = np.broadcast_to(_STEPS / self.cells, crossed.shape)
        return np.stack([progress, crossed.astype(np.float64)], axis=-1)

    @property
    def rewards(self) -> Floats:
        """The reward (cells, 3) of a move executed in a cell."""
        return np.asarray(self.features[..., FEATURES.index(self.seen)])

    def action_probabilities(self, theta: Reals) -> Floats:
        """π(move | cell) of the policies θ (S, d): (S, cells, 3)."""
        logits = np.asarray(theta, dtype=np.float64).reshape(len(theta), self.cells, 3)
        return np.asarray(softmax(logits, axis=-1))

    def value(self, theta: Reals) -> Floats:
        """Exact expected return (S,)."""
        return self.worth(theta, self.rewards)

    def worth(self, theta: Reals, rewards: Floats) -> Floats:
        """Exact expected sum (S,) of any rewards (cells, 3), or (S, cells, 3), over a walk."""
        executed = (1 - self.slip) * self.action_probabilities(theta) + self.slip / 3
        ahead = np.zeros(executed.shape[:2])
        for _ in range(self.horizon):
            ahead = (executed * (rewards + ahead[:, self.landing])).sum(-1)
        return np.asarray(ahead[:, self.first])

    def optimum(self) -> float:
        """The best expected return of any policy, even one that sees the time."""
        ahead = np.zeros(self.cells)
        for _ in range(self.horizon):
            after = self.rewards + ahead[self.landing]
            ahead = (1 - self.slip) * after.max(-1) + self.slip * after.mean(-1)
        return float(ahead[self.first])

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n) of walks."""
        return np.asarray(self.walks(theta, u)[2].sum(-1))

    def walks(
        self, theta: Reals, u: Uniforms
    ) -> tuple[NDArray[np.int16], NDArray[np.int8], Floats]:
        """The walks of policies θ (S, d).

        Returns cells (S, n, H + 1), and of each move (S, n, H) the index in `MOVES` that was
        chosen, and the reward of the executed one.
        """
        edges = self.action_probabilities(theta).cumsum(-1)[..., :2]
        lead, horizon = u.shape[:2], self.horizon
        run = np.arange(lead[0])[:, None]
        slipped = u[:, :, horizon:] < self.slip
        turned = np.minimum(u[:, :, horizon:] * (3 / max(self.slip, 1e-9)), 2).astype(np.int64)
        states = np.full((*lead, horizon + 1), self.first, np.int16)
        actions, rewards = np.zeros((*lead, horizon), np.int8), np.zeros((*lead, horizon))
        cell = np.full(lead, self.first)
        for t in range(horizon):
            choice = (u[:, :, t, None] >= edges[run, cell]).sum(-1)
            made = np.where(slipped[:, :, t], turned[:, :, t], choice)
            actions[:, :, t], rewards[:, :, t] = choice, self.rewards[cell, made]
            cell = self.landing[cell, made]
            states[:, :, t + 1] = cell
        return states, actions, rewards

    def move_features(self, states: NDArray[np.integer]) -> Floats:
        """`FEATURES` (..., H, 2) of each move of walks whose cells are (..., H + 1)."""
        before = states[..., :-1].astype(np.int64)
        ahead = (states[..., 1:] - before) % self.cells
        made = np.select([ahead == 1, ahead == 0], [0, 2], 1)
        return np.asarray(self.features[before, made])


TRUTH, PROXY = Track("progress"), Track("checkpoints")
"""The same world with laps of progress and with checkpoints passed as the return."""
