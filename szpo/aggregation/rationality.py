"""Weights from each voter's rationality β: how steeply votes follow a difference in value.

A vote o = ±1 of voter j on comparison c of direction r has P(o) = σ(o β_j x_rc), with
x_rc = Δ_r + u_rc: Δ_r is common to the votes on a direction, u_rc to the votes on a comparison.
Both are Gaussian, log β_j is normal, and the mean of |β| is 1. Then the best linear weight of a
vote is β_j. With σ replaced by its quadratic bound (Jaakkola & Jordan 2000),
log σ(z) ≥ log σ(ξ) + (z − ξ)/2 − λ(ξ)(z² − ξ²), λ(ξ) = tanh(ξ/2)/4ξ, every step of the EM has a
closed form, except the mean of β, which is a sum over a grid.

A voter is judged by the *other* voters' votes on x, never by their own. Voters on one comparison
share x_rc. Where every comparison is answered once (M = 1) they share only Δ_r, and u is 0.
Pure arithmetic over arrays with any leading axes, as in `szpo.aggregation.weighting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from szpo.aggregation import weighting
from szpo.aggregation.weighting import HOSTILE_Z, History, View, normalise
from szpo.types import Floats

_LOG_BETA: Final = np.linspace(-3.0, 2.0, 41)
_ROUNDS: Final = 40
"""Rounds of the power iteration; a fixed number, so that all machines agree."""


@dataclass(frozen=True, slots=True)
class Prior:
    """The prior of `rationality`, chosen on simulated panels."""

    spread: float = 0.7
    """Standard deviation of log β among voters, updated from the votes."""
    voters: float = 4.0
    """Pseudo-count of ``spread``, in voters."""
    hostile: float = 0.05
    """Probability that a voter's β is negative."""
    scale: float = 0.85
    """Root mean square of Δ, and of u, in logits of a mean voter."""
    directions: float = 8.0
    """Pseudo-count of ``scale``, in directions (for u: in comparisons)."""
    passes: int = 15
    """Rounds of the EM."""


@dataclass(frozen=True, slots=True)
class Rationality:
    """The fitted model, per voter (..., P)."""

    weights: Floats
    """``beta``, scaled so that Σw² = Σ|w|."""
    beta: Floats
    """Posterior mean of β, below 0 only for z ≤ −3; over the panel |β| has mean 1."""
    low: Floats
    high: Floats
    """``low`` and ``high``: 95 % interval of |β| for the likelier sign."""
    z: Floats
    """Agreement with the other voters, in standard errors above chance."""


@dataclass(frozen=True, slots=True)
class _Votes:
    """Votes for a side, as the model uses them."""

    own: Floats
    """+1 plus, −1 minus, 0 no vote or a tie (..., P, R, N)."""
    asked: Floats
    """1 where there is a vote for a side (..., P, R, N)."""
    shared: Floats
    """(..., 1): 1 if some comparison has several such votes, so that u is modelled; else 0."""

    @classmethod
    def of(cls, history: History) -> _Votes:
        """The votes of the latest directions."""
        own = _own(history)
        asked = np.abs(own)
        return cls(own, asked, ((asked.sum(-3) > 1).any((-2, -1)) * 1.0)[..., None])


