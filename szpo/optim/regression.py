"""The rule `regression`: one logistic regression of all of the run's votes, and what it finds.

There are two points. Policies are compared around the *centre*, which follows the recommended
point. The *recommended* point is the best one by the votes so far: from the model's start along ŵ,
as far as the KL budget and the votes allow. It stays close to the start while the votes say
little, and closer while they may be chance (`szpo.optim.vote_regression.direction`).

KL is |z|²/2 in whitened coordinates, times the scale of the last measured point. A proposed point
is measured, and shrunk, before it is recorded (`szpo.optim.kl_limits`). Where KL cannot be
measured, that scale is 1.

What the votes so far say of the recommended point, and what holds it back. Every step of a run
whose rule fits all votes records it. It depends only on the settings and on what the rule carries,
so anybody can recompute it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np

from szpo.optim import kl_limits, named_features, vote_regression
from szpo.optim.all_votes import (
    AllVotes,
    add_votes,
    fit_named,
    fit_votes,
    learn_weights,
    regressors_of_step,
)
from szpo.optim.informative import explanations_of
from szpo.optim.kl_limits import AIMED_SHARE, ONE_READING, SHARE_PARTS, UNPROVEN, Reading
from szpo.optim.named_features import CARRIED, Claim, NamedFeatures, claims
from szpo.optim.rule import HistoryUse, Move, Perturbations, Rule, WeightedVotes, check_finite
from szpo.optim.schedule import base_mu
from szpo.optim.settings import Settings
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED, Fit, Votes, direction
from szpo.types import FEATURE_GRID, Explanation, Floats

BUDGET: Final = 3.0
"""The default `kl_budget`, nats."""


def ways(settings: Settings, record: AllVotes) -> tuple[Explanation, ...]:
    """The explanations of the votes so far, to draw directions from; empty before any vote."""
    if settings.features is None or record.fit is None:
        return ()
    return explanations_of(record.fit.named, settings.features)


def init(settings: Settings, lead: tuple[int, ...] = ()) -> AllVotes:
    """The record before step 0: no votes, and both points at θ₀."""
    zeros, named = np.zeros((*lead, settings.dim)), settings.features
    votes = Votes.empty(settings.dim if named is None else named.columns, lead)
    return AllVotes(votes, zeros, zeros, np.full(lead, -np.inf))


def move(
    settings: Settings,
    record: AllVotes,
    at: Perturbations,
    votes: WeightedVotes,
) -> Move:
    """Fit all votes, move the recommended point to where they point, and the centre towards it."""
    record = add_votes(settings, record, at, votes)
    fit, joint = fit_votes(settings, record)
    seen = np.maximum(record.log_factor, fit.log_factor)
    record = replace(record, log_factor=seen, fit=joint)
    record, target = limit_by_kl(settings, record, at, find_target(settings, record, fit))
    vector, recommended = _move_in_fp32(record.recommended, target - record.recommended)
    move_of_centre = target - record.centre
    length = np.sqrt((move_of_centre * move_of_centre).sum(-1, keepdims=True))
    step = longest_step(settings)
    move_of_centre = np.where(
        length > step, move_of_centre * (step / np.where(length > 0, length, 1.0)), move_of_centre
    )
    moved, centre = _move_in_fp32(record.centre, move_of_centre)
    if settings.picks_pairs and joint is not None:  # mean of the N rows in the place of k
        states = at.inputs.state_differences
        delta, spread = joint.moments(
            regressors_of_step(settings, at).mean(-2), None if states is None else states.mean(-2)
        )
    else:
        x = at.displacements(settings.distance)
        delta = np.einsum("...ki,...i->...k", x, fit.w)
        spread = np.einsum("...ki,...ij,...kj->...k", x, fit.covariance, x)
    return Move(
        replace(record, recommended=recommended, centre=centre),
        vector=vector,
        centre=moved,
        delta=np.asarray(delta),
        stderr=np.sqrt(spread),
        posterior=fit,
    )


def whitened_unit(settings: Settings) -> float:
    """The length of one whitened unit in coordinates; in whitened units KL is about |z|²/2.

    It follows from the radius of the comparisons, whose KL is ``kl_radius`` by definition.
    """
    return base_mu(settings) * math.sqrt(settings.dim / (2 * settings.section.kl_radius))


def longest_step(settings: Settings) -> float:
    """The longest step of the centre, in coordinates."""
    return whitened_unit(settings) * settings.centre_step


def find_radius(settings: Settings, record: AllVotes) -> float:
    """Radius of the ball that contains the recommended point; ∞ without a budget."""
    if settings.kl_budget is None:
        return math.inf
    nats = AIMED_SHARE * settings.kl_budget
    return whitened_unit(settings) * math.sqrt(2 * nats / record.kl_scale)


def quadratic_kl(settings: Settings, moved: Floats) -> float:
    """|z|²/2 in whitened units of a point, given as its displacement from θ₀ (d,), in nats."""
    z = moved / whitened_unit(settings)
    return float((z * z).sum()) / 2


def find_target(settings: Settings, record: AllVotes, fit: Fit) -> Floats:
    """The point (..., d) that the votes propose, as its displacement from θ₀.

    Without a budget it lies at most one step of the centre beyond the centre.
    """
    if settings.kl_budget is None:
        step = longest_step(settings) * direction(fit, record.log_factor)
        return np.asarray(record.centre + step)
    unproven = math.sqrt(UNPROVEN / (AIMED_SHARE * settings.kl_budget))
    return find_radius(settings, record) * direction(fit, record.log_factor, unproven)


def limit_by_kl(
    settings: Settings, record: AllVotes, at: Perturbations, target: Floats
) -> tuple[AllVotes, Floats]:
    """Shrink the way to the target (d,) to what measured KL allows."""
    reach = at.inputs.reach
    if reach is None and at.measure_kl is not None and _needs_measuring(settings, record, target):
        measure = at.measure_kl

        def read(share: int) -> Reading:
            point = share / SHARE_PARTS * target
            nats = measure(point)
            check_finite(np.array([nats]), at.step, "measured KL")
            return Reading(share, max(0.0, nats), quadratic_kl(settings, point))

        reach = kl_limits.measure_share(find_limit(settings, record), read)
    if reach is None:
        return record, target
    record = replace(record, reach=reach, proposed=target)
    if reach.share < SHARE_PARTS:
        target = reach.share / SHARE_PARTS * target
    return record, target


def find_limit(settings: Settings, record: AllVotes) -> float:
    """Largest measured KL of a point, nats: the budget, or less while the votes may be chance.

    Points aim at `AIMED_SHARE` of this limit.
    """
    assert settings.kl_budget is not None
    proven = float(record.log_factor) >= math.log(BAYES_FACTOR_NEEDED)
    return settings.kl_budget if proven else min(settings.kl_budget, ONE_READING)


def _needs_measuring(settings: Settings, record: AllVotes, target: Floats) -> bool:
    """The target (d,) has a budget, is far enough, and is not near a reading within its budget."""
    small = quadratic_kl(settings, target) < kl_limits.LEAST_KL
    if settings.kl_budget is None or small:
        return False
    if record.reach is None or record.proposed is None:
        return True
    if find_limit(settings, record) <= ONE_READING < settings.kl_budget:
        return False  # votes may be chance: the first reading scales these short moves
    read = record.reach.nearest
    before = read.share / SHARE_PARTS * record.proposed
    moved = float(np.linalg.norm(target - before))
    near = moved <= kl_limits.UNMOVED_SHARE * float(np.linalg.norm(before))
    return not near or read.kl > record.reach.limit


def figures(done: Move) -> dict[str, float]:
    """Sizes of gradient, uncertainty and move, signal probability and KL scale."""
    fit = done.posterior
    assert fit is not None and done.vector is not None
    return {
        "gradient": float(np.linalg.norm(fit.w)),
        "uncertainty": math.sqrt(float(np.trace(fit.covariance))),
        "signal": float(fit.signal),
        "kl_scale": done.carried.kl_scale,
        "length": float(np.linalg.norm(done.vector)),
    }


def _move_in_fp32(here: Floats, way: Floats) -> tuple[Floats, Floats]:
    """A move and the point it leads to, both rounded to fp32 as they are recorded and applied."""
    with np.errstate(over="ignore"):
        moved = way.astype(np.float32)
        there = here.astype(np.float32) + moved
    return moved.astype(np.float64), there.astype(np.float64)


RULE = Rule(
    name="regression",
    init=init,
    alpha=lambda settings, record, step: None,
    past=lambda settings, record: HistoryUse(
        record.votes.up.shape[-1] + settings.section.K * settings.section.N,
        alone=True,
        weights=functools.partial(learn_weights, settings, record),
    ),
    move=move,
    figures=figures,
    is_exact=lambda settings: False,
    ways=ways,
    two_points=True,
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the votes of a run say after a step."""

    factor: float
    """The largest log Bayes factor for any signal that the run has seen."""
    side: float = 0.0
    """The advantage of side A, logits."""
    taught: tuple[Claim, ...] | None = None
    """What the votes are about, in named features; None without named features."""
    unnamed: float = 0.0
    """Probability that score components or hidden states explain the votes, and no named feature
    does."""
    chance: float = 0.0
    """Probability that nothing explains the votes."""
    mix: tuple[tuple[str, float | None], ...] = ()
    """The named coordinates at the recommended point: name, and what it alone costs in nats,
    negative against its name; None where adopted weights are recommended instead."""
    lacking: tuple[str, ...] = ()
    """Claimed groups that no direction in the named coordinates moves by much."""

    @property
    def shown(self) -> bool:
        """The votes show that they share a taste."""
        return self.factor >= math.log(vote_regression.BAYES_FACTOR_NEEDED)

    @property
    def replaced(self) -> Findings:
        """The same where adopted weights are recommended instead of the mix."""
        return replace(self, mix=tuple((name, None) for name, _ in self.mix))

    def to_json(self) -> dict[str, Any]:
        """As JSON for the record."""
        own = ("mix", "lacking") if not self.mix else ()
        return {name: value for name, value in asdict(self).items() if name not in own}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Findings:
        """Read the output of `to_json` from the record."""
        taught = body["taught"]
        named = None if taught is None else tuple(Claim(**each) for each in taught)
        factor = -math.inf if body["factor"] is None else body["factor"]
        lists = {
            "lacking": tuple(body.get("lacking", ())),
            "mix": tuple((name, nats) for name, nats in body.get("mix", ())),
        }
        known = {each.name: body[each.name] for each in fields(cls) if each.name in body}
        return cls(**{**known, **lists, "taught": named, "factor": factor})


