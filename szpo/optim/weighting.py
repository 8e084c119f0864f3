"""How much each voter counts: ``equal`` counts every vote once, ``skill`` weighs voters.

``skill`` learns from earlier steps how far each voter agrees with the others, and gives one weight
per voter; docs/explanation/why-these-choices.md says when to use it. Pure arithmetic over arrays
with any leading axes; voters are in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats, Ints, Tally

Number = TypeVar("Number", np.int8, np.float64)
PLUS, MINUS, TIE = 1, -1, 2
"""A voter's verdict on a comparison; 0 is no vote."""

WEIGHTINGS: Final = ("equal", "skill")

ROWS: Final = 512
"""Weights are learned from the votes on at most this many of the latest directions."""
HOSTILE_Z: Final = 3.0
"""Standard errors below chance from which a voter's votes count for the other side."""
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

View: TypeAlias = tuple[Floats, Floats]
"""A model's prediction from all other voters' votes for each direction: mean and variance
(..., P, R) of a logit for plus. It replaces the other votes on the same direction, since there may
be none."""


@dataclass(frozen=True, slots=True)
class VotesByVoter:
    """One step's counted votes by voter; ``verdicts`` (..., P, K, N) are `PLUS` … `TIE`, or 0."""

    voters: tuple[str, ...]
    verdicts: NDArray[np.int8]
    identical: NDArray[np.bool_]

    def tally(self, weights: Floats | None = None) -> Tally:
        """Counts (..., K, N), weighted; a vote of negative weight counts for the other side."""
        return Tally(*sum_votes(self.verdicts, weights), self.identical)

    def alone(self) -> VotesByVoter:
        """The same votes with each comparison as a direction of its own: (..., P, K·N, 1)."""
        *lead, k, n = self.verdicts.shape
        identical = self.identical.reshape(*self.identical.shape[:-2], k * n, 1)
        return replace(self, verdicts=self.verdicts.reshape(*lead, k * n, 1), identical=identical)


@dataclass(frozen=True, slots=True)
class History:
    """Each voter's verdicts on past directions (..., P, R, N), the oldest first."""

    voters: tuple[str, ...]
    steps: Ints
    verdicts: NDArray[np.int8]

    @classmethod
    def empty(cls, comparisons: int, lead: tuple[int, ...] = ()) -> History:
        """The empty history, for N comparisons per direction."""
        verdicts = np.zeros((*lead, 0, 0, comparisons), dtype=np.int8)
        return cls((), np.zeros(0, dtype=np.int64), verdicts)

    def of(self, which: Sequence[int]) -> History:
        """The verdicts of some voters, by their places among all."""
        voters = tuple(self.voters[i] for i in which)
        return History(voters, self.steps, self.verdicts[..., which, :, :])


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
    return History(both, history.steps, verdicts)


def align(by_voter: VotesByVoter, voters: Sequence[str]) -> VotesByVoter:
    """The votes with an entry for each of ``voters``, who include all voters of the step."""
    if tuple(voters) == by_voter.voters:
        return by_voter
    verdicts = _widen(by_voter.verdicts, -3, by_voter.voters, voters)
    return VotesByVoter(tuple(voters), verdicts, by_voter.identical)


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
    )


def skill(history: History, view: View | None = None) -> Skill:
    """One weight per voter from all votes so far; voters of equal skill have weight 1.

    A voter votes for the better side of a direction with probability ½(1 + r). The other voters'
    view of a direction is t = tanh(½ Σ log((1 + r)/(1 − r)) · (votes for − against)). A voter's r
    is estimated from the agreement of their votes with t; its prior is the panel's r or, with
    probability 1 − `_TYPICAL`, any value. r and t are updated in turns, starting from equal
    voters. Weights are proportional to the log-odds of r, below 0 only for z ≤ −3, and scaled so
    that Σw² = Σ|w|: silencing a voter does not make the others louder. With a ``view``, t is its
    mean 2σ − 1 and stays fixed.
    """
    verdicts = history.verdicts[..., -ROWS:, :]
    net = ((verdicts == PLUS).sum(-1) - (verdicts == MINUS).sum(-1)).astype(
        np.float64
    )  # (..., P, R)
    count = (np.abs(verdicts) == 1).sum(-1).astype(np.float64)
    coin = np.full(count.shape[:-1], _COIN)
    bar = np.full((*count.shape[:-2], 1), _COIN)
    seen = None if view is None else _expected_sign(view)
    for _ in range(_TURNS):
        own = net * (2 * np.arctanh(coin))[..., None]
        rest = np.tanh((own.sum(-2, keepdims=True) - own) / 2) if seen is None else seen
        agreed, worth = (net * rest).sum(-1), (count * rest * rest).sum(-1)
        coin, bar = _update_coins(agreed, worth, bar)
    z = agreed / np.sqrt(np.maximum(worth, 1e-12))
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


def _update_coins(agreed: Floats, worth: Floats, bar: Floats) -> tuple[Floats, Floats]:
    """Each voter's r and the panel's, from Σ o·t and Σ t² (log(1 + r·o·t) to second order)."""
    like = agreed[..., None] * _GRID - worth[..., None] * _GRID**2 / 2
    top = like.max(-1, keepdims=True)
    odd = np.exp(like - top)
    same = _TYPICAL * np.exp(agreed * bar - worth * bar**2 / 2 - top[..., 0])
    typical = same / (same + (1 - _TYPICAL) * odd.mean(-1))
    pooled = (typical * agreed).sum(-1, keepdims=True) + _COIN * _COIN_VOTES
    bar = pooled / ((typical * worth).sum(-1, keepdims=True) + _COIN_VOTES)
    bar = np.clip(bar, 0.05, _LIMIT)
    free = (odd * _GRID).sum(-1) / odd.sum(-1)
    return np.clip(typical * bar + (1 - typical) * free, -_LIMIT, _LIMIT), bar


def _widen(
    values: NDArray[Number], axis: int, some: Sequence[str], every: Sequence[str]
) -> NDArray[Number]:
    """Extend values of ``some`` voters along an axis to ``every`` voter, with 0 for the others."""
    column = {voter: i for i, voter in enumerate(every)}
    shape = list(values.shape)
    shape[axis] = len(every)
    wide = np.zeros(shape, values.dtype)
    places = np.array([column[voter] for voter in some], dtype=np.int64)
    np.moveaxis(wide, axis, 0)[places] = np.moveaxis(values, axis, 0)
    return wide