def rationality(
    history: History, prior: Prior | None = None, view: View | None = None
) -> Rationality:
    """One weight per voter from all votes so far; voters of equal rationality have weight 1.

    Ties carry no information on β. Voters without votes have the prior's mean. A ``view`` replaces
    the other voters' votes as the posterior of x, in logits of the mean voter.
    """
    prior = Prior() if prior is None else prior
    votes = _Votes.of(history)
    lead = votes.own.shape[:-3]
    beta = start(history)
    delta2, noise2 = np.full((*lead, 1), prior.scale**2), votes.shared * prior.scale**2
    spread = np.full((*lead, 1), prior.spread)
    bound = np.full(votes.own.shape, 1 / 8)  # λ(0)
    low, high, z = np.zeros_like(beta), np.zeros_like(beta), np.zeros_like(beta)
    fixed = None
    if view is not None:  # one per direction, used for each of its comparisons
        fixed = View(*(v[..., -weighting.ROWS :, None] for v in (view.mean, view.variance)))
    if fixed is not None:
        beta = np.ones_like(beta)
    for _ in range(prior.passes):
        seen = _rest(votes, beta, bound, delta2, noise2) if fixed is None else fixed
        square = seen.mean**2 + seen.variance
        bound = _lambda(np.sqrt(square) * np.abs(beta)[..., None, None])  # ξ² = β² E x²
        z = _z(votes, seen)
        agreed = (votes.own * seen.mean).sum((-2, -1)) / 2
        worth = (votes.asked * bound * square).sum((-2, -1))
        beta, low, high, wide2 = _betas(agreed, worth, z, spread, prior)
        spread = np.sqrt(
            (wide2.sum(-1, keepdims=True) + prior.voters * prior.spread**2)
            / (beta.shape[-1] + prior.voters)
        )
        bar = np.abs(beta).mean(-1, keepdims=True)
        bar = np.where(bar > 0, bar, 1.0)
        beta, low, high = beta / bar, low / bar, high / bar  # the mean of |β| is 1
        delta2, noise2 = _update_scales(
            votes, beta, bound, delta2 * bar**2, noise2 * bar**2, prior
        )
    return Rationality(normalise(beta), beta, low, high, z)


