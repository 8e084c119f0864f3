"""The yard as a world: walks as arrays, for a thousand repetitions at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Trajectories, Uniforms
from szpo_simulators.worlds.yard import COST, Yard


@dataclass(frozen=True)
class YardWorld:
    """A `szpo_simulators.worlds.yard.Yard` behind the `World` protocol.

    A walk starts in a free cell that its first uniform number draws.
    """

    yard: Yard = field(default_factory=Yard)

    @property
    def dim(self) -> int:
        """One logit per cell and move."""
        return 4 * self.yard.cells

    @property
    def width(self) -> int:
        """A number for the start; for each move one for the choice and one for the wind."""
        return 1 + 2 * self.yard.horizon

    @property
    def theta0(self) -> Floats:
        """All moves equally likely."""
        return np.zeros(self.dim)

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Ending less the cost of the moves, (S, n)."""
        return self.walks(theta, u).returns

    def walks(self, theta: Reals, u: Uniforms) -> Trajectories:
        """Walks of softmax policies: states are cells, the wind may turn what was chosen."""
        yard = self.yard
        logits = np.asarray(theta, dtype=np.float64).reshape(len(theta), yard.cells, 4)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        edges = np.cumsum(powers / powers.sum(-1, keepdims=True), axis=-1)
        count, horizon = u.shape[1], yard.horizon
        shape = (len(theta), count, horizon)
        numbers = u[..., 1:].reshape(*shape, 2)
        run = np.arange(len(theta))[:, None]
        cells = yard.starts[(u[..., 0] * len(yard.starts)).astype(np.int64)]
        states: NDArray[np.int64] = np.zeros((*shape[:2], horizon + 1), dtype=np.int64)
        states[..., 0] = cells
        actions, rewards = np.zeros(shape, dtype=np.int8), np.zeros(shape)
        moves = np.zeros(shape[:2], dtype=np.int64)
        walking = np.ones(shape[:2], dtype=bool)
        for t in range(horizon):
            choice = np.minimum((numbers[:, :, t, :1] >= edges[run, cells]).sum(-1), 3)
            wind = numbers[:, :, t, 1]
            turn = np.where(wind < yard.wind / 2, -1, 0) + (wind >= 1 - yard.wind / 2)
            after = np.where(walking, yard.landing[cells, (choice + turn) % 4], cells)
            actions[:, :, t] = np.where(walking, choice, 0)
            rewards[:, :, t] = np.where(walking, yard.ending[after] - COST, 0.0)
            moves += walking
            states[..., t + 1] = cells = after
            walking = walking & (yard.ending[cells] == 0)
        return Trajectories(states, actions, rewards, moves)

    def value(self, theta: Reals) -> Floats:
        """Exact expected return (S,)."""
        shape = (-1, self.yard.cells, 4)
        logits = np.asarray(theta, dtype=np.float64).reshape(shape)
        return np.array([self.yard.value(one) for one in logits])
