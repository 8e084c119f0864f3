"""The rule `bayes`: a step's votes to a posterior on the gradient, and the length of a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from szpo.aggregation import weighting
from szpo.aggregation.weighting import History
from szpo.optim import parameters, posterior
from szpo.optim.settings import Settings
from szpo.optim.step_size import base_mu
from szpo.optim.weighted_votes import Weighed
from szpo.types import Floats, Query


def informed(
    settings: Settings, window: posterior.Window, query: Query, weighed: Weighed
) -> tuple[posterior.Window, posterior.Posterior]:
    """The window with a step's votes, and the posterior on the gradient that it gives."""
    tally = weighed.tally
    x = features(settings, query)
    window = posterior.add(
        window, query.step, x, tally.plus, tally.minus, tally.tie, tally.identical,
        forget=settings.forget,
    )  # fmt: skip
    if settings.weighting in weighting.LEARNT and weighed.history is not None:
        window = reweighed(window, weighed.history, weighed.weights)
    return window, gradient(settings, window, query.step)


def gradient(settings: Settings, window: posterior.Window, step: int) -> posterior.Posterior:
    """The posterior on the gradient that a window gives at a step, under the settings' prior.

    Axes of the window before its rows may lead.
    """
    precision: ArrayLike = posterior.prior_precision(
        base_mu(settings), settings.distance, settings.dim
    )
    if settings.prior_precision is not None:
        precision = settings.prior_precision
    return posterior.posterior(
        window, precision=precision, mean=settings.prior_mean, forget=settings.forget, step=step
    )


def features(settings: Settings, query: Query) -> Floats:
    """What a vote on each direction of a step is about: x = z⁺ − z⁻, (K, d)."""
    return np.stack(
        [
            (plus.sign * plus.radius - minus.sign * minus.radius)
            * parameters.direction_vector(settings.space, query.step, plus.k)
            for plus, minus in query.shifts
        ]
    )


def reweighed(window: posterior.Window, history: History, weights: Floats) -> posterior.Window:
    """The window with today's weights on all its votes: voters are known better than they were.

    Axes before those of `Ballots` may lead. The history reaches back as far as the window.
    """
    said = history.said[..., history.said.shape[-2] - len(window.steps) :, :]
    plus, minus, tie = weighting.weighted(said, weights)
    every, ties = weighting.squares(said, weights)
    return posterior.Window(window.steps, window.x, plus + tie / 2, minus + tie / 2, ties, every)


def window_flip_share(
    window: posterior.Window,
    known: posterior.Posterior,
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
