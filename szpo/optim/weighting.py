"""How much each voter counts: by shares of the votes, by skill, or by rationality.

``equal`` counts every vote once. ``skill`` and ``rationality`` learn from earlier steps how far
each voter agrees with the others, and give one weight per voter. docs/reference/settings.md
says when to use which.

`LEARNED` has them by name; a new one is a function and an entry here. Pure arithmetic over arrays
with any leading axes; voters are in the order of their ids.

Weights from each voter's rationality β: how steeply votes follow a difference in value.

A vote o = ±1 of voter j on comparison c of direction r has P(o) = σ(o β_j x_rc), with
x_rc = Δ_r + u_rc: Δ_r is common to the votes on a direction, u_rc to the votes on a comparison.
Both are Gaussian, log β_j is normal, and the mean of |β| is 1. Then the best linear weight of a
vote is β_j. With σ replaced by its quadratic bound (Jaakkola & Jordan 2000),
log σ(z) ≥ log σ(ξ) + (z − ξ)/2 − λ(ξ)(z² − ξ²), λ(ξ) = tanh(ξ/2)/4ξ, every step of the EM has a
closed form, except the mean of β, which is a sum over a grid.

A voter is judged by the *other* voters' votes on x, never by their own. Voters on one comparison
share x_rc. Where every comparison is answered once (M = 1) they share only Δ_r, and u is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats, Ints, Tally

Number = TypeVar("Number", np.int8, np.float64)
PLUS, MINUS, TIE = 1, -1, 2
"""A voter's verdict on a comparison; 0 is no vote."""

ROWS: Final = 512
"""Weights are learned from the votes on at most this many of the latest directions."""
HOSTILE_Z: Final = 3.0
"""Standard errors below chance from which a voter's votes count for the other side."""
CLEAR: Final = 2.5
"""Gold questions count as at most this many times as clear as a run's own comparisons."""
_LIMIT: Final = 0.95
_GRID: Final = np.linspace(-_LIMIT, _LIMIT, 39)


# The prior of `skill`, chosen on simulated panels.
_COIN: Final = 0.4
"""2·accuracy − 1 of the panel."""
_COIN_VOTES: Final = 8.0
"""Pseudo-count of `_COIN`, in votes."""
_TYPICAL: Final = 0.8
"""Probability that a voter is as accurate as the panel; otherwise all values are as likely."""
_TURNS: Final = 10
"""Rounds of alternating between voters' skills and the directions' better sides."""


@dataclass(frozen=True, slots=True)
class VotesByVoter:
    """One step's counted votes by voter; ``verdicts`` (..., P, K, N): `PLUS`, `MINUS`, `TIE`, 0.

    ``gold`` (..., P, 2): right and all answers to known questions up to the step's close.
    """

    voters: tuple[str, ...]
    verdicts: NDArray[np.int8]
    identical: NDArray[np.bool_]
    gold: Floats | None = None

    def tally(self, weights: Floats | None = None) -> Tally:
        """Counts (..., K, N), weighted; a vote of negative weight counts for the other side."""
        return Tally(*sum_votes(self.verdicts, weights), self.identical)

    def alone(self) -> VotesByVoter:
        """The same votes with each comparison as a direction of its own: (..., P, K·N, 1)."""
        *lead, k, n = self.verdicts.shape
        identical = self.identical.reshape(*self.identical.shape[:-2], k * n, 1)
        return replace(self, verdicts=self.verdicts.reshape(*lead, k * n, 1), identical=identical)


Lead = Callable[[VotesByVoter], Floats]
"""The signed lead of plus on each direction (K,), as a function of a step's votes."""


@dataclass(frozen=True, slots=True)
class History:
    """Each voter's verdicts on past directions (..., P, R, N), the oldest first."""

    voters: tuple[str, ...]
    steps: Ints
    verdicts: NDArray[np.int8]
    gold: Floats
    """Right and all answers to known questions (..., P, 2)."""

    @classmethod
    def empty(cls, comparisons: int, lead: tuple[int, ...] = ()) -> History:
        """The empty history, for N comparisons per direction."""
        verdicts = np.zeros((*lead, 0, 0, comparisons), dtype=np.int8)
        return cls((), np.zeros(0, dtype=np.int64), verdicts, np.zeros((*lead, 0, 2)))

    def of(self, which: Sequence[int]) -> History:
        """The verdicts of some voters, by their places among all."""
        voters = tuple(self.voters[i] for i in which)
        return History(
            voters, self.steps, self.verdicts[..., which, :, :], self.gold[..., which, :]
        )