def start(history: History, votes: float = 8.0) -> Floats:
    """The start of the EM (..., P): the leading eigenvector of the voters' agreement, ≥ 0.

    The matrix of two voters' mean agreement on a direction, without its diagonal, is proportional
    to ββᵀ to first order (spectral Dawid–Skene; Ghosh, Kale & McAfee 2011). Power iteration starts
    from equal voters, and stays there if no two votes can be compared. The majority gives the
    sign. A voter with ``votes`` votes starts halfway between the eigenvector and the prior's 1.
    """
    own = _own(history)
    net, count = own.sum(-1), np.abs(own).sum(-1)
    pairs = np.einsum("...pr,...qr->...pq", count, count)
    agree = np.einsum("...pr,...qr->...pq", net, net) / np.maximum(pairs, 1.0)
    agree = agree * (1 - np.eye(agree.shape[-1]))
    shift = np.abs(agree).sum(-1).max(-1, initial=0.0)[..., None] / 2 + 1e-9
    found = np.ones(net.shape[:-1])
    for _ in range(_ROUNDS):
        found = (agree @ found[..., None])[..., 0] + shift * found
        found = found / np.maximum(np.abs(found).max(-1, initial=0.0)[..., None], 1e-300)
    side = np.where(np.sign(found).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    found = side * found
    found = found / np.maximum(np.abs(found).mean(-1, keepdims=True), 1e-300)
    share = count.sum(-1) / (count.sum(-1) + votes)
    return np.asarray(np.clip(share * found + (1 - share), 0.0, 3.0))


def _own(history: History) -> Floats:
    verdicts: NDArray[np.int8] = history.verdicts[..., -weighting.ROWS :, :]
    return np.where(np.abs(verdicts) == 1, verdicts, 0).astype(np.float64)


def _messages(votes: _Votes, beta: Floats, bound: Floats) -> tuple[Floats, Floats]:
    """The precision, and precision times mean, that each vote contributes to x (..., P, R, N)."""
    b = beta[..., None, None]
    return 2 * bound * b * b * votes.asked, votes.own * b / 2  # 2λβ², oβ/2


def _rest(votes: _Votes, beta: Floats, bound: Floats, delta2: Floats, noise2: Floats) -> View:
    """Posterior of x from the other votes on the comparison and the direction.

    ``delta2`` and ``noise2`` (..., 1) are E Δ² and E u².
    """
    precise, pull = _messages(votes, beta, bound)
    precise = np.maximum(precise.sum(-3, keepdims=True) - precise, 0.0)
    pull = pull.sum(-3, keepdims=True) - pull
    noise, prior = noise2[..., None, None], 1 / delta2[..., None, None]
    damp = 1 / (1 + precise * noise)
    far, drawn = precise * damp, pull * damp
    through = prior + far.sum(-1, keepdims=True) - far  # Δ without this comparison
    spread = 1 / through + noise
    middle = (drawn.sum(-1, keepdims=True) - drawn) / through
    whole = 1 / spread + precise
    return View((middle / spread + pull) / whole, 1 / whole)


def _update_scales(
    votes: _Votes, beta: Floats, bound: Floats, delta2: Floats, noise2: Floats, prior: Prior
) -> tuple[Floats, Floats]:
    """E Δ² and E u² given all votes, each shrunk to the prior by its pseudo-count."""
    precise, pull = (part.sum(-3) for part in _messages(votes, beta, bound))  # (..., R, N)
    noise = noise2[..., None]
    damp = 1 / (1 + precise * noise)
    through = 1 / delta2 + (precise * damp).sum(-1)
    middle = (pull * damp).sum(-1) / through
    voted = votes.asked.any((-3, -1)) * 1.0
    total = (voted * (middle**2 + 1 / through)).sum(-1, keepdims=True)
    worth = prior.directions
    found = (total + worth * prior.scale**2) / (voted.sum(-1, keepdims=True) + worth)
    gain = noise * damp
    mean = gain * (pull - precise * middle[..., None])
    second = mean**2 + gain + (gain * precise) ** 2 / through[..., None]
    voted = votes.asked.any(-3) * 1.0
    total = (voted * second).sum((-2, -1))[..., None]
    size = voted.sum((-2, -1))[..., None]
    return found, votes.shared * (total + worth * prior.scale**2) / (size + worth)


def _betas(
    agreed: Floats, worth: Floats, z: Floats, spread: Floats, prior: Prior
) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean β, interval of |β|, mean squared distance of log β from its prior mean; (..., P)."""
    size = np.exp(_LOG_BETA)
    off = _LOG_BETA + spread[..., None] ** 2 / 2  # so that E|β| = 1
    log = -worth[..., None] * size**2 - off**2 / (2 * spread[..., None] ** 2)
    both = [log + side * agreed[..., None] * size for side in (1, -1)]
    top = np.maximum(both[0].max(-1), both[1].max(-1))[..., None]
    fair, against = (np.exp(part - top) for part in both)
    fair, against = (1 - prior.hostile) * fair, prior.hostile * against
    total = (fair + against).sum(-1)
    mean = ((fair - against) * size).sum(-1) / total
    mean = np.where((mean < 0) & (z > -HOSTILE_Z), 0.0, mean)
    mean = np.where((mean > 0) & (z <= -HOSTILE_Z), 0.0, mean)
    likelier = np.where((fair.sum(-1) >= against.sum(-1))[..., None], fair, against)
    below = np.cumsum(likelier, axis=-1) / likelier.sum(-1, keepdims=True)
    low, high = (size[(below < edge).sum(-1).clip(max=len(size) - 1)] for edge in (0.025, 0.975))
    wide2 = ((fair + against) * off**2).sum(-1) / total
    return mean, low, high, wide2


def _z(votes: _Votes, seen: View) -> Floats:
    """Σ o t over its standard deviation for a voter who clicks at random; t = tanh(x̂/2)."""
    t = np.tanh(seen.mean / 2)
    square = (votes.asked * t * t).sum((-2, -1))
    return np.asarray((votes.own * t).sum((-2, -1)) / np.sqrt(np.maximum(square, 1e-12)))


def _lambda(xi: Floats) -> Floats:
    """tanh(ξ/2)/4ξ, 1/8 at 0."""
    safe = np.maximum(xi, 1e-6)
    return np.asarray(np.tanh(safe / 2) / (4 * safe))
