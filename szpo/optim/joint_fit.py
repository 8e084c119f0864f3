"""What verdicts are about: nothing, a few named features, or a direction of hidden states.

Two fits of the same verdicts, `szpo.optim.sparse_regression` and `szpo.optim.state_regression`,
are explanations with equal prior odds. Their marginal likelihoods weigh them, and their Bayes
factors against nothing average to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import sparse_regression, state_regression
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit
from szpo.optim.state_regression import StateFit
from szpo.optim.vote_regression import Votes
from szpo.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class JointFit:
    """The posterior over both explanations and nothing."""

    named: SparseFit
    states: StateFit
    signal: float
    """Posterior probability that the verdicts are about anything."""

    @property
    def log_factor(self) -> float:
        """Log Bayes factor of either explanation against nothing, nats."""
        both = np.logaddexp(self.named.log_factor, self.states.log_factor)
        return float(both) - math.log(2)

    @property
    def share(self) -> float:
        """Probability of the states, given that the verdicts are about anything."""
        return float(special.expit(self.states.log_factor - self.named.log_factor))

    def logits(self, named: Floats, states: Floats) -> Floats:
        """Posterior mean logits (n,) of pairs, given that the verdicts are about anything.

        Args:
            named: (n, k): differences in named features.
            states: (n, p): differences of states in units of the start's scale.
        """
        along = (1 - self.share) * (named @ self.named.w) + self.share * (states @ self.states.w)
        return np.asarray(along)


def fit_joint(votes: Votes, prior: SparsePrior, states: Floats) -> JointFit:
    """Fit verdicts on named features (`Votes.x`) and on states (R, p), and weigh both.

    Raises:
        UsageError: another number of rows, or what either fit refuses.
    """
    if len(states) != len(votes.x):
        raise UsageError(f"verdicts: {len(votes.x)} rows of features, {len(states)} of states")
    named = sparse_regression.fit_sparse(votes, prior)
    dense = state_regression.fit_states(states, votes.up, votes.down, votes.plus_on_a)
    factor = float(np.logaddexp(named.log_factor, dense.log_factor)) - math.log(2)
    return JointFit(named, dense, float(special.expit(factor + special.logit(prior.signal))))
