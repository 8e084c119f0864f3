"""All votes of a run as the rule `regression` keeps them, with their regressors and their fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from szpo.errors import UsageError
from szpo.optim import named_features, weighting
from szpo.optim.joint_fit import JointFit, fit_joint
from szpo.optim.kl_limits import KlMeasurement
from szpo.optim.rule import Perturbations, Recounted, WeightedVotes
from szpo.optim.schedule import base_mu
from szpo.optim.settings import Settings
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.vote_regression import Fit, Prior, Votes, fit
from szpo.optim.weighting import History, View
from szpo.types import Floats, Tally


@dataclass(frozen=True, slots=True, eq=False)
class AllVotes:
    """What the rule carries: all votes of the run, and its two points as displacements from θ₀."""

    votes: Votes
    """One row per comparison, in order of (step, k, n)."""
    recommended: Floats
    """(..., d), values of fp32."""
    centre: Floats
    """(..., d), values of fp32."""
    log_factor: Floats
    """(...): the largest log Bayes factor for any signal that any step's fit has found."""
    withdrawn: tuple[Recounted, ...] = ()
    """Rows whose votes are others than when they were added."""
    fit: JointFit | None = None
    """The newest step's fit on named features and states; None without features."""
    states: Floats | None = None
    """(R, width): differences of the shown texts' states; None where none are recorded."""
    reach: KlMeasurement | None = None
    """The last KL measurement of a proposed point; None before the first."""
    proposed: Floats | None = None
    """(d,): that point, as its displacement from θ₀."""

    @property
    def kl_scale(self) -> float:
        """Measured KL over its quadratic estimate; 1 before the first measurement."""
        return 1.0 if self.reach is None else self.reach.scale


def add_votes(
    settings: Settings, record: AllVotes, at: Perturbations, votes: WeightedVotes
) -> AllVotes:
    """Add a step's votes to the record, and what was measured while its answers were made."""
    tally = votes.tally
    up, down = count_sides(settings, tally)
    x, old = regressors_of_step(settings, at), record.votes
    lead, rows = x.shape[:-3], x.shape[-3] * x.shape[-2]

    def join(before: Floats, new: Floats) -> Floats:
        return np.concatenate([before, new.reshape(*lead, rows)], axis=-1)

    side = old.plus_on_a
    if tally.side is not None or side is not None:
        side = join(
            np.zeros(old.up.shape) if side is None else side,
            np.zeros(up.shape) if tally.side is None else tally.side,
        )
    states = record.states
    if at.inputs.state_differences is not None:
        new = at.inputs.state_differences.reshape(rows, -1)
        states = new if states is None else np.concatenate([states, new])
    both = Votes(
        np.concatenate([old.x, x.reshape(*lead, rows, -1)], axis=-2),
        join(old.up, up),
        join(old.down, down),
        side,
    )
    record = replace(record, votes=both, states=states)
    after = take_back(record, at.inputs.withdrawn)
    if settings.section.weighting == "equal" or votes.history is None:
        return after
    return weigh_all(settings, after, votes.history, votes.weights)


def weigh_all(
    settings: Settings, record: AllVotes, history: History, weights: Floats | None = None
) -> AllVotes:
    """The record with today's ``weights`` on all votes; None: as they are learned now."""
    weights = learn_weights(settings, record, history) if weights is None else weights
    up, down = sum_by_voter(history.verdicts, weights, tie_share(settings))
    return replace(record, votes=replace(record.votes, up=up, down=down))


def take_back(record: AllVotes, rows: tuple[Recounted, ...]) -> AllVotes:
    """The record with these rows' votes as they are without withdrawn ones.

    What a fit with the withdrawn votes has found is forgotten; ``fit`` is still that fit's.
    """
    if rows == record.withdrawn:
        return record
    up, down = record.votes.up.copy(), record.votes.down.copy()
    side = None if record.votes.plus_on_a is None else record.votes.plus_on_a.copy()
    for row, plus, minus, on_a in rows:
        up[..., row], down[..., row] = plus, minus
        if side is not None:
            side[..., row] = on_a
    votes = replace(record.votes, up=up, down=down, plus_on_a=side)
    none = np.full_like(record.log_factor, -np.inf)
    return replace(record, votes=votes, withdrawn=rows, log_factor=none)


def refit(settings: Settings, record: AllVotes, left: AllVotes) -> AllVotes:
    """The record of a run on named features, fitted to the votes that are ``left`` of it."""
    if left is record:
        return record
    fit = fit_named(settings, left)
    return replace(left, fit=fit, log_factor=np.asarray(fit.log_factor))


def tie_share(settings: Settings) -> float:
    """What a tie counts for either side: half a vote, but nothing where rows are fitted on texts.

    There it mostly says that the two texts do not differ in what is liked, which is no evidence
    that what they differ in is not liked (experiments/LOG.md, 2026-11-26).
    """
    return 0.0 if settings.picks_pairs else 0.5


def count_sides(settings: Settings, tally: Tally) -> tuple[Floats, Floats]:
    """Votes for plus and for minus of each comparison (..., K, N); none where texts are equal."""
    live, half = ~tally.identical, tie_share(settings) * tally.tie
    return np.where(live, tally.plus + half, 0.0), np.where(live, tally.minus + half, 0.0)


