"""How much each voter counts: a separate stage between the counted votes and the update.

``equal`` counts every vote once. ``skill``, ``rationality`` and ``dawid-skene`` learn from earlier
steps how far each voter goes with the rest, and give one weight per voter (docs/weighting.md says
which when). ``shrunk-logits`` and ``median`` need no history: they make one Δ̂ per direction out
of one logit per voter, however many votes each gave. A mean of logits listens most to the most
decided voters, liars included; it is the median that withstands a hostile minority.

Pure arithmetic over arrays with any leading axes; voters are columns in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from szpo.aggregation import estimators
from szpo.types import Floats, Ints, Tally

Weighting = Literal["equal", "skill", "rationality", "dawid-skene", "shrunk-logits", "median"]
WEIGHTINGS: Final[tuple[Weighting, ...]] = get_args(Weighting)
LEARNT: Final[tuple[Weighting, ...]] = ("skill", "rationality", "dawid-skene")
"""Those with one weight per voter, learnt from earlier steps: see `weighted_votes.learnt`."""
PLUS, MINUS, TIE = 1, -1, 2
"""What a voter said of a comparison; 0 is nothing."""

SHRINK: Final = 4.0
"""A voter's m votes on a direction weigh m/(m + 4)."""
ROWS: Final = 512
"""Weights are learnt from the last so many directions."""
HOSTILE_Z: Final = 3.0
"""Standard errors below chance from which a voter's votes count for the other side."""
CLEAR: Final = 2.5
"""Known questions are taken to be at most so many times as clear as a run's own."""
_LIMIT: Final = 0.95
_GRID: Final = np.linspace(-_LIMIT, _LIMIT, 39)


@dataclass(frozen=True, slots=True)
class Prior:
    """What `skill` believes before it has seen anything; chosen on simulated panels."""

    coin: float = 0.4
    """2·accuracy − 1 of the panel."""
    votes: float = 8.0
    """How many votes that is worth."""
    alike: float = 0.8
    """Probability that a voter is as accurate as the panel; else anything is as likely."""
    passes: int = 10
    """Rounds of judging voters by the rest and the rest by its voters."""


@dataclass(frozen=True, slots=True)
class Ballots:
    """One step's counted votes by voter: ``said`` (..., P, K, N) holds `PLUS`, `MINUS`, `TIE`, 0.

    ``gold``: answers to known questions up to the step's close (..., P, 2): right ones, all.
    """

    voters: tuple[str, ...]
    said: NDArray[np.int8]
    identical: NDArray[np.bool_]
    gold: Floats | None = None

    def tally(self, weights: Floats | None = None) -> Tally:
        """Counts (..., K, N); a negative weight counts a vote for the other side."""
        return Tally(*weighted(self.said, weights), self.identical)


@dataclass(frozen=True, slots=True)
class History:
    """What each voter said of past directions: (..., P, R, N), rows in order of time."""

    voters: tuple[str, ...]
    steps: Ints
    said: NDArray[np.int8]
    gold: Floats
    """Right and all answers to known questions (..., P, 2)."""

    @classmethod
    def empty(cls, comparisons: int, lead: tuple[int, ...] = ()) -> History:
        """Nothing yet, for N comparisons per direction."""
        said = np.zeros((*lead, 0, 0, comparisons), dtype=np.int8)
        return cls((), np.zeros(0, dtype=np.int64), said, np.zeros((*lead, 0, 2)))


@dataclass(frozen=True, slots=True)
class Skill:
    """What `skill` found, per voter (..., P)."""

    weights: Floats
    coin: Floats
    """2·accuracy − 1, in (−1, 1)."""
    z: Floats
    """Agreement with the rest in standard errors above chance."""


