"""Noisy Bradley–Terry: the probability that a voter looked at all, for the report on voters.

P(o) = s_j σ(o x) + (1 − s_j)/2 for a vote o = ±1 of voter j on a difference x: with probability
s_j the voter looked, else a fair coin voted (after Chen, Bennett, Collins-Thompson & Horvitz
2013). It weighs no step: a weight needs the slope of votes near x = 0, and there s_j and the β_j
of `szpo.aggregation.rationality` are one number; only large differences identify both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from szpo.aggregation import weighting
from szpo.aggregation.weighting import History
from szpo.types import Floats, Ints

SCALE: Final = 1.5
"""Prior standard deviation of x, logits."""
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
    """Every voter's s given the rest's, by coordinate updates; uniform prior on (0, 1).

    There is one x per comparison where any comparison has several votes, else one per direction.
    No leading axes.
    """
    verdicts = history.verdicts[:, -weighting.ROWS :, :]
    own = np.where(np.abs(verdicts) == 1, verdicts, 0).astype(np.float64)
    if (np.abs(own).sum(0) > 1).any():
        own = own.reshape(len(own), -1, 1)
    plus, minus = (own == 1).sum(-1), (own == -1).sum(-1)  # (P, U)
    sigma = special.expit(SCALE * _NODES)
    skill = np.full(len(own), 0.7)
    posterior = np.ones((len(own), len(_GRID)))
    for _ in range(_ROUNDS):
        # One voter at a time: (P, U, nodes) at once would be gigabytes after a million votes.
        whole = np.zeros(())
        for j in range(len(own)):
            whole = whole + _log(plus[j], minus[j], skill[j], sigma)
        for j in range(len(own)):
            rest = whole - _log(plus[j], minus[j], skill[j], sigma)  # (U, nodes)
            rest = rest + np.log(_MASS / _MASS.sum())
            rest = np.exp(rest - special.logsumexp(rest, -1, keepdims=True))
            posterior[j] = _log_likelihoods(plus[j], minus[j], rest, sigma)
        posterior = np.exp(posterior - posterior.max(-1, keepdims=True))
        posterior = posterior / posterior.sum(-1, keepdims=True)
        skill = posterior @ _GRID
    below = np.cumsum(posterior, axis=-1)
    low, high = (_GRID[(below < edge).sum(-1).clip(max=len(_GRID) - 1)] for edge in (0.025, 0.975))
    return NoisyBT(skill, low, high)


def _log_likelihoods(plus: Ints, minus: Ints, rest: Floats, sigma: Floats) -> Floats:
    """Log-likelihoods of one voter's votes (U,) at each s of the grid.

    ``rest`` (U, nodes): the posterior of x by the others' votes.
    """
    kinds, kind = np.unique(np.stack([plus, minus]), axis=1, return_inverse=True)  # few: 0 and 1
    found = np.empty(len(_GRID))
    for i, s in enumerate(_GRID):
        chance = np.exp(_log(kinds[0], kinds[1], s, sigma))  # (kinds, nodes)
        value = (rest * chance[kind.ravel()]).sum(-1)
        found[i] = np.log(np.maximum(value, 1e-300)).sum(-1)
    return found


def _log(plus: Ints, minus: Ints, s: float, sigma: Floats) -> Floats:
    """Log-likelihood of one voter's votes (U,) at each node (U, nodes)."""
    up, down = s * sigma + (1 - s) / 2, s * (1 - sigma) + (1 - s) / 2
    return np.asarray(plus[:, None] * np.log(up) + minus[:, None] * np.log(down))
