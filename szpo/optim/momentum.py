"""Momentum and Adam: as one vector where the space is small, as a sum of past rows where not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from szpo.optim.parameters import round13
from szpo.optim.settings import Adam, Settings
from szpo.types import Floats, Update

SMALLEST_COEF = 1e-30
"""Smaller coefficients become 0: their products would leave fp32's normal range."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What small-vector momentum and Adam carry over: first and second moment (..., d), steps."""

    first: Floats
    second: Floats
    count: int = 0

    @classmethod
    def empty(cls, dim: int, lead: tuple[int, ...] = ()) -> Memory:
        """Nothing carried over, for d coordinates."""
        return cls(np.zeros((*lead, dim)), np.zeros((*lead, dim)))


def momentum_step(memory: Memory, move: Floats, rho: float) -> tuple[Floats, Memory]:
    """Heavy-ball momentum: u ← ρu + move; the step is u."""
    velocity = rho * memory.first + move
    return velocity, Memory(velocity, memory.second, memory.count + 1)


def adam_step(
    memory: Memory, gradient: Floats, alpha: ArrayLike, adam: Adam
) -> tuple[Floats, Memory]:
    """Adam, ascending (Kingma & Ba 2015, algorithm 1)."""
    count = memory.count + 1
    first = adam.decay1 * memory.first + (1 - adam.decay1) * gradient
    second = adam.decay2 * memory.second + (1 - adam.decay2) * gradient**2
    mean = first / (1 - adam.decay1**count)
    size = np.sqrt(second / (1 - adam.decay2**count))
    return np.asarray(alpha) * mean / (size + adam.epsilon), Memory(first, second, count)


def added_updates(settings: Settings, updates: Iterable[Update], step: int) -> tuple[Update, ...]:
    """What is really added to θ at a step, in order, given the recorded updates up to it.

    Without momentum, and where a step is one vector, these are the step's own updates. Otherwise
    the record holds undecayed coefficients, and step t adds round13(ρ^j · coef_{t−j}) · v_{t−j}
    for j = 0 … J, k ascending: apply one after the other with `parameters.apply_update`.

    >>> from szpo.optim.directions import Law
    >>> settings = Settings(1, (("a", (9,)), ("b", (9,))), Law(), "sign", momentum=0.5)
    >>> rows = [Update(0, 0, coef=1.0), Update(1, 0, coef=-2.0)]
    >>> [(row.step, row.coef) for row in added_updates(settings, rows, 1)]
    [(1, -2.0), (0, 0.5)]
    """
    if settings.momentum == 0 or settings.small:
        return tuple(sorted((u for u in updates if u.step == step), key=lambda u: u.k))
    oldest = step - settings.momentum_terms
    recent = sorted(
        (u for u in updates if oldest <= u.step <= step and u.coef), key=lambda u: (-u.step, u.k)
    )
    powers = [1.0]
    for _ in range(settings.momentum_terms):
        powers.append(powers[-1] * settings.momentum)
    return tuple(
        Update(u.step, u.k, coef=round_coef(powers[step - u.step] * (u.coef or 0.0)))
        for u in recent
    )


def round_coef(coef: float) -> float:
    """A coefficient as it is recorded and applied: 13 significant bits, tiny ones 0."""
    return float(round_coefs(np.asarray(coef)))


def round_coefs(coefs: Floats) -> Floats:
    """`round_coef` of arrays."""
    return round13(np.where(np.abs(coefs) < SMALLEST_COEF, 0.0, coefs))
