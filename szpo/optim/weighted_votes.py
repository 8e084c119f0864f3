"""A step's votes after the weighting of voters, and the history of who voted how."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from szpo.aggregation import weighting
from szpo.aggregation.registry import LEARNED
from szpo.aggregation.weighting import History, VotesByVoter
from szpo.errors import RunError, UsageError
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


@dataclass(frozen=True, slots=True)
class HistoryUse:
    """How a rule uses past votes by voter."""

    rows: int = 0
    """Number of past directions that the rule needs."""
    alone: bool = False
    """Each comparison is a direction of its own, since steps differ in N."""
    weights: Callable[[History], Floats] | None = None
    """How the rule weighs voters (..., P); None: as the weighting says."""


@dataclass(frozen=True, slots=True)
class WeightedVotes:
    """A step's tally after voter weighting, and the updated voter history."""

    tally: Tally
    """Counts, or sums of voters' weights; ``cast`` then has the number of votes."""
    delta: Floats | None = None
    """One given estimate per direction (..., K) that replaces Δ̂ from the votes."""
    by_voter: VotesByVoter | None = None
    weights: Floats = field(default_factory=lambda: np.ones(0))
    """(..., P): one for each voter of ``by_voter``."""
    history: History | None = None


def weigh(
    settings: Settings,
    history: History | None,
    step: int,
    tally: Tally,
    by_voter: VotesByVoter | None,
    *,
    use: HistoryUse | None = None,
) -> WeightedVotes:
    """Apply the run's weighting to a step; weights are learned from earlier steps only.

    The history keeps the last directions, as many as the weighting and ``use`` need.
    """
    if by_voter is None:
        if (kind := settings.section.weighting) != "equal":
            raise UsageError(f"tell: weighting {kind} needs to know who voted how")
        return WeightedVotes(tally, history=history)
    use = use or HistoryUse()
    start = history or History.empty(1 if use.alone else settings.section.N)
    past = weighting.add_voters(start, by_voter.voters)
    by_voter = weighting.align(by_voter, past.voters)
    weights, rows = np.ones(len(past.voters)), use.rows
    if settings.section.weighting in LEARNED:
        learn = use.weights or functools.partial(learn_weights, settings.section.weighting)
        weights = learn(past)
        cast = tally.plus + tally.minus + tally.tie
        tally = replace(by_voter.tally(weights), cast=cast, side=tally.side)
        rows = max(rows, weighting.ROWS)
    if rows:
        kept = by_voter.alone() if use.alone else by_voter
        history = weighting.remember(past, step, kept, rows)
    return WeightedVotes(tally, None, by_voter, weights, history)


def learn_weights(name: str, history: History) -> Floats:
    """One weight per voter (..., P) from everyone's past votes, by a weighting of `LEARNED`."""
    if name not in LEARNED:
        raise UsageError(f"weighting {name} learns no weights; choose {', '.join(LEARNED)}")
    return LEARNED[name](history, None)


def check_tally(tally: Tally, step: int) -> None:
    """Raise UsageError or RunError unless counts are finite, at least 0 and of one shape."""
    for name in ("plus", "minus", "tie"):
        counts: Floats = getattr(tally, name)
        if counts.shape != tally.plus.shape or tally.identical.shape != tally.plus.shape:
            raise UsageError(f"tell: step {step} has vote arrays of different shapes")
        for (k, n), count in np.ndenumerate(counts):
            if not math.isfinite(count):
                raise RunError(
                    f"step {step}: {name} votes of direction {k}, comparison {n} are {count}; "
                    "nothing was applied"
                )
            if count < 0:
                raise UsageError(
                    f"step {step}: {name} votes of direction {k}, comparison {n} are {count}; "
                    "count a vote of negative weight for the other side"
                )


def totals(tally: Tally) -> tuple[float, float]:
    """Numbers of votes and of wins of plus (a tie is half), without identical comparisons."""
    live = ~tally.identical
    plus, minus, tie = (float(c[live].sum()) for c in (tally.plus, tally.minus, tally.tie))
    return plus + minus + tie, plus + 0.5 * tie
