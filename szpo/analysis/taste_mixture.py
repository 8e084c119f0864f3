"""A mixture of K tastes, one for each panelist, fitted to a few hundred votes.

The reward under taste k is r(x, z = k) = xᵀw_k. With K values of z the posterior q(z | votes) is
computed, not learned by an encoder, so the evidence lower bound is tight and
expectation–maximisation raises it (Dempster, Laird and Rubin, 1977). Pure arithmetic; the encoder
of `szpo_simulators.vpl.model` needs thousands of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from szpo import seeds
from szpo.types import Floats, Ints

RIDGE = 1.0
"""Precision of the prior on a cluster's weight, in logits per deviation of a difference."""
STARTS = 8
ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Mixture:
    """K tastes and who has which."""

    weights: Floats
    """(K, p), the taste of most panelists first."""
    shares: Floats
    """(K,)"""
    posterior: Floats
    """(G, K) probability of each taste, given a panelist's votes."""
    bound: float
    """Log-posterior reached, nats."""

    @property
    def members(self) -> Ints:
        """(G,) the likeliest taste of each panelist."""
        found: Ints = np.argmax(self.posterior, axis=1).astype(np.int64)
        return found

    def predict(self, x: Floats, who: Ints) -> Floats:
        """Probability of plus (n,) for panelists who, each by their posterior."""
        return np.asarray((special.expit(x @ self.weights.T) * self.posterior[who]).sum(-1))


def fit_mixture(x: Floats, y: Floats, who: Ints, groups: int, k: int, key: bytes) -> Mixture:
    """Fit K tastes: the best of `STARTS` runs of expectation–maximisation, all of them at once.

    Args:
        x: standardised differences (n, p).
        y: votes (n,): 1 plus, 0 minus, ½ tie.
        who: (n,) panelist of each vote, 0 … G − 1; one without votes has the prior.
        groups: G.
        k: number of tastes.
        key: names the starts.
    """
    n, p = x.shape
    starts = STARTS if k > 1 else 1
    u = seeds.uniform(key, starts * groups * k).reshape(starts, groups, k)
    posterior = -np.log1p(-u)  # exponential draws, normalised: anywhere on the simplex
    posterior /= posterior.sum(-1, keepdims=True)
    w = np.zeros((starts, k, p))
    bound = np.zeros(starts)
    one_hot = np.zeros((groups, n))
    one_hot[who, np.arange(n)] = 1.0
    for _ in range(ROUNDS):
        responsibility = np.swapaxes(posterior[:, who], 1, 2)  # q(z | votes), (starts, k, n)
        for _ in range(2):  # M step by Newton; EM needs no more than a rise
            chance = special.expit(w @ x.T)
            gradient = (responsibility * (y - chance)) @ x - RIDGE * w
            curve = responsibility * chance * (1 - chance)
            information = np.einsum("skn,ni,nj->skij", curve, x, x, optimize=True)
            information += RIDGE * np.eye(p)
            w = w + np.clip(np.linalg.solve(information, gradient[..., None])[..., 0], -2, 2)
        shares = (posterior.sum(1) + 1) / (groups + k)  # one phantom panelist for each taste
        logit = w @ x.T
        each = y * special.log_expit(logit) + (1 - y) * special.log_expit(-logit)
        # E step: q(z | votes) ∝ share of z · likelihood of the panelist's votes
        joint = np.swapaxes(each @ one_hot.T, 1, 2) + np.log(shares)[:, None]  # (starts, G, k)
        evidence = special.logsumexp(joint, axis=-1)
        posterior = np.exp(joint - evidence[..., None])
        bound = evidence.sum(-1) - RIDGE / 2 * (w**2).sum((-1, -2)) + np.log(shares).sum(-1)
    best = int(np.argmax(bound))
    order = np.argsort(-posterior[best].sum(0), kind="stable")
    return Mixture(
        w[best][order], shares[best][order], posterior[best][:, order], float(bound[best])
    )