def weighted(
    said: NDArray[np.int8], weights: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Votes for plus, for minus and ties, summed over voters: (..., P, K, N) → (..., K, N)."""
    if weights is None:
        plus, minus, tie = ((said == what).sum(-3) * 1.0 for what in (PLUS, MINUS, TIE))
        return plus, minus, tie
    weight = weights[..., None, None]
    value = np.where(np.abs(said) == 1, said * weight, 0.0)
    ties = np.where(said == TIE, np.abs(weight), 0.0)
    return np.maximum(value, 0.0).sum(-3), np.maximum(-value, 0.0).sum(-3), ties.sum(-3)


def squares(said: NDArray[np.int8], weights: Floats) -> tuple[Floats, Floats]:
    """Sums of squared weights (..., K, N): of all votes of a comparison, and of its ties."""
    square = (weights * weights)[..., None, None]
    every = np.where(said != 0, square, 0.0).sum(-3)
    return every, np.where(said == TIE, square, 0.0).sum(-3)


def joined(history: History, voters: Sequence[str]) -> History:
    """The history with columns for these voters too."""
    both = tuple(sorted({*history.voters, *voters}))
    if both == history.voters:
        return history
    old = _places(history.voters, both)
    lead = history.said.shape[:-3]
    said = np.zeros((*lead, len(both), *history.said.shape[-2:]), dtype=np.int8)
    said[..., old, :, :] = history.said
    gold = np.zeros((*lead, len(both), 2))
    gold[..., old, :] = history.gold
    return History(both, history.steps, said, gold)


def seated(ballots: Ballots, voters: Sequence[str]) -> Ballots:
    """The ballots with a column for each of ``voters``, who include its own."""
    if tuple(voters) == ballots.voters:
        return ballots
    new = _places(ballots.voters, voters)
    shape = ballots.said.shape
    said = np.zeros((*shape[:-3], len(voters), *shape[-2:]), dtype=np.int8)
    said[..., new, :, :] = ballots.said
    gold = None
    if ballots.gold is not None:
        gold = np.zeros((*shape[:-3], len(voters), 2))
        gold[..., new, :] = ballots.gold
    return Ballots(tuple(voters), said, ballots.identical, gold)


def remember(history: History, step: int, ballots: Ballots, rows: int = ROWS) -> History:
    """The history after a step, its last ``rows`` directions; identical comparisons left out."""
    history = joined(history, ballots.voters)
    ballots = seated(ballots, history.voters)
    live = np.where(ballots.identical[..., None, :, :], np.int8(0), ballots.said)
    steps = np.full(live.shape[-2], step, dtype=np.int64)
    return History(
        history.voters,
        np.concatenate([history.steps, steps])[-rows:],
        np.concatenate([history.said, live], axis=-2)[..., -rows:, :],
        history.gold if ballots.gold is None else ballots.gold,
    )


def skill(history: History, prior: Prior | None = None) -> Skill:
    """One weight per voter from what all have said so far: 1 each for voters of equal skill.

    One coin per voter: on the better side of a direction with probability ½(1 + r). What the rest
    thinks of a direction is t = tanh(½ Σ log((1 + r)/(1 − r)) · (votes for − against)); a voter's
    r is estimated from the agreement of own votes with t, given that it is the panel's or, with
    probability 1 − ``alike``, anything. The two are taken in turns, from equal voters on. Known
    questions can cost agreement, never win it: whoever answers them like everybody else may still
    be hostile where nobody knows the answer. Weights go with the log-odds of r, below 0 only from
    three standard errors on, and are scaled so that Σw² = Σ|w|: silenced voters do not make the
    others louder.
    """
    known = Prior() if prior is None else prior
    said = history.said[..., -ROWS:, :]
    net = ((said == PLUS).sum(-1) - (said == MINUS).sum(-1)).astype(np.float64)  # (..., P, R)
    count = (np.abs(said) == 1).sum(-1).astype(np.float64)
    right, asked = history.gold[..., 0], history.gold[..., 1]
    coin = np.full(count.shape[:-1], known.coin)
    bar = np.full((*count.shape[:-2], 1), known.coin)
    for _ in range(known.passes):
        own = net * (2 * np.arctanh(coin))[..., None]
        rest = np.tanh((own.sum(-2, keepdims=True) - own) / 2)
        agreed, worth = (net * rest).sum(-1), (count * rest * rest).sum(-1)
        lost, variance = _short(right, asked, bar)
        coin, bar = _coins(agreed, lost, worth, bar, known)
    z = (agreed + lost) / np.sqrt(np.maximum(worth + variance, 1e-12))
    log_odds = 2 * np.arctanh(coin)
    return Skill(normalised(silenced(log_odds, z)), coin, z)


def silenced(weights: Floats, z: Floats) -> Floats:
    """Weights (..., P) with 0 for each below 0 that is not surely so: z > −`HOSTILE_Z`."""
    return np.where((weights < 0) & (z > -HOSTILE_Z), 0.0, weights)


def normalised(weights: Floats) -> Floats:
    """Weights (..., P) scaled to Σw² = Σ|w|, as if each were a number of votes; all 0 stays 0."""
    size, power = np.abs(weights).sum(-1), (weights * weights).sum(-1)
    scale = np.where(power > 0, size / np.where(power > 0, power, 1.0), 1.0)
    return np.asarray(weights * scale[..., None])


def shrunk_logits(ballots: Ballots) -> Floats:
    """Δ̂ (..., K): mean over voters of log((k+½)/(m−k+½)) · m/(m+4).

    k of a voter's m votes on the direction are for plus, a tie is half a vote; comparisons that
    were identical pull towards 0 by their share.
    """
    values, weights, share = _logits(ballots)
    voters = np.maximum((weights > 0).sum(-2), 1)
    # Voter by voter, so that the sum is the same on every machine.
    return _clean(share * estimators.ordered_sum(np.swapaxes(values, -1, -2)) / voters)


def median(ballots: Ballots) -> Floats:
    """Δ̂ (..., K): the middle of the same over voters, each weighing m/(m+4).

    The mean over the middle fifth of the weight: for five voters of equal weight their median, for
    more of them steadier than it, and as long as fewer than two fifths are hostile they are not in
    it.
    """
    values, weights, share = _logits(ballots)
    order = np.argsort(values, axis=-2, kind="stable")
    values = np.take_along_axis(values, order, -2)
    weights = np.take_along_axis(weights, order, -2)
    upper = np.cumsum(weights, axis=-2)
    whole = upper[..., -1:, :]
    inside = np.minimum(upper, 0.6 * whole) - np.maximum(upper - weights, 0.4 * whole)
    inside = np.maximum(inside, 0.0)
    total = estimators.ordered_sum(np.swapaxes(values * inside, -1, -2))
    size = whole[..., 0, :] / 5
    return _clean(share * total / np.where(size > 0, size, 1.0))


def flip_share(ballots: Ballots, weights: Floats, lead: Callable[[Ballots], Floats]) -> float:
    """Smallest share of a step's voters who could have turned it round, in [0, 1].

    ``lead`` gives what moves each direction (K,), a function of the ballots. A direction's voters
    are switched to voting against its lead throughout, those who move most first, until the lead
    has the other sign; the share of them is the direction's, the smallest of the directions the
    step's. 0 where no direction has a lead; 1 where even all of them could not. Without leading
    axes.
    """
    found = lead(ballots)
    shares = [
        _flip(ballots, weights, lead, k, float(np.sign(value)))
        for k, value in enumerate(found)
        if value != 0
    ]
    return min(shares, default=0.0)


def enough(moves: Floats, wanted: float) -> float:
    """The share of the entries (P,), largest first, whose sum passes ``wanted``; 1 if none does.

    >>> enough(np.array([1.0, 3.0, 1.0, 1.0]), 2.5)
    0.25
    """
    total = np.cumsum(np.sort(moves)[::-1])
    passed = np.flatnonzero(total > wanted)
    return float((passed[0] + 1) / len(moves)) if len(passed) else 1.0


def _flip(
    ballots: Ballots, weights: Floats, lead: Callable[[Ballots], Floats], k: int, side: float
) -> float:
    """Bisection over how many of the direction's voters are switched: each one only adds."""
    said = ballots.said[:, k]
    live = (said != 0) & ~ballots.identical[k]
    against = np.where(weights < 0, side, -side)[:, None]
    moved = np.where(said == TIE, 0.5, said != against) * live * np.abs(weights)[:, None]
    voters = np.flatnonzero(live.any(-1) & (weights != 0))
    order = voters[np.argsort(-moved.sum(-1)[voters], kind="stable")]

    def turned(number: int) -> bool:
        chosen = order[:number]
        after = ballots.said.copy()
        after[chosen, k] = np.where(live[chosen], against[chosen], said[chosen])
        return float(lead(replace(ballots, said=after))[k]) * side < 0

    low, high = 0, len(order)
    if not turned(high):
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if turned(middle) else (middle, high)
    return high / int(live.any(-1).sum())


def _coins(
    agreed: Floats, lost: Floats, worth: Floats, bar: Floats, prior: Prior
) -> tuple[Floats, Floats]:
    """Each voter's r and the panel's, from Σ o·t and Σ t² (log(1 + rot) to second order).

    What known questions cost a voter is not laid at the panel's door.
    """
    score = agreed + lost
    like = score[..., None] * _GRID - worth[..., None] * _GRID**2 / 2
    top = like.max(-1, keepdims=True)
    odd = np.exp(like - top)
    same = prior.alike * np.exp(score * bar - worth * bar**2 / 2 - top[..., 0])
    typical = same / (same + (1 - prior.alike) * odd.mean(-1))
    pooled = (typical * agreed).sum(-1, keepdims=True) + prior.coin * prior.votes
    bar = pooled / ((typical * worth).sum(-1, keepdims=True) + prior.votes)
    bar = np.clip(bar, 0.05, _LIMIT)
    free = (odd * _GRID).sum(-1) / odd.sum(-1)
    return np.clip(typical * bar + (1 - typical) * free, -_LIMIT, _LIMIT), bar


def _short(right: Floats, asked: Floats, bar: Floats) -> tuple[Floats, Floats]:
    """How far known answers fall short of the panel's, as agreement lost, and its variance.

    Such questions are clearer than a run's by the panel's r there over its r here; who answers
    them as well as the panel is neither better nor worse for it.
    """
    score = 2 * right - asked
    panel = (score.sum(-1, keepdims=True) + 9) / (asked.sum(-1, keepdims=True) + 10)
    clear = np.clip(panel / bar, 1.0, CLEAR)
    short = np.minimum(score - asked * panel, 0.0)
    return short * clear, np.where(short < 0, asked * clear**2, 0.0)


def _logits(ballots: Ballots) -> tuple[Floats, Floats, Floats]:
    """Shrunk logits and weights m/(m+4) of voters (..., P, K); share of comparisons asked."""
    live = ~ballots.identical
    said = np.where(live[..., None, :, :], ballots.said, np.int8(0))
    m = (said != 0).sum(-1).astype(np.float64)
    k = (said == PLUS).sum(-1) + 0.5 * (said == TIE).sum(-1)
    weights = m / (m + SHRINK)
    heard = (said != 0).any(-3)
    share = heard.sum(-1) / np.maximum((heard | ballots.identical).sum(-1), 1)
    return estimators.haldane(k, m) * weights, weights, share


def _clean(delta: Floats) -> Floats:
    """What rounding leaves of votes that cancel is 0, so that it moves nothing."""
    return np.where(np.abs(delta) < 1e-12, 0.0, delta)


def _places(some: Sequence[str], every: Sequence[str]) -> Ints:
    where = {voter: place for place, voter in enumerate(every)}
    return np.array([where[voter] for voter in some], dtype=np.int64)