def sum_by_voter(
    verdicts: NDArray[np.int8], weights: Floats, share: float
) -> tuple[Floats, Floats]:
    """Votes for plus and for minus of each comparison (..., R) from verdicts (..., P, R/N, N).

    A tie counts ``share`` for each side; a negative weight counts for the other side.
    """
    plus, minus, tie = weighting.sum_votes(verdicts, weights)
    both = plus + share * tie, minus + share * tie
    up, down = (side.reshape(*side.shape[:-2], -1) for side in both)
    return up, down


def learn_weights(settings: Settings, record: AllVotes, history: History) -> Floats:
    """One weight per voter (..., P), judged by the posterior of all other voters' votes."""
    if not history.verdicts.size:
        return np.ones((*history.verdicts.shape[:-3], len(history.voters)))
    return weighting.skill(*view_of_others(settings, record, history)).weights


def view_of_others(settings: Settings, record: AllVotes, history: History) -> tuple[History, View]:
    """The latest `weighting.ROWS` comparisons, one a direction, and what others say of each.

    With one vote a direction, nobody else voted on it; the fit predicts what the others would have
    voted. This is done twice, so that a voter who disagrees with everybody has little weight, as
    the weighting gives it, when the others are judged.
    """
    verdicts = history.verdicts
    people, lead = len(history.voters), verdicts.shape[:-3]
    shape = (*lead, people, verdicts.shape[-2] * verdicts.shape[-1], 1)
    verdicts = verdicts.reshape(shape)[..., -weighting.ROWS :, :]
    rows = verdicts.shape[-2]
    latest = replace(history, verdicts=verdicts)
    x = record.votes.x[..., -rows:, :]
    every = np.broadcast_to(x[..., None, :, :], (*lead, people, *x.shape[-2:]))

    def view(weights: Floats) -> View:
        others = weights[..., None, :] * (1 - np.eye(people))
        up, down = sum_by_voter(verdicts[..., None, :, :, :], others, tie_share(settings))
        return _predict(settings, Votes(every, up, down), states)

    states = None if record.states is None else record.states[-rows:]
    first = view(np.ones((*lead, people)))
    return latest, view(weighting.skill(latest, first).weights)


def _predict(settings: Settings, votes: Votes, states: Floats | None) -> View:
    """Posterior mean and variance (..., R) of the logit of each row, by a fit of all rows."""
    if settings.features is None:
        posterior = fit(votes, prior(settings))
        mean = np.einsum("...rd,...d->...r", votes.x, posterior.w)
        return mean, np.einsum("...ri,...ij,...rj->...r", votes.x, posterior.covariance, votes.x)
    each = [
        _fit_joint(settings, Votes(x, up, down), states).moments(x, states)
        for x, up, down in zip(votes.x, votes.up, votes.down, strict=True)
    ]
    return np.array([mean for mean, _ in each]), np.array([variance for _, variance in each])


def regressors_of_step(settings: Settings, at: Perturbations) -> Floats:
    """The regressors of each comparison (..., K, N, p): z⁺ − z⁻.

    With named features: their differences, and the scores along the components, or z⁺ − z⁻ along
    each named coordinate.
    """
    named = settings.features
    if named is not None and not named.coordinates:
        if at.inputs.text_differences is None or at.inputs.scores is None:
            raise UsageError(f"step {at.step}: the features of its texts are not recorded")
        scores = at.inputs.scores[..., : named.components]
        return named_features.regressors(at.inputs.text_differences, scores)
    x = at.displacements(settings.distance)
    x = np.repeat(x[..., None, :], settings.section.N, axis=-2)
    if named is None:
        return x
    texts = at.inputs.text_differences
    if texts is None and named.names:
        raise UsageError(f"step {at.step}: the features of its texts are not recorded")
    texts = np.zeros((*x.shape[:-1], 0), dtype=np.int64) if texts is None else texts
    return named_features.regressors(texts, named_features.along(named, x))


def fit_votes(settings: Settings, record: AllVotes) -> tuple[Fit, JointFit | None]:
    """The posterior of the gradient by all votes; the newest step's votes have full weight.

    With named features, also the posterior of what the votes are about, else None. A direction of
    states is none of coordinates, so that the gradient shrinks by the states' share.
    """
    if settings.features is None:
        return fit(record.votes, prior(settings)), None
    joint = fit_named(settings, record)
    along = named_features.in_coordinates(joint.named, settings.features)
    if joint.states is None:
        return along, joint
    return replace(
        along, w=(1 - joint.share) * along.w, signal=np.asarray(joint.signal),
        log_factor=np.asarray(joint.log_factor),
    ), joint  # fmt: skip


def fit_named(settings: Settings, record: AllVotes) -> JointFit:
    """What the votes are about: named features or states."""
    return _fit_joint(settings, record.votes, record.states)


def _fit_joint(settings: Settings, votes: Votes, states: Floats | None) -> JointFit:
    scale = None if settings.features is None else settings.features.states
    known = None if scale is None else scale.known
    return fit_joint(votes, named_prior(settings), states, known)


def named_prior(settings: Settings) -> SparsePrior:
    """The prior of the weights on a run's named features and coordinates."""
    assert settings.features is not None
    apart = settings.distance * base_mu(settings)
    return named_features.prior_of(settings.features, settings.section.D, apart)


def prior(settings: Settings) -> Prior:
    """The prior of the gradient w: Gaussians of several widths around 0."""
    return Prior.blocks(settings.dim)