def findings_of(settings: Settings, record: AllVotes) -> Findings:
    """What the rule carries between two steps of one run, as far as people should know it."""
    factor, features = float(record.log_factor), settings.features
    if features is None:
        fitted = fit_votes(settings, record)[0]
        return Findings(
            factor, float(fitted.side_coefficient),
            chance=1 - float(fitted.signal),
        )  # fmt: skip
    joint = record.fit or fit_named(settings, record)
    named = joint.named
    said = claims(named, features, kept=joint.kept)
    along = named_features.nats_along(features, record.recommended / whitened_unit(settings))
    return Findings(
        factor, named.side, taught=said,
        unnamed=joint.kept * named.dense + joint.signal * joint.share, chance=1 - joint.signal,
        mix=tuple(zip(features.coordinates, along, strict=True)),
        lacking=_lacking(features, said),
    )  # fmt: skip


def _lacking(features: NamedFeatures, said: Sequence[Claim]) -> tuple[str, ...]:
    """Groups whose leading feature moves by less than `CARRIED` in any direction of length 1."""
    if not features.coordinates:
        return ()
    made = {name for name, _ in features.made_for}
    groups = {each.name: each for each in named_features.groups(features)}
    lacking = []
    for claim in said:
        group = groups[claim.group]
        if group.coordinate is None and made.isdisjoint(features.names[i] for i in group.members):
            most = max(math.hypot(*features.map[i]) for i in group.members)
            lacking += [claim.group] * (most < CARRIED * FEATURE_GRID)
    return tuple(dict.fromkeys(lacking))
