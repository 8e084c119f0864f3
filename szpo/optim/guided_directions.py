"""Guided directions: a part of each lies in the span of a few proposed differences of weights.

A Gaussian direction in ten thousand weights hardly ever points anywhere that matters. Guided
evolution strategies (Maheswaranathan et al. 2019, arXiv:1806.10230) draw v ~ N(0, C) with

    C = (1 − s) C₀ + s U Uᵀ / k,      v = √(1 − s) a n + √s b U ε / √k,

n and ε standard normal, U the span of k surrogate gradients. C₀ = a² I, and U has its columns
orthonormal in the metric of KL, so that both parts are measured in nats: a and b are such that
either part alone costs the run's radius. A step along v by what votes say of θ ± μv is on average
α C ∇: the gradient of what votes say, preconditioned by C. C is not inverted. A proposal that is
turned round gives the same C, and so steps of the same law: nothing moves that votes on two
policies did not decide.

Numbers are drawn as in `szpo.optim.sample_directions`. A span's own numbers are on record, and
what is made of them here are sums in fp32, one after the other, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.errors import UsageError
from szpo.optim import sample_directions
from szpo.types import Floats, Theta

MOST: Final = 4
"""Most proposals of a span."""
EVERY: Final = 40
"""Verdicts after which a span is renewed."""
LONGEST: Final = 16.0
"""Largest root mean square of an axis; n's is 1 at equal KL, and measured ones are .1 to .6."""
NAME: Final = "szpo.span"
"""Whose numbers ε are, in place of a tensor's name."""


@dataclass(frozen=True, eq=False)
class Span:
    """A span of proposals, and how directions are drawn with it."""

    first: int
    """The first step whose directions it guides."""
    noise: float
    """√(1 − s) · a, from 0 to 1: what multiplies the Gaussian part."""
    proposals: tuple[Theta, ...]
    """Differences of weights, one array for each tensor that moves."""
    mixing: tuple[tuple[float, ...], ...]
    """(k, proposals): rows of √(s/k) · b · Uᵀ in the proposals."""

    def __post_init__(self) -> None:
        rows = np.array(self.mixing, dtype=np.float32)
        if not 0 < len(self.proposals) <= MOST or rows.ndim != 2 or not rows.size:
            raise UsageError(f"span: it has 1 to {MOST} proposals, and a row for each dimension")
        if rows.shape[1] != len(self.proposals) or len(rows) > len(self.proposals):
            raise UsageError("span: its mixing is of other proposals")
        if not (np.isfinite(rows).all() and 0 <= self.noise <= 1):
            raise UsageError("span: a number is not finite, or its noise is not from 0 to 1")
        if (longest := lengths(rows, self.proposals).max()) > LONGEST:
            raise UsageError(f"span: an axis is {longest:.3g} long; {LONGEST:g} at most")

    @property
    def axes(self) -> tuple[Mapping[str, NDArray[np.float32]], ...]:
        """(k): the span's part of v for ε = 1 in one dimension, and 0 in the others."""
        return _axes(self)

    def guide(
        self, root_seed: int, step: int, k: int, gaussian: Theta
    ) -> dict[str, NDArray[np.float32]]:
        """V of a step's direction k, from its ``gaussian`` part n; fp32, per tensor."""
        key = seeds.derive(root_seed, "direction", step=step, k=k, name=NAME)
        drawn = sample_directions.gaussian(key, len(self.mixing)).astype(np.float32)
        v = {name: value * np.float32(self.noise) for name, value in gaussian.items()}
        for weight, axis in zip(drawn / sample_directions.PER_UNIT, self.axes, strict=True):
            for name, value in axis.items():
                v[name] = v[name] + value * weight
        return v


def lengths(rows: NDArray[np.floating], proposals: Sequence[Theta]) -> Floats:
    """Root mean square of each axis (k,): rows (k, proposals) of weights times the proposals."""
    whole = np.stack(
        [np.concatenate([each[n].ravel() for n in proposals[0]]) for each in proposals]
    )
    return np.asarray(np.sqrt(((rows.astype(float) @ whole.astype(float)) ** 2).mean(1)))


@lru_cache(maxsize=2)  # each is as large as the weights that move, times k
def _axes(span: Span) -> tuple[Mapping[str, NDArray[np.float32]], ...]:
    made = []
    for row in np.array(span.mixing, dtype=np.float32):
        axis = {name: np.zeros_like(value) for name, value in span.proposals[0].items()}
        for weight, proposal in zip(row, span.proposals, strict=True):
            for name, value in proposal.items():
                axis[name] = axis[name] + value * weight  # two ufuncs, so never fused
        made.append(axis)
    return tuple(made)


def in_force(spans: Sequence[Span], step: int) -> Span | None:
    """The span that guides a step's directions; None before the first."""
    return next((span for span in reversed(spans) if span.first <= step), None)
