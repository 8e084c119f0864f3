"""What more votes promise where they are about named features: each explanation's own future.

Every explanation that the fit kept is taken as the truth as often as it is probable; it votes on
comparisons like those of the last steps, and what was kept is weighed anew by these votes. Nothing
is fitted again, so that thousands of futures take milliseconds.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import special

from szpo.errors import UsageError
from szpo.optim import named_features
from szpo.optim.named_features import NamedFeatures
from szpo.optim.sparse_regression import Fit
from szpo.optim.vote_forecast import Interval, Outlook, Standing
from szpo.optim.vote_regression import EVIDENCE, Votes
from szpo.types import Floats

DRAWS: Final = 400
"""Possible futures."""
STEPS: Final = 2
"""Last steps, whose comparisons further ones are taken to be like."""


def outlook(
    found: Fit,
    votes: Votes,
    features: NamedFeatures,
    unit: float,
    standing: Standing,
    more: int,
    reach: float,
    unproven: float | None = None,
    aside: tuple[int, ...] = (),
) -> Outlook:
    """What ``more`` votes would make of one run, as `szpo.optim.vote_forecast.outlook` says it.

    Args:
        found: The fit of the votes.
        votes: Of one run, x (R, p).
        features: Of its coordinates.
        unit: One whitened unit in coordinates.
        standing: Where it stands, in whitened units.
        more: Further votes.
        reach: Length of a recommendation of certain direction after them, in whitened units.
        unproven: Its largest part before the votes show a signal.
        aside: Features whose predicted change is held at 0.

    Raises:
        UsageError: there is no vote yet.
    """
    if not len(votes.x):
        raise UsageError("a forecast needs votes")
    rng, p = np.random.default_rng(0), features.columns
    W = np.zeros((len(found.kept), p))
    for row, each in zip(W, found.kept, strict=True):
        row[list(each.support)] = each.w
    nothing = np.array([not each.support for each in found.kept])
    chances = np.array([each.chance for each in found.kept])
    truth = rng.choice(len(W), DRAWS, p=chances / chances.sum())
    directions = named_features.directions(features)
    if aside:
        directions = named_features.without(features, aside) @ directions

    last = np.flatnonzero(votes.steps > votes.steps.max() - STEPS)
    x = votes.x[last[rng.integers(0, len(last), (DRAWS, more))]]
    logits = W @ x.swapaxes(1, 2)
    true = W[truth] * _lengths(W[truth], votes, rng)[:, None]
    own = np.einsum("dmp,dp->dm", x, true)
    sign = np.where(rng.random(own.shape) < special.expit(own), 1.0, -1.0)
    gained = (special.log_expit(sign[:, None] * logits) + math.log(2)).sum(-1)  # against chance
    with np.errstate(divide="ignore"):
        known = np.where(nothing, -np.inf, np.log(chances))
    known = known - special.logsumexp(known) + found.log_factor
    factors = known + gained
    log_factor = np.maximum(special.logsumexp(factors, axis=-1), standing.log_factor)
    shown = log_factor >= math.log(EVIDENCE)

    if more:
        weights = special.softmax(factors, axis=-1)
        ways = (directions @ W.T).T  # (kept, d)
        mean, square = weights @ ways, weights @ (ways**2).sum(-1)
        length = np.sqrt((mean**2).sum(-1))
        certain = np.sqrt(length / np.sqrt(np.maximum(square, 1e-300)))
        short = certain if unproven is None else np.minimum(certain, unproven)
        size = reach * np.where(shown, certain, short)
        points = mean * (size / np.maximum(length, 1e-300))[:, None]
    else:
        points = np.broadcast_to(standing.point, (DRAWS, features.dim))
    gains = (true * (unit * points @ directions)).sum(-1)
    nats = (points**2).sum(-1) / 2
    return Outlook(more, _interval(gains), _interval(nats), float(shown.mean()))


def _lengths(w: Floats, votes: Votes, rng: np.random.Generator) -> Floats:
    """How long weights w (draws, p) may be instead, in units of themselves, by the votes alone."""
    logits = w @ votes.x.T
    rate = special.expit(logits)
    information = (rate * (1 - rate) * logits**2) @ (votes.up + votes.down)
    return np.asarray(1 + rng.standard_normal(len(w)) / np.sqrt(np.maximum(information, 1.0)))


def _interval(draws: Floats) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(draws.mean(), low, high)
