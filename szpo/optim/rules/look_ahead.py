"""Forecast a run of `regression` now and after more votes, and say what holds it back.

A forecast depends only on the settings and on what the rule carries, so anybody can recompute it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from scipy import special

from szpo.optim import named_features, sparse_regression, vote_forecast, vote_regression
from szpo.optim.named_features import Claim, NamedFeatures, claims, group_heads
from szpo.optim.rules import guard_geometry, regression
from szpo.optim.rules.all_votes import AllVotes, fade, fit_named, fit_votes, fitted_votes, prior
from szpo.optim.settings import Settings
from szpo.optim.step_size import base_mu
from szpo.optim.vote_forecast import Interval, Outlook, RunPosition, interval_of
from szpo.optim.vote_regression import Prior, Votes, fit
from szpo.types import Floats

HORIZONS: Final = (0, 20, 40, 80)
"""Numbers of further votes that are forecast."""
DRIFT_FROM_VOTES: Final = 64
"""Number of votes from which a change of taste is looked for."""
_FUTURES: Final = 400
"""Number of simulated futures with named features."""
_LAST_STEPS: Final = 2
"""Number of last steps; further comparisons are taken to be like theirs."""
_PLAN_DRAWS: Final = 60
"""Number of simulated tastes of a plan."""
Figure: TypeAlias = tuple[float, float, float]
"""A figure with the lower and upper end of its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The forecast for the recommended point after some more votes."""

    votes: int
    win_rate: Figure
    """Share of votes for the point's answers against the base's."""
    kl: Figure
    """KL to the base, nats."""
    evidence: float
    """Probability that the votes will by then show that they share a taste."""


@dataclass(frozen=True, slots=True)
class LookAhead:
    """What the votes so far say of the recommended point, and what holds it back."""

    ahead: tuple[Ahead, ...]
    """One for each of `HORIZONS`; empty before any vote, in a branch, and without a KL budget."""
    factor: float
    """The largest log Bayes factor for any signal that the run has seen."""
    share: float = 1.0
    """Share of the way that predicted guards allow; 0: they hold on no part of it."""
    broken: tuple[str, ...] = ()
    """Figures whose guards the whole way would break (`guard_geometry.FIGURES`)."""
    side: float = 0.0
    """The advantage of side A, logits."""
    prior_votes: float | None = None
    """Number of votes that the warm start weighs as much as; None without a warm start."""
    drift: float | None = None
    """Nats by which a fit that forgets predicts better; None with few votes, with named features,
    and where the run's own fit forgets."""
    taught: tuple[Claim, ...] | None = None
    """What the votes are about, in named features; None without named features."""
    unnamed: float = 0.0
    """Probability that the score components explain the votes, and no named feature does."""
    chance: float = 0.0
    """Probability that nothing explains the votes."""
    aside: tuple[str, ...] = ()
    """Groups of features that the operator ordered not to follow."""

    @property
    def shown(self) -> bool:
        """The votes show that they share a taste."""
        return self.factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)

    @property
    def turned(self) -> bool:
        """The taste has changed."""
        return self.drift is not None and self.drift > vote_forecast.DRIFT_NATS

    def to_json(self) -> dict[str, Any]:
        """As JSON for the record."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> LookAhead:
        """Read the output of `to_json` from the record."""
        ahead = tuple(
            Ahead(each["votes"], tuple(each["win_rate"]), tuple(each["kl"]), each["evidence"])
            for each in body["ahead"]
        )
        factor = -math.inf if body["factor"] is None else body["factor"]
        taught = body.get("taught")
        named = None if taught is None else tuple(Claim(**each) for each in taught)
        rest = {**body, "ahead": ahead, "factor": factor, "broken": tuple(body["broken"])}
        rest["taught"], rest["aside"] = named, tuple(body.get("aside", ()))
        return cls(**rest)


def look_ahead(settings: Settings, record: AllVotes) -> LookAhead:
    """Forecast from what the rule carries between two steps of one run."""
    if settings.features is not None:
        return _look_at_features(settings, record, settings.features)
    believed, moving = prior(settings), fit_votes(settings, record)[0]
    whitened = _whiten(record.votes, regression.whitened_unit(settings))
    warm = vote_regression.warm_start_worth(moving, record.votes, believed)
    drift, fading = None, settings.forgetting is not None
    if float(moving.count) >= DRIFT_FROM_VOTES and not fading:
        drift = float(vote_forecast.drift(whitened, believed))
    ahead: tuple[Ahead, ...] = ()
    whitened = fade(settings, whitened)
    if float(moving.count) > 0 and _can_tell(settings, record):
        fits = fit(replace(whitened, curvature_term=None), believed), fit(whitened, believed)

        def outlook(at: RunPosition, more: int, reach: float, unproven: Floats | None) -> Outlook:
            hold = None if record.moments is None else functools.partial(_hold, record.moments)
            return vote_forecast.outlook(fits, at, more, reach, hold, unproven)

        ahead = _ahead(settings, record, outlook)
    return LookAhead(
        ahead, float(record.log_factor), record.guard_limit.share, record.guard_limit.broken,
        float(moving.side_coefficient), None if believed.mean is None else float(warm), drift,
    )  # fmt: skip


def _look_at_features(settings: Settings, record: AllVotes, features: NamedFeatures) -> LookAhead:
    factor, held, aside = float(record.log_factor), record.guard_limit, record.aside
    votes, found = fitted_votes(settings, record), record.named
    unit = regression.whitened_unit(settings)
    if found is None:  # before the first vote
        found = fit_named(settings, votes, aside)
    fitted, called = found, group_heads(features)
    names = dict.fromkeys(features.names[called[features.groups[i]]] for i in aside)
    ahead: tuple[Ahead, ...] = ()
    if _can_tell(settings, record):

        def outlook(at: RunPosition, more: int, reach: float, unproven: Floats | None) -> Outlook:
            short = None if unproven is None else float(unproven)
            return outlook_in_features(
                fitted, votes, features, unit, at, more, reach, short, aside
            )

        ahead = _ahead(settings, record, outlook)
    return LookAhead(
        ahead, factor, held.share, held.broken, found.side,
        taught=claims(found, features), unnamed=found.dense, chance=1 - found.signal,
        aside=tuple(names),
    )  # fmt: skip


def _can_tell(settings: Settings, record: AllVotes) -> bool:
    """A forecast is possible: there are votes and a KL budget, and the run is no branch."""
    voted = float(record.counted) > 0
    return voted and settings.kl_budget is not None and settings.start is None


def _ahead(
    settings: Settings,
    record: AllVotes,
    outlook: Callable[[RunPosition, int, float, Floats | None], Outlook],
) -> tuple[Ahead, ...]:
    """The forecasts at `HORIZONS`."""
    unit = regression.whitened_unit(settings)
    standing = RunPosition(
        record.centre / unit, record.recommended / unit, float(record.log_factor)
    )
    found = []
    for more in HORIZONS:
        later = replace(record, counted=record.counted + more)
        reach = float(regression.find_radius(settings, later)) / unit
        each = outlook(standing, more, reach, regression.unproven_share(settings, later))
        nats = _figure(each.kl, record.kl_scale)
        found.append(Ahead(more, _figure(each.gain.rate()), nats, each.evidence))
    return tuple(found)


def _whiten(votes: Votes, unit: float) -> Votes:
    """The votes in whitened units, in which the prior of the curvature is given."""
    bend = None if votes.curvature_term is None else votes.curvature_term / unit**2
    return replace(votes, x=votes.x / unit, curvature_term=bend)


def _hold(moments: guard_geometry.Moments, points: Floats) -> Floats:
    return np.asarray(guard_geometry.shrink_for_guards(moments, points)[..., None] * points)


def _figure(found: Interval, factor: float = 1.0) -> Figure:
    low, middle, high = (float(factor * each) for each in (found.low, found.value, found.high))
    return middle, low, high


# ---- before the first vote ----


def foresee(settings: Settings, votes: Sequence[int]) -> tuple[Ahead, ...]:
    """Forecast what numbers of votes will achieve, before any vote is cast.

    Tastes are drawn from the prior, given that people share one. Their votes are simulated around
    the start, without the chance in the texts, and the rule is applied to them.

    Args:
        settings: Settings of the rule `regression`, with a KL budget, not of a branch.
        votes: Rising numbers of votes.
    """
    rng, believed, each = np.random.default_rng(0), prior(settings), settings.N * settings.M
    dim, unit = settings.dim, regression.whitened_unit(settings)
    radius = settings.distance * base_mu(settings) * math.sqrt(dim) / unit
    tastes, bends = _draw_tastes(believed, radius, rng)
    count = max(1, votes[-1] // each)
    frames = np.linalg.qr(rng.standard_normal((_PLAN_DRAWS, -(-count // dim), dim, dim)))[0]
    x = radius * frames.reshape(_PLAN_DRAWS, -1, dim)[:, :count]
    up = rng.binomial(each, special.expit(np.einsum("prd,pd->pr", x, tastes))).astype(np.float64)
    factor, found = np.full(_PLAN_DRAWS, -np.inf), []
    for number in votes:
        n = max(1, number // each)
        cast = Votes(x[:, :n], up[:, :n], each - up[:, :n], np.arange(n) // settings.K)
        fitted = fit(fade(settings, cast), believed)
        factor = np.maximum(factor, fitted.log_factor)
        record = replace(regression.init(settings), counted=np.array(float(number)))
        reach = float(regression.find_radius(settings, record)) / unit
        unproven = regression.unproven_share(settings, record)
        points = reach * vote_regression.direction(fitted, factor, unproven)
        square = (points**2).sum(-1)
        gains = (tastes * points).sum(-1) - 0.5 * bends * square
        shown = float((factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)).mean())
        rate, kl = interval_of(gains).rate(), interval_of(square / 2)
        found.append(Ahead(number, _figure(rate), _figure(kl), shown))
    return tuple(found)


def _draw_tastes(
    believed: Prior, radius: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw gradients (draws, d) and curvatures (draws,) from the prior, given a shared taste."""
    length = np.sqrt(rng.choice(believed.widths, _PLAN_DRAWS)) / radius
    variances = believed.variances[rng.integers(0, len(believed.variances), _PLAN_DRAWS)]
    spread = np.sqrt(variances / variances.sum(-1, keepdims=True))
    tastes = length[:, None] * spread * rng.standard_normal(variances.shape)
    mean, deviation = believed.curvature
    return tastes, length * (mean + deviation * rng.standard_normal(_PLAN_DRAWS))


