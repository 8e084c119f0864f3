"""Bradley–Terry with a skill for each voter, for a report: who looks, and who clicks.

P(o) = s_j σ(o x) + (1 − s_j)/2 for a vote o = ±1 of voter j on a difference x: with chance s_j
the voter looked (Chen, Bennett, Collins-Thompson & Horvitz 2013 with a coin for the rest). No
weight of a step: a weight needs the slope of votes near x = 0, and there s_j and the β_j of
`szpo.aggregation.rationality` are one number; apart they can only be told where differences are
large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from szpo.aggregation import weighting
from szpo.aggregation.weighting import History
from szpo.types import Floats

SCALE: Final = 1.5
"""Standard deviation of x beforehand, logits."""
_NODES, _MASS = np.polynomial.hermite_e.hermegauss(21)
_GRID: Final = np.linspace(0.01, 0.99, 50)
_ROUNDS: Final = 15


@dataclass(frozen=True, slots=True)
class NoisyBT:
    """Per voter (P,): the share of votes that looked, its mean and 95 % interval."""

    skill: Floats
    low: Floats
    high: Floats


def noisy_bt(history: History) -> NoisyBT:
    """Every voter's s given the rest's, taken in turns; s is anything in (0, 1) beforehand.

    x belongs to a comparison where some have several votes, else to a direction. No leading axes.
    """
    said = history.verdicts[:, -weighting.ROWS :, :]
    own = np.where(np.abs(said) == 1, said, 0).astype(np.float64)
    if (np.abs(own).sum(0) > 1).any():
        own = own.reshape(len(own), -1, 1)
    plus, minus = (own == 1).sum(-1)[..., None], (own == -1).sum(-1)[..., None]  # (P, U, 1)
    sigma = special.expit(SCALE * _NODES)
    skill = np.full(len(own), 0.7)
    posterior = np.ones((len(own), len(_GRID)))
    for _ in range(_ROUNDS):
        told = _log(plus, minus, skill[:, None, None], sigma)  # (P, U, nodes)
        rest = told.sum(0, keepdims=True) - told + np.log(_MASS / _MASS.sum())
        rest = np.exp(rest - special.logsumexp(rest, -1, keepdims=True))
        for i, s in enumerate(_GRID):
            value = (rest * np.exp(_log(plus, minus, s, sigma))).sum(-1)
            posterior[:, i] = np.log(np.maximum(value, 1e-300)).sum(-1)
        posterior = np.exp(posterior - posterior.max(-1, keepdims=True))
        posterior = posterior / posterior.sum(-1, keepdims=True)
        skill = posterior @ _GRID
    below = np.cumsum(posterior, axis=-1)
    low, high = (_GRID[(below < edge).sum(-1).clip(max=len(_GRID) - 1)] for edge in (0.025, 0.975))
    return NoisyBT(skill, low, high)


def _log(plus: Floats, minus: Floats, s: Floats | float, sigma: Floats) -> Floats:
    """Log-likelihood of votes at each node."""
    up, down = s * sigma + (1 - s) / 2, s * (1 - sigma) + (1 - s) / 2
    return np.asarray(plus * np.log(up) + minus * np.log(down))
