"""A two-armed bandit: a safe arm, and one that pays rarely but is a little better on average.

In single pulls the safe arm wins more often; in means over many pulls the risky one wins. The
policy has one parameter: P(risky) = σ(θ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Trajectories, Uniforms


@dataclass(frozen=True)
class Bandit:
    """The risky arm pays ``prize`` with probability ``luck``, the safe one always ``safe``."""

    prize: float = 4.0
    luck: float = 0.3
    safe: float = 1.0

    @property
    def dim(self) -> int:
        """One parameter."""
        return 1

    @property
    def width(self) -> int:
        """One uniform number chooses the arm, one whether the risky one pays."""
        return 2

    @property
    def theta0(self) -> Floats:
        """Both arms equally likely."""
        return np.zeros(1)

    def risky(self, theta: Reals) -> Floats:
        """P(risky) of the policies θ (S, 1): (S,)."""
        return np.asarray(special.expit(np.asarray(theta, dtype=np.float64)[..., 0]))

    def value(self, theta: Reals) -> Floats:
        """Exact expected pay (S,)."""
        return self.safe + (self.prize * self.luck - self.safe) * self.risky(theta)

    def optimum(self) -> float:
        """The mean pay of the better arm."""
        return max(self.safe, self.prize * self.luck)

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Pay (S, n)."""
        return self._pay(self._arms(theta, u), u)

    def walks(self, theta: Reals, u: Uniforms) -> Trajectories:
        """Pulls: state 0 before, and after it 1 where the risky arm paid; action 1 is risky."""
        arms = self._arms(theta, u)
        paid = arms & (u[..., 1] < self.luck)
        states = np.stack([np.zeros_like(paid), paid], axis=-1).astype(np.int8)
        return Trajectories(
            states,
            arms[..., None].astype(np.int8),
            self._pay(arms, u)[..., None],
            np.ones(arms.shape, dtype=np.int64),
        )

    def _arms(self, theta: Reals, u: Uniforms) -> NDArray[np.bool_]:
        return np.asarray(u[..., 0] < self.risky(theta)[:, None])

    def _pay(self, arms: NDArray[np.bool_], u: Uniforms) -> Floats:
        return np.where(arms, np.where(u[..., 1] < self.luck, self.prize, 0.0), self.safe)

    def gaps(self, rows: int) -> tuple[Floats, Floats]:
        """The law of (mean of ``rows`` risky pulls) − (mean of safe ones): values, chances."""
        wins = np.arange(rows + 1)
        chances = stats.binom.pmf(wins, rows, self.luck)
        return self.prize * wins / rows - self.safe, np.asarray(chances)