def outlook_in_features(
    found: sparse_regression.SparseFit,
    votes: Votes,
    features: NamedFeatures,
    unit: float,
    standing: RunPosition,
    more: int,
    reach: float,
    unproven: float | None = None,
    aside: tuple[int, ...] = (),
) -> Outlook:
    """Forecast one run after ``more`` votes, with named features; as `vote_forecast.outlook`.

    Each future takes one explanation that the fit kept as the truth, drawn by its probability. The
    truth votes on comparisons like those of the last steps, and these votes reweight all kept
    explanations. Nothing is refitted, so hundreds of futures take milliseconds.

    Args:
        found: The fit of the votes.
        votes: Votes of one run, x (R, p), at least one.
        features: The run's named features.
        unit: One whitened unit in coordinates.
        standing: The run's position, in whitened units.
        more: Number of further votes.
        reach: Length of a recommendation of certain direction after them, in whitened units.
        unproven: Largest share of ``reach`` before the votes show a signal.
        aside: Features whose predicted change is held at 0.
    """
    rng, p = np.random.default_rng(0), features.columns
    W = np.zeros((len(found.kept), p))
    for row, each in zip(W, found.kept, strict=True):
        row[list(each.support)] = each.w
    nothing = np.array([not each.support for each in found.kept])
    chances = np.array([each.chance for each in found.kept])
    truth = rng.choice(len(W), _FUTURES, p=chances / chances.sum())
    directions = named_features.directions(features)
    if aside:
        directions = named_features.projection_without(features, aside) @ directions

    last = np.flatnonzero(votes.steps > votes.steps.max() - _LAST_STEPS)
    x = votes.x[last[rng.integers(0, len(last), (_FUTURES, more))]]
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
    shown = log_factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)

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
        points = np.broadcast_to(standing.point, (_FUTURES, features.dim))
    gains = (true * (unit * points @ directions)).sum(-1)
    nats = (points**2).sum(-1) / 2
    return Outlook(more, interval_of(gains), interval_of(nats), float(shown.mean()))


def _lengths(w: Floats, votes: Votes, rng: np.random.Generator) -> Floats:
    """Draw factors (draws,) on the lengths of w (draws, p), with their posterior uncertainty."""
    logits = w @ votes.x.T
    rate = special.expit(logits)
    information = (rate * (1 - rate) * logits**2) @ (votes.up + votes.down)
    return np.asarray(1 + rng.standard_normal(len(w)) / np.sqrt(np.maximum(information, 1.0)))