View: TypeAlias = tuple[Floats, Floats]
"""A model's prediction from all other voters' votes for each direction: mean and variance
(..., P, R) of a logit for plus. It replaces the other votes on the same direction, since there may
be none."""


@dataclass(frozen=True, slots=True)
class Skill:
    """The fitted model of `skill`, per voter (..., P)."""

    weights: Floats
    z: Floats
    """Agreement with the other voters, in standard errors above chance."""


def sum_votes(
    verdicts: NDArray[np.int8], weights: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Votes for plus, for minus and ties, summed over voters: (..., P, K, N) → (..., K, N)."""
    if weights is None:
        plus, minus, tie = ((verdicts == what).sum(-3) * 1.0 for what in (PLUS, MINUS, TIE))
        return plus, minus, tie
    weight = weights[..., None, None]
    value = np.where(np.abs(verdicts) == 1, verdicts * weight, 0.0)
    ties = np.where(verdicts == TIE, np.abs(weight), 0.0)
    return np.maximum(value, 0.0).sum(-3), np.maximum(-value, 0.0).sum(-3), ties.sum(-3)


def add_voters(history: History, voters: Sequence[str]) -> History:
    """The history with entries for these voters too."""
    both = tuple(sorted({*history.voters, *voters}))
    if both == history.voters:
        return history
    verdicts = _widen(history.verdicts, -3, history.voters, both)
    return History(both, history.steps, verdicts, _widen(history.gold, -2, history.voters, both))


def align(by_voter: VotesByVoter, voters: Sequence[str]) -> VotesByVoter:
    """The votes with an entry for each of ``voters``, who include all voters of the step."""
    if tuple(voters) == by_voter.voters:
        return by_voter
    verdicts, gold = _widen(by_voter.verdicts, -3, by_voter.voters, voters), by_voter.gold
    if gold is not None:
        gold = _widen(gold, -2, by_voter.voters, voters)
    return VotesByVoter(tuple(voters), verdicts, by_voter.identical, gold)


def remember(history: History, step: int, by_voter: VotesByVoter, rows: int = ROWS) -> History:
    """The last ``rows`` directions after a step, without votes on identical comparisons."""
    history = add_voters(history, by_voter.voters)
    by_voter = align(by_voter, history.voters)
    live = np.where(by_voter.identical[..., None, :, :], np.int8(0), by_voter.verdicts)
    steps = np.full(live.shape[-2], step, dtype=np.int64)
    return History(
        history.voters,
        np.concatenate([history.steps, steps])[-rows:],
        np.concatenate([history.verdicts, live], axis=-2)[..., -rows:, :],
        history.gold if by_voter.gold is None else by_voter.gold,
    )


def skill(history: History, view: View | None = None) -> Skill:
    """One weight per voter from all votes so far; voters of equal skill have weight 1.

    A voter votes for the better side of a direction with probability ½(1 + r). The other voters'
    view of a direction is t = tanh(½ Σ log((1 + r)/(1 − r)) · (votes for − against)). A voter's r
    is estimated from the agreement of their votes with t; its prior is the panel's r or, with
    probability 1 − `_TYPICAL`, any value. r and t are updated in turns, starting from equal
    voters. Wrong gold answers lower a voter's agreement, right ones never raise it: a voter who
    answers gold well may still be hostile where nobody knows the answer. Weights are proportional
    to the log-odds of r, below 0 only for z ≤ −3, and scaled so that Σw² = Σ|w|: silencing a
    voter does not make the others louder. With a ``view``, t is its mean 2σ − 1 and stays fixed.
    """
    verdicts = history.verdicts[..., -ROWS:, :]
    net = ((verdicts == PLUS).sum(-1) - (verdicts == MINUS).sum(-1)).astype(
        np.float64
    )  # (..., P, R)
    count = (np.abs(verdicts) == 1).sum(-1).astype(np.float64)
    right, asked = history.gold[..., 0], history.gold[..., 1]
    coin = np.full(count.shape[:-1], _COIN)
    bar = np.full((*count.shape[:-2], 1), _COIN)
    seen = None if view is None else _expected_sign(view)
    for _ in range(_TURNS):
        own = net * (2 * np.arctanh(coin))[..., None]
        rest = np.tanh((own.sum(-2, keepdims=True) - own) / 2) if seen is None else seen
        agreed, worth = (net * rest).sum(-1), (count * rest * rest).sum(-1)
        lost, variance = _gold_shortfall(right, asked, bar)
        coin, bar = _update_coins(agreed, lost, worth, bar)
    z = (agreed + lost) / np.sqrt(np.maximum(worth + variance, 1e-12))
    log_odds = 2 * np.arctanh(coin)
    return Skill(normalise(silence(log_odds, z)), z)


def _expected_sign(view: View) -> Floats:
    """E(2σ(η) − 1) for a Gaussian η (..., P, R), by the usual approximation (π/8)."""
    mean, variance = (each[..., -ROWS:] for each in view)
    return np.tanh(mean / np.sqrt(1 + np.pi * variance / 8) / 2)


def silence(weights: Floats, z: Floats) -> Floats:
    """Set negative weights (..., P) to 0 unless they are significant: z ≤ −`HOSTILE_Z`."""
    return np.where((weights < 0) & (z > -HOSTILE_Z), 0.0, weights)


def normalise(weights: Floats) -> Floats:
    """Scale weights (..., P) so that Σw² = Σ|w|, as for numbers of votes; zeros stay zeros."""
    size, power = np.abs(weights).sum(-1), (weights * weights).sum(-1)
    scale = np.where(power > 0, size / np.where(power > 0, power, 1.0), 1.0)
    return np.asarray(weights * scale[..., None])


def flip_share(by_voter: VotesByVoter, weights: Floats, lead: Lead) -> float:
    """Smallest share of a step's voters who could have reversed its sign, in [0, 1].

    ``lead`` gives the signed lead of each direction (K,) for a step's votes. A direction's voters
    are switched to voting against its lead, those with most effect first, until the lead changes
    sign. The step's share is the smallest of its directions' shares. 0 where no direction has a
    lead; 1 where even all voters could not reverse any. Arrays have no leading axes.
    """
    found = lead(by_voter)
    shares = [
        _flip(by_voter, weights, lead, k, float(np.sign(value)))
        for k, value in enumerate(found)
        if value != 0
    ]
    return min(shares, default=0.0)


def _flip(
    by_voter: VotesByVoter,
    weights: Floats,
    lead: Lead,
    k: int,
    side: float,
) -> float:
    """One direction's share, by bisection: each switched voter only adds to the effect."""
    verdicts = by_voter.verdicts[:, k]
    live = (verdicts != 0) & ~by_voter.identical[k]
    against = np.where(weights < 0, side, -side)[:, None]
    moved = np.where(verdicts == TIE, 0.5, verdicts != against) * live * np.abs(weights)[:, None]
    voters = np.flatnonzero(live.any(-1) & (weights != 0))
    order = voters[np.argsort(-moved.sum(-1)[voters], kind="stable")]

    def is_reversed(number: int) -> bool:
        chosen = order[:number]
        after = by_voter.verdicts.copy()
        after[chosen, k] = np.where(live[chosen], against[chosen], verdicts[chosen])
        return float(lead(replace(by_voter, verdicts=after))[k]) * side < 0

    low, high = 0, len(order)
    if not is_reversed(high):
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_reversed(middle) else (middle, high)
    return high / int(live.any(-1).sum())


def _update_coins(
    agreed: Floats, lost: Floats, worth: Floats, bar: Floats
) -> tuple[Floats, Floats]:
    """Each voter's r and the panel's, from Σ o·t and Σ t² (log(1 + r·o·t) to second order).

    Agreement lost by gold questions lowers the voter's r, never the panel's.
    """
    score = agreed + lost
    like = score[..., None] * _GRID - worth[..., None] * _GRID**2 / 2
    top = like.max(-1, keepdims=True)
    odd = np.exp(like - top)
    same = _TYPICAL * np.exp(score * bar - worth * bar**2 / 2 - top[..., 0])
    typical = same / (same + (1 - _TYPICAL) * odd.mean(-1))
    pooled = (typical * agreed).sum(-1, keepdims=True) + _COIN * _COIN_VOTES
    bar = pooled / ((typical * worth).sum(-1, keepdims=True) + _COIN_VOTES)
    bar = np.clip(bar, 0.05, _LIMIT)
    free = (odd * _GRID).sum(-1) / odd.sum(-1)
    return np.clip(typical * bar + (1 - typical) * free, -_LIMIT, _LIMIT), bar


def _gold_shortfall(right: Floats, asked: Floats, bar: Floats) -> tuple[Floats, Floats]:
    """How far gold answers fall short of the panel's, as lost agreement, and its variance.

    Gold is clearer than a run's comparisons by the panel's r on gold over its r on them. A voter
    who answers gold as well as the panel or better loses and gains nothing.
    """
    score = 2 * right - asked
    panel = (score.sum(-1, keepdims=True) + 9) / (asked.sum(-1, keepdims=True) + 10)
    clear = np.clip(panel / bar, 1.0, CLEAR)
    short = np.minimum(score - asked * panel, 0.0)
    return short * clear, np.where(short < 0, asked * clear**2, 0.0)


def _widen(
    values: NDArray[Number], axis: int, some: Sequence[str], every: Sequence[str]
) -> NDArray[Number]:
    """Extend values of ``some`` voters along an axis to ``every`` voter, with 0 for the others."""
    column = {voter: i for i, voter in enumerate(every)}
    shape = list(values.shape)
    shape[axis] = len(every)
    found = np.zeros(shape, values.dtype)
    places = np.array([column[voter] for voter in some], dtype=np.int64)
    np.moveaxis(found, axis, 0)[places] = np.moveaxis(values, axis, 0)
    return found


_LOG_BETA: Final = np.linspace(-3.0, 2.0, 41)
_ROUNDS: Final = 40
"""Rounds of the power iteration; a fixed number, so that all machines agree."""


# The prior of `rationality`, chosen on simulated panels.
_SPREAD: Final = 0.7
"""Standard deviation of log β among voters, updated from the votes."""
_SPREAD_VOTERS: Final = 4.0
"""Pseudo-count of `_SPREAD`, in voters."""
_HOSTILE: Final = 0.05
"""Probability that a voter's β is negative."""
_SCALE: Final = 0.85
"""Root mean square of Δ, and of u, in logits of a mean voter."""
_SCALE_DIRECTIONS: Final = 8.0
"""Pseudo-count of `_SCALE`, in directions (for u: in comparisons)."""
_PASSES: Final = 15
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


def rationality(history: History, view: View | None = None) -> Rationality:
    """One weight per voter from all votes so far; voters of equal rationality have weight 1.

    Ties carry no information on β. Voters without votes have the prior's mean. A ``view`` replaces
    the other voters' votes as the posterior of x, in logits of the mean voter.
    """
    votes = _Votes.of(history)
    lead = votes.own.shape[:-3]
    beta = start(history)
    delta2, noise2 = np.full((*lead, 1), _SCALE**2), votes.shared * _SCALE**2
    spread = np.full((*lead, 1), _SPREAD)
    bound = np.full(votes.own.shape, 1 / 8)  # λ(0)
    low, high, z = np.zeros_like(beta), np.zeros_like(beta), np.zeros_like(beta)
    if view is not None:
        beta = np.ones_like(beta)
    for _ in range(_PASSES):
        if view is None:
            mean, variance = _rest(votes, beta, bound, delta2, noise2)
        else:  # one per direction, used for each of its comparisons
            mean, variance = (each[..., -ROWS:, None] for each in view)
        square = mean**2 + variance
        bound = _lambda(np.sqrt(square) * np.abs(beta)[..., None, None])  # ξ² = β² E x²
        z = _z(votes, mean)
        agreed = (votes.own * mean).sum((-2, -1)) / 2
        worth = (votes.asked * bound * square).sum((-2, -1))
        beta, low, high, wide2 = _betas(agreed, worth, z, spread)
        spread = np.sqrt(
            (wide2.sum(-1, keepdims=True) + _SPREAD_VOTERS * _SPREAD**2)
            / (beta.shape[-1] + _SPREAD_VOTERS)
        )
        bar = np.abs(beta).mean(-1, keepdims=True)
        bar = np.where(bar > 0, bar, 1.0)
        beta, low, high = beta / bar, low / bar, high / bar  # the mean of |β| is 1
        delta2, noise2 = _update_scales(votes, beta, bound, delta2 * bar**2, noise2 * bar**2)
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
    verdicts: NDArray[np.int8] = history.verdicts[..., -ROWS:, :]
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
    return (middle / spread + pull) / whole, 1 / whole


def _update_scales(
    votes: _Votes, beta: Floats, bound: Floats, delta2: Floats, noise2: Floats
) -> tuple[Floats, Floats]:
    """E Δ² and E u² given all votes, each shrunk to the prior by its pseudo-count."""
    precise, pull = (part.sum(-3) for part in _messages(votes, beta, bound))  # (..., R, N)
    noise = noise2[..., None]
    damp = 1 / (1 + precise * noise)
    through = 1 / delta2 + (precise * damp).sum(-1)
    middle = (pull * damp).sum(-1) / through
    voted = votes.asked.any((-3, -1)) * 1.0
    total = (voted * (middle**2 + 1 / through)).sum(-1, keepdims=True)
    worth = _SCALE_DIRECTIONS
    found = (total + worth * _SCALE**2) / (voted.sum(-1, keepdims=True) + worth)
    gain = noise * damp
    mean = gain * (pull - precise * middle[..., None])
    second = mean**2 + gain + (gain * precise) ** 2 / through[..., None]
    voted = votes.asked.any(-3) * 1.0
    total = (voted * second).sum((-2, -1))[..., None]
    size = voted.sum((-2, -1))[..., None]
    return found, votes.shared * (total + worth * _SCALE**2) / (size + worth)


def _betas(
    agreed: Floats, worth: Floats, z: Floats, spread: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean β, interval of |β|, mean squared distance of log β from its prior mean; (..., P)."""
    size = np.exp(_LOG_BETA)
    off = _LOG_BETA + spread[..., None] ** 2 / 2  # so that E|β| = 1
    log = -worth[..., None] * size**2 - off**2 / (2 * spread[..., None] ** 2)
    both = [log + side * agreed[..., None] * size for side in (1, -1)]
    top = np.maximum(both[0].max(-1), both[1].max(-1))[..., None]
    fair, against = (np.exp(part - top) for part in both)
    fair, against = (1 - _HOSTILE) * fair, _HOSTILE * against
    total = (fair + against).sum(-1)
    mean = ((fair - against) * size).sum(-1) / total
    mean = np.where((mean < 0) & (z > -HOSTILE_Z), 0.0, mean)
    mean = np.where((mean > 0) & (z <= -HOSTILE_Z), 0.0, mean)
    likelier = np.where((fair.sum(-1) >= against.sum(-1))[..., None], fair, against)
    below = np.cumsum(likelier, axis=-1) / likelier.sum(-1, keepdims=True)
    low, high = (size[(below < edge).sum(-1).clip(max=len(size) - 1)] for edge in (0.025, 0.975))
    wide2 = ((fair + against) * off**2).sum(-1) / total
    return mean, low, high, wide2


def _z(votes: _Votes, mean: Floats) -> Floats:
    """Σ o t over its standard deviation for a voter who clicks at random; t = tanh(x̂/2)."""
    t = np.tanh(mean / 2)
    square = (votes.asked * t * t).sum((-2, -1))
    return np.asarray((votes.own * t).sum((-2, -1)) / np.sqrt(np.maximum(square, 1e-12)))


def _lambda(xi: Floats) -> Floats:
    """tanh(ξ/2)/4ξ, 1/8 at 0."""
    safe = np.maximum(xi, 1e-6)
    return np.asarray(np.tanh(safe / 2) / (4 * safe))


LEARNED: Final[Mapping[str, Callable[[History, View | None], Floats]]] = {
    "skill": lambda history, view: skill(history, view).weights,
    "rationality": lambda history, view: rationality(history, view).weights,
}
"""One weight per voter (..., P) from everyone's votes in earlier steps. A `View`, if given, is a
model's prediction from the other voters' votes for each of a voter's directions."""
WEIGHTINGS: Final[tuple[str, ...]] = ("equal", *LEARNED)
