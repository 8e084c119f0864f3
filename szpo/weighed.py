"""A step's votes after the weighting, and what the rule `bayes` makes of weights in its window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from szpo import bayes, coordinates, onecoin, rationality, weighting
from szpo.errors import RunError, UsageError
from szpo.settings import Settings
from szpo.stepsize import base_mu, shape
from szpo.types import Floats, Query, Tally
from szpo.weighting import Ballots, History, Weighting


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
            return onecoin.dawid_skene(history).weights
    raise UsageError(f"weighting {name} learns no weights; choose {', '.join(weighting.LEARNT)}")


def by_voter(settings: Settings, ballots: Ballots) -> Floats:
    """Δ̂ per direction by ``median`` or ``shrunk-logits``."""
    if settings.weighting == "median":
        return weighting.median(ballots)
    return weighting.shrunk_logits(ballots)


def informed(
    settings: Settings, window: bayes.Window, query: Query, weighed: Weighed
) -> tuple[bayes.Window, bayes.Posterior]:
    """The window with a step's votes, and the posterior on the gradient that it gives."""
    tally = weighed.tally
    x = features(settings, query)
    window = bayes.add(
        window, query.step, x, tally.plus, tally.minus, tally.tie, tally.identical,
        forget=settings.forget,
    )  # fmt: skip
    if settings.weighting in weighting.LEARNT and weighed.history is not None:
        window = reweighed(window, weighed.history, weighed.weights)
    precision: ArrayLike = bayes.prior_precision(
        base_mu(settings), settings.distance, settings.dim
    )
    if settings.prior_precision is not None:
        precision = settings.prior_precision
    known = bayes.posterior(
        window, precision=precision, mean=settings.prior_mean, forget=settings.forget,
        step=query.step,
    )  # fmt: skip
    return window, known


def features(settings: Settings, query: Query) -> Floats:
    """What a vote on each direction of a step is about: x = z⁺ − z⁻, (K, d)."""
    return np.stack(
        [
            (plus.sign * plus.radius - minus.sign * minus.radius)
            * coordinates.direction_vector(settings.space, query.step, plus.k)
            for plus, minus in query.shifts
        ]
    )


def longest(settings: Settings, step: int) -> float:
    """ℓ: the length of a step of ``bayes`` that is sure of its direction."""
    length = base_mu(settings) * math.sqrt(settings.dim * settings.kl_step / settings.kl_radius)
    return length * shape(settings, step)


def reweighed(window: bayes.Window, history: History, weights: Floats) -> bayes.Window:
    """The window with today's weights on all its votes: voters are known better than they were.

    Axes before those of `Ballots` may lead. The history reaches back as far as the window.
    """
    said = history.said[..., history.said.shape[-2] - len(window.steps) :, :]
    plus, minus, tie = weighting.weighted(said, weights)
    every, ties = weighting.squares(said, weights)
    return bayes.Window(window.steps, window.x, plus + tie / 2, minus + tie / 2, ties, every)


def window_flip_share(
    window: bayes.Window,
    known: bayes.Posterior,
    history: History,
    weights: Floats,
    forget: float,
) -> float:
    """Smallest share of the window's voters who could have turned the step round: ŵ·δ < 0.

    To first order: a vote with feature x that goes to the other side moves ŵ by its weight times
    λ^age · P x, whatever the posterior thinks of it, and half of that for a tie. Voters are
    switched in all their votes of the window, those who move most first.
    """
    rows = min(len(window.steps), len(history.steps))
    if not rows:
        return 0.0
    x, steps = window.x[-rows:], window.steps[-rows:]
    said = history.said[:, -rows:]
    pull = x @ known.covariance @ known.w
    age = forget ** (float(steps[-1]) - steps.astype(np.float64))
    for_it = np.sign(pull)[None, :, None] * np.where(weights < 0, -1.0, 1.0)[:, None, None]
    moved = np.where(said == weighting.TIE, 0.5, (said == for_it) & (said != 0)).sum(-1)
    moves = np.abs(weights) * (moved * age * np.abs(pull)).sum(-1)
    lead = float(known.w @ known.w)
    voters = (said != 0).any((-2, -1))
    return weighting.enough(moves[voters], lead) if lead > 0 else 0.0


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
