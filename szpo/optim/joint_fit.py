"""What verdicts are about: nothing, a few named features, or a direction of hidden states.

Two fits of the same verdicts, `szpo.optim.sparse_regression` and `szpo.optim.state_regression`,
are explanations with equal prior odds. Their marginal likelihoods weigh them, and their Bayes
factors against nothing average to one. Without states on record the named features stand alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import sparse_regression
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.optim.state_regression import StateFit, fit_states
from szpo.optim.vote_regression import Votes
from szpo.types import Floats

_Packed: TypeAlias = tuple[tuple[int, ...], bytes]
"""The shape of an array and its bytes, by which it is compared."""


@dataclass(frozen=True, slots=True, eq=False)
class JointFit:
    """The posterior over both explanations and nothing."""

    named: SparseFit
    states: StateFit | None
    """None: the run has no states on record."""
    log_factor: float
    """Log Bayes factor of either explanation against nothing, nats; a multiple of 2⁻²⁰."""
    signal: float
    """Posterior probability that the verdicts are about anything."""

    @property
    def share(self) -> float:
        """Probability of the states, given that the verdicts are about anything."""
        if self.states is None:
            return 0.0
        return float(special.expit(self.states.log_factor - self.named.log_factor))

    @property
    def kept(self) -> float:
        """What a probability under the named features alone is multiplied by to be a joint one."""
        return self.signal * (1 - self.share) / self.named.signal

    def moments(self, named: Floats, states: Floats | None) -> tuple[Floats, Floats]:
        """Posterior mean and variance (n,) of the logits of pairs, given that anything matters.

        Args:
            named: (n, k): differences in named features.
            states: (n, p): differences of states in units of the start's scale; None without any.
        """
        mean = named @ self.named.w
        variance = np.einsum("ni,ij,nj->n", named, self.named.covariance, named)
        if self.states is None or states is None:
            return mean, variance
        each, spread = self.states.logits(states)
        weights = np.concatenate([[1 - self.share], self.share * self.states.chances])[:, None]
        means, within = np.vstack([mean, each]), np.vstack([variance, spread])
        mean = (weights * means).sum(0)
        return mean, (weights * (within + means**2)).sum(0) - mean**2


def fit_joint(
    votes: Votes, prior: SparsePrior, states: Floats | None, known: Floats | None = None
) -> JointFit:
    """Fit verdicts on named features (`Votes.x`) and on states (R, p), and weigh both.

    Args:
        votes: The verdicts, with the differences in named features.
        prior: The prior of the weights on these.
        states: (R, p): differences of states; None: named features alone.
        known: (E, p): directions of earlier tastes, which these states may follow too.

    Raises:
        UsageError: another number of rows, or what either fit refuses.
    """
    named = _fit_named(prior, *map(_pack, (votes.x, votes.up, votes.down, votes.plus_on_a)))
    if states is None:
        return JointFit(named, None, named.log_factor, named.signal)
    if len(states) != len(votes.x):
        raise UsageError(f"votes: {len(votes.x)} rows of features, {len(states)} of states")
    dense = fit_states(states, votes.up, votes.down, votes.plus_on_a, known=known)
    factor = float(np.logaddexp(named.log_factor, dense.log_factor)) - math.log(2)
    factor = round(factor * sparse_regression.ROUNDING) / sparse_regression.ROUNDING
    return JointFit(
        named, dense, factor, float(special.expit(factor + special.logit(prior.signal)))
    )


@lru_cache(maxsize=64)  # replays, shares of voters and reports ask for the same fits again
def _fit_named(prior: SparsePrior, *votes: _Packed | None) -> SparseFit:
    x, up, down, side = map(_unpack, votes)
    assert x is not None and up is not None and down is not None
    return sparse_regression.fit_sparse(Votes(x, up, down, side), prior)


def _pack(array: Floats | None) -> _Packed | None:
    if array is None:
        return None
    array = np.asarray(array, dtype=np.float64)
    return array.shape, array.tobytes()


def _unpack(packed: _Packed | None) -> Floats | None:
    return None if packed is None else np.frombuffer(packed[1]).reshape(packed[0])
