"""The posterior of Bradley–Terry weights: log p(w) = Σ aᵢ log σ(w·δᵢ) − |w|²/2τ² + const.

δ = winner − loser, in features; an answer weighs a = 1, a tie ½ in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from szpo.aggregation import laplace
from szpo.errors import UsageError
from szpo.types import Choice, Floats

BLOCK = 2**21
"""The most numbers in one intermediate array; longer sums are computed in parts."""


class Target(Protocol):
    """A density p from which particles can be drawn."""

    @property
    def dim(self) -> int:
        """The number of coordinates d."""

    def score(self, w: Floats) -> Floats:
        """∇ log p, (m, d) to (m, d)."""


@dataclass(frozen=True, slots=True, eq=False)
class BradleyTerry:
    """Answers so far and a Gaussian prior: everything the posterior depends on.

    Shapes: delta (n, d), winner − loser; weight (n,). ``tau`` is the prior's standard deviation of
    each weight, in logits per unit of feature.
    """

    delta: Floats
    weight: Floats
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and np.isfinite(self.tau)):
            raise UsageError(f"posterior: tau is {self.tau}; it must be a positive number")
        bad = np.flatnonzero(~np.isfinite(self.delta).all(1))
        if len(bad):
            raise UsageError(f"posterior: δ of answer {bad[0]} is not finite")

    @classmethod
    def prior(cls, dim: int, tau: float = 1.0) -> BradleyTerry:
        """The posterior before any answer."""
        return cls(np.zeros((0, dim)), np.zeros(0), tau)

    @classmethod
    def of(
        cls, delta: ArrayLike, choices: Sequence[Choice], tau: float = 1.0, dim: int | None = None
    ) -> BradleyTerry:
        """The posterior given δ = φ(A) − φ(B) (n, d) and the choices; see `orient`."""
        rows = np.asarray(delta, dtype=np.float64)
        rows = rows.reshape(len(choices), -1 if rows.size else dim or 1)
        return cls(*orient(rows, choices), tau)

    @property
    def dim(self) -> int:
        """The number of weights d."""
        return int(self.delta.shape[1])

    def log_likelihood(self, w: Floats) -> Floats:
        """Σ aᵢ log σ(w·δᵢ), (m, d) to (m,); −n log 2 at w = 0."""
        total = np.zeros(len(w))
        for part in blocks(len(self.delta), len(w)):
            total += special.log_expit(w @ self.delta[part].T) @ self.weight[part]
        return total

    def log_density(self, w: Floats) -> Floats:
        """The log-likelihood − |w|²/2τ², (m, d) to (m,): log p(w) up to a constant."""
        return np.asarray(self.log_likelihood(w) - (w * w).sum(1) / (2 * self.tau**2))

    def score(self, w: Floats) -> Floats:
        """∇ log p(w) = Σ aᵢ σ(−w·δᵢ) δᵢ − w/τ², (m, d) to (m, d)."""
        total = -w / self.tau**2
        for part in blocks(len(self.delta), len(w)):
            delta = self.delta[part]
            total = total + (special.expit(-(w @ delta.T)) * self.weight[part]) @ delta
        return total

    def laplace(self) -> tuple[Floats, Floats]:
        """Mode (d,) and covariance (d, d) of the Gaussian approximation there."""
        votes = laplace.Rows(self.delta, self.weight, self.weight)
        found = laplace.approximate(votes, np.zeros(self.dim), np.eye(self.dim) / self.tau**2)
        return found.coef, found.covariance()


def orient(delta: Floats, choices: Sequence[Choice]) -> tuple[Floats, Floats]:
    """Turn δ = φ(A) − φ(B) (n, d) into winner − loser, with weights.

    A leaves δ, B negates it, a tie is half an answer in either direction, a skip is none.

    >>> rows, weight = orient(np.array([[1.0], [2.0], [3.0]]), ["A", "B", "tie"])
    >>> rows.ravel().tolist(), weight.tolist()
    ([1.0, -2.0, 3.0, -3.0], [1.0, 1.0, 0.5, 0.5])
    """
    signs: dict[str, tuple[tuple[float, float], ...]] = {
        "A": ((1.0, 1.0),), "B": ((-1.0, 1.0),), "tie": ((1.0, 0.5), (-1.0, 0.5)), "skip": (),
    }  # fmt: skip
    rows: list[Floats] = []
    weight: list[float] = []
    for row, choice in zip(delta, choices, strict=True):
        if choice not in signs:
            raise UsageError(f"answers: {choice!r} is unknown; give A, B, tie or skip")
        for sign, share in signs[choice]:
            rows.append(sign * row)
            weight.append(share)
    return np.array(rows).reshape(len(rows), delta.shape[1]), np.array(weight)


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of the rows, each of at most `BLOCK` numbers in an array of these columns."""
    size = max(1, BLOCK // max(columns, 1))
    return [slice(start, start + size) for start in range(0, rows, size)]
