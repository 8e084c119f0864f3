"""Voter weights by the one-coin model of Dawid & Skene (1979), for comparisons with several votes.

Each comparison has a better side, and a voter names it with a probability of their own, whatever
the comparison. Fitted by the EM of Zhang, Chen, Zhou & Jordan (2016, JMLR 17:102), with both sides
equally likely a priori and every voter's accuracy shrunk towards the panel's. Where comparisons
have one vote each (M = 1) there is nothing to learn from: `szpo.aggregation.weighting.skill` and
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
    """The fitted model, per voter (..., P)."""

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

    The prior counts as ``votes`` votes: at the panel's accuracy for a voter, at ``accuracy`` for
    the panel; 0 gives the maximum likelihood. Ties carry no information.
    """
    verdicts = history.verdicts[..., -weighting.ROWS :, :]
    own = np.where(np.abs(verdicts) == 1, verdicts, 0).astype(np.float64)
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
        # M step: a voter's share of right votes, shrunk to the panel's by ``votes`` more.
        right = (hits + votes * panel) / np.maximum(count + votes, 1e-9)
        right = np.where(count + votes > 0, right, accuracy)
        right = np.clip(right, _EDGE, 1 - _EDGE)
        # E step: the mean side in [−1, 1], tanh of half the sum of signed log-odds.
        evidence = own * np.log(right / (1 - right))[..., None]
        side = np.tanh(evidence.sum(-2, keepdims=True) / 2)
    rest = np.tanh((evidence.sum(-2, keepdims=True) - evidence) / 2)
    square = (asked * rest * rest).sum(-1)
    z = (own * rest).sum(-1) / np.sqrt(np.maximum(square, 1e-12))
    error = np.sqrt(right * (1 - right) / np.maximum(square + votes, 1e-9))
    weights = silence(np.log(right / (1 - right)), z)
    reach = 1.959963984540054 * error
    low, high = np.maximum(right - reach, 0.0), np.minimum(right + reach, 1.0)
    return OneCoin(normalise(weights), right, low, high, z)
