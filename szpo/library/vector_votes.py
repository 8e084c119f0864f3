"""Votes of a caller on pairs of vectors, checked and turned into a tally of the optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from szpo.errors import UsageError
from szpo.types import Floats, Tally

VectorVote: TypeAlias = Literal["a", "b", "tie"] | float | None
"""Which point is better; the share of votes for a, in [0, 1]; or None where nobody answered."""
HINT: Final = 'give "a", "b", "tie", a share of votes for a from 0 to 1, or None'


@dataclass(frozen=True, slots=True)
class CastVote:
    """A checked vote: how much of it is for a, for b and tied; ``weight`` scales all three."""

    vote: VectorVote
    weight: float

    @property
    def counts(self) -> tuple[float, float, float]:
        """Votes for a, for b, and ties."""
        w = self.weight
        if self.vote is None:
            return 0.0, 0.0, 0.0
        if isinstance(self.vote, str):
            return {"a": (w, 0.0, 0.0), "b": (0.0, w, 0.0), "tie": (0.0, 0.0, w)}[self.vote]
        return w * self.vote, w * (1.0 - self.vote), 0.0


def check_votes(votes: object, weight: object, pairs: int, single: bool) -> tuple[CastVote, ...]:
    """The votes of a call of ``tell`` on as many pairs.

    Raises:
        UsageError: the number of votes or weights differs from that of the pairs, or one is
            nothing that szpo knows.
    """
    listed = isinstance(votes, Sequence) and not isinstance(votes, str)
    given = list(votes) if isinstance(votes, Sequence) and listed else [votes]
    if listed and single:
        raise UsageError(f"tell: ask() gave one pair; {HINT}, not a list")
    if not listed and not single:
        raise UsageError(f"tell: ask({pairs}) gave a list of pairs; give a list of {pairs} votes")
    if len(given) != pairs:
        raise UsageError(f"tell: {len(given)} votes for {pairs} pairs; None stands for no answer")
    each = isinstance(weight, Sequence) and not isinstance(weight, str)
    weights = list(weight) if isinstance(weight, Sequence) and each else [weight] * pairs
    if len(weights) != pairs:
        raise UsageError(f"tell: {len(weights)} weights for {pairs} pairs; give one for each")
    return tuple(_check(vote, w) for vote, w in zip(given, weights, strict=True))


def tally(cast: Sequence[CastVote], flipped: Sequence[bool]) -> Tally:
    """The tally (K, 1) of one vote for each of K directions; ``flipped``: plus was shown as b."""
    rows = [each.counts for each in cast]
    plus = [b if turned else a for (a, b, _), turned in zip(rows, flipped, strict=True)]
    minus = [a if turned else b for (a, b, _), turned in zip(rows, flipped, strict=True)]
    column = (len(rows), 1)
    return Tally(
        np.array(plus).reshape(column),
        np.array(minus).reshape(column),
        np.array([tie for _, _, tie in rows]).reshape(column),
        np.zeros(column, dtype=np.bool_),
        cast=_count_answers(cast).reshape(column)
        if any(each.weight != 1 for each in cast)
        else None,
        side=np.array([-1.0 if turned else 1.0 for turned in flipped]).reshape(column),
    )


def _count_answers(cast: Sequence[CastVote]) -> Floats:
    return np.array([float(each.vote is not None) for each in cast])


def _check(vote: object, weight: object) -> CastVote:
    if not isinstance(weight, (int, float, np.number)) or isinstance(weight, bool):
        raise UsageError(f"tell: the weight {weight!r} is no number")
    if not (math.isfinite(float(weight)) and float(weight) >= 0):
        raise UsageError(f"tell: the weight is {weight}; it must be 0 or more, and finite")
    if isinstance(vote, str):
        word = vote.strip().lower()
        if word not in ("a", "b", "tie"):
            raise UsageError(f"tell: the vote {vote!r} is unknown; {HINT}")
        return CastVote("a" if word == "a" else "b" if word == "b" else "tie", float(weight))
    if vote is None:
        return CastVote(None, float(weight))
    if not isinstance(vote, (int, float, np.number)) or isinstance(vote, bool):
        raise UsageError(f"tell: the vote {vote!r} is unknown; {HINT}")
    if not 0 <= float(vote) <= 1:  # also what is not a number
        raise UsageError(f"tell: the vote is {vote}; a share of votes for a is from 0 to 1")
    return CastVote(float(vote), float(weight))
