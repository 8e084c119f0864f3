"""A world restricted to few coordinates: θ = θ₀ + P z with a random P of orthogonal columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from szpo.errors import UsageError
from szpo.seeds import derive
from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Trajectories, Uniforms, World


@dataclass(frozen=True)
class Subspace:
    """The policies θ₀ + P z of a world, z of ``few`` coordinates.

    Columns of P have length √(d / few), so that μ and α mean the same as in the whole space: a
    direction |v| = √few moves θ by √d.
    """

    world: World
    few: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.few <= self.world.dim:
            raise UsageError(f"subspace: {self.few} of {self.world.dim} coordinates")

    @property
    def dim(self) -> int:
        """Number of coordinates z."""
        return self.few

    @property
    def width(self) -> int:
        """As of the world."""
        return self.world.width

    @property
    def theta0(self) -> Floats:
        """All coordinates 0."""
        return np.zeros(self.few)

    @cached_property
    def basis(self) -> Floats:
        """P (d, few)."""
        key = int.from_bytes(derive(self.seed, "world subspace", k=self.few), "little")
        drawn = np.random.Generator(np.random.Philox(key=key)).normal(
            size=(self.world.dim, self.few)
        )
        return np.asarray(np.linalg.qr(drawn)[0] * np.sqrt(self.world.dim / self.few))

    def whole(self, z: Reals) -> Floats:
        """θ (S, d) of coordinates z (S, few)."""
        return self.world.theta0 + np.asarray(z, dtype=np.float64) @ self.basis.T

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns of the world's walks."""
        return self.world.returns(self.whole(theta), u)

    def walks(self, theta: Reals, u: Uniforms) -> Trajectories:
        """The world's walks."""
        return self.world.walks(self.whole(theta), u)

    def value(self, theta: Reals) -> Floats:
        """The world's value."""
        return self.world.value(self.whole(theta))
