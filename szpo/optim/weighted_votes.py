"""A step's votes after the weighting, and what the rule `bayes` makes of weights in its window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from szpo.aggregation import dawid_skene, rationality, weighting
from szpo.aggregation.weighting import Ballots, History, Weighting
from szpo.errors import RunError, UsageError
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the rules reckon with, and what to remember of it."""

    tally: Tally
    cast: Floats | None
    """Votes given (K, N), where the tally is weighted."""
    delta: Floats | None
    """One estimate per direction (K,), where the weighting makes it."""
    ballots: Ballots | None
    weights: Floats
    """Per voter of ``ballots`` (P,)."""
    history: History | None


def weigh(
    settings: Settings,
    history: History | None,
    step: int,
    tally: Tally,
    ballots: Ballots | None,
    delta: Floats | None = None,
    *,
    rows: int = 0,
) -> Weighed:
    """Apply the run's weighting to a step; weights rest on earlier steps alone.

    ``delta`` overrules it. The history keeps the directions that weights are learnt from; under
    ``bayes`` the last ``rows`` (its window) and this step's; else nothing.

    Raises:
        UsageError: the weighting has to know who voted how, and ``ballots`` is None.
    """
    if ballots is None:
        if settings.weighting != "equal":
            raise UsageError(f"tell: weighting {settings.weighting} needs ballots: who voted how")
        return Weighed(tally, None, delta, None, np.ones(0), history)
    past = weighting.joined(history or History.empty(settings.N), ballots.voters)
    ballots = weighting.seated(ballots, past.voters)
    weights, cast = np.ones(len(past.voters)), None
    if settings.weighting in weighting.LEARNT:
        weights = learnt(settings.weighting, past)
        cast = tally.plus + tally.minus + tally.tie
        tally = ballots.tally(weights)
    elif settings.pooled_by_voter and delta is None:
        delta = by_voter(settings, ballots)
    kept = rows + settings.K if settings.rule == "bayes" else 0
    if settings.weighting in weighting.LEARNT:
        kept = max(kept, weighting.ROWS)
    if kept:
        history = weighting.remember(past, step, ballots, kept)
    return Weighed(tally, cast, delta, ballots, weights, history)


def learnt(name: Weighting, history: History) -> Floats:
    """One weight per voter (..., P) from what all have said so far, by a weighting of `LEARNT`.

    Raises:
        UsageError: the weighting learns nothing.
    """
    match name:
        case "skill":
            return weighting.skill(history).weights
        case "rationality":
            return rationality.rationality(history).weights
        case "dawid-skene":
            return dawid_skene.dawid_skene(history).weights
    raise UsageError(f"weighting {name} learns no weights; choose {', '.join(weighting.LEARNT)}")


def by_voter(settings: Settings, ballots: Ballots) -> Floats:
    """Δ̂ per direction by ``median`` or ``shrunk-logits``."""
    if settings.weighting == "median":
        return weighting.median(ballots)
    return weighting.shrunk_logits(ballots)


def check_tally(tally: Tally, step: int) -> None:
    """Raise unless the counts are finite numbers from 0 up, in arrays of one shape."""
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


def totals(tally: Tally) -> tuple[float, float, float]:
    """Votes, ties and wins of plus (a tie is half), identical comparisons left out."""
    live = ~tally.identical
    plus, minus, tie = (float(c[live].sum()) for c in (tally.plus, tally.minus, tally.tie))
    return plus + minus + tie, tie, plus + 0.5 * tie
