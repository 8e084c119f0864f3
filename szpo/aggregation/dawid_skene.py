"""Weights by the one-coin model of Dawid & Skene (1979), for comparisons that several answer.

Each comparison has a better side, and a voter names it with a probability of their own, whatever
the comparison. The EM of Zhang, Chen, Zhou & Jordan (2016, JMLR 17:102), with sides alike
beforehand and every voter's accuracy drawn towards the panel's. Where each comparison has one
vote (M = 1) nothing is learnt: `szpo.aggregation.weighting.skill` and
`szpo.aggregation.rationality` compare votes over a direction instead. Pure arithmetic over arrays
with any leading axes, as in `szpo.aggregation.weighting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.aggregation import weighting
from szpo.aggregation.weighting import History, normalise, silence
from szpo.types import Floats

_EDGE: Final = 0.02
"""No accuracy is nearer to 0 or 1 than this."""


@dataclass(frozen=True, slots=True)
class OneCoin:
    """What was found, per voter (..., P)."""

    weights: Floats
    """log-odds of the accuracy, below 0 only from three standard errors on; Σw² = Σ|w|."""
    accuracy: Floats
    low: Floats
    high: Floats
    """95 % interval of the accuracy, by its curvature: votes count by how sure their side is."""
    z: Floats
    """Agreement with the rest in standard errors above chance."""


def dawid_skene(
    history: History, *, votes: float = 20.0, accuracy: float = 0.7, passes: int = 30
) -> OneCoin:
    """One weight per voter from the comparisons that two or more answered with a side.

    ``votes``: how many votes the panel's accuracy is worth to a voter, and ``accuracy`` to the
    panel; 0 gives the maximum likelihood. Ties say nothing.
    """
    said = history.verdicts[..., -weighting.ROWS :, :]
    own = np.where(np.abs(said) == 1, said, 0).astype(np.float64)
    own = np.where(np.abs(own).sum(-3, keepdims=True) > 1, own, 0.0)
    own = own.reshape(*own.shape[:-2], -1)  # (..., P, comparisons)
    asked = np.abs(own)
    count = asked.sum(-1)
    # The majority's side to begin with, as sure as the share for it.
    size = asked.sum(-2, keepdims=True)
    side = own.sum(-2, keepdims=True) / np.maximum(size, 1.0)
    right = np.full(count.shape, accuracy)
    for _ in range(passes):
        hits = ((1 + own * side) / 2 * asked).sum(-1)
        every = count.sum(-1, keepdims=True)
        panel = (hits.sum(-1, keepdims=True) + votes * accuracy) / np.maximum(every + votes, 1e-9)
        right = (hits + votes * panel) / np.maximum(count + votes, 1e-9)
        right = np.where(count + votes > 0, right, accuracy)
        right = np.clip(right, _EDGE, 1 - _EDGE)
        told = own * np.log(right / (1 - right))[..., None]
        side = np.tanh(told.sum(-2, keepdims=True) / 2)
    rest = np.tanh((told.sum(-2, keepdims=True) - told) / 2)
    square = (asked * rest * rest).sum(-1)
    z = (own * rest).sum(-1) / np.sqrt(np.maximum(square, 1e-12))
    error = np.sqrt(right * (1 - right) / np.maximum(square + votes, 1e-9))
    weights = silence(np.log(right / (1 - right)), z)
    reach = 1.959963984540054 * error
    low, high = np.maximum(right - reach, 0.0), np.minimum(right + reach, 1.0)
    return OneCoin(normalise(weights), right, low, high, z)
