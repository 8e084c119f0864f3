"""θ ← θ + α ĝ: from a closed step's votes to the moved policy, in `tell` and `apply`.

The rule computes α ĝ (`szpo.optim.optimizer`), `szpo.optim.parameters.apply_update` adds it to θ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from szpo.failpoints import failpoint
from szpo.ledger import canonical
from szpo.ledger import theta as recorded
from szpo.ledger.theta import starting_theta
from szpo.optim import kl_limits, optimizer, parameters
from szpo.optim.kl_limits import SHARE_PARTS, KlMeasurement, Reading
from szpo.optim.optimizer import rule_of
from szpo.optim.rule import check_finite
from szpo.optim.settings import Settings
from szpo.replay import replay
from szpo.runs.services import Position, Services, check_weights
from szpo.types import Comparison, Floats, Theta, Update
from szpo.voting import blind, pauses, step_states
from szpo.voting.applied_step import (
    AppliedStep,
    Stopwatch,
    count,
    figures_of,
    flatten,
    report_of,
)
from szpo.voting.counting import StepVotes
from szpo.voting.recorded_step import read_step

QUADRATIC_UP_TO: Final = 0.5
"""Nats up to which |z|²/2 is used as KL; beyond, measured KL has been three times as large."""


def tell(
    run: Services, at: Position, votes: StepVotes, comparisons: Sequence[Comparison]
) -> tuple[AppliedStep, Position]:
    """Hand the counted votes of a closed step to the optimizer; nothing is written or moved.

    Returns what to write of the step, and the position after it.
    """
    ledger, settings, step = run.ledger, run.settings, read_step(run.ledger, at.step)
    measure = measure_moved(settings, run.measured_kl)
    tally, state, updates, info = replay.tell_step(
        ledger, settings, step, at.state, votes.counted, measure=measure
    )
    failpoint("cp9")

    def move(theta: Theta, added: Sequence[Update]) -> tuple[Theta, str]:
        for update in added:
            theta = parameters.apply_update(settings.space, theta, update)  # θ ← θ + coef·v
        return theta, parameters.digest(theta, settings.layout, ledger.basis_sha256)

    added = optimizer.added_updates(settings, updates, "centre")
    centre, head = move(at.centre, added)
    theta, digest, reach = centre, head, None
    if rule_of(settings.section.rule).two_points:
        theta, digest = move(at.theta, optimizer.added_updates(settings, updates))
        reach = state.carried.reach
        reach = None if reach is at.state.carried.reach else reach  # not an earlier step's
    elif settings.kl_budget is not None and (at.step + 1) % kl_limits.MEASURED_EVERY == 0:
        start = starting_theta(ledger)
        reach = _measure(run, at.step, start, centre)
        centre = theta = kl_limits.draw_back(start, centre, reach)
        head = digest = parameters.digest(theta, settings.layout, ledger.basis_sha256)
    after = Position(state, theta, centre, head, at.votes + len(votes.counted))
    report = report_of(
        step.row,
        info,
        {**count(votes, comparisons), "total_votes": after.votes},
        votes_sha256=canonical.votes_sha256(votes.counted),
        theta_sha256=digest,
        before=flatten(at.theta, settings.layout),
        after=flatten(theta, settings.layout),
        findings=replay.findings(ledger, settings, state),
    )
    kl, measured = _kl(run, at, after, reach)
    report = replace(
        report,
        kl=kl,
        extra={**report.extra, **({"kl_measured": True} if measured else {})},
        reach=None if reach is None else asdict(reach),
        figures=figures_of(step),
    )
    return AppliedStep(settings.section.rule, tally, updates, report, head), after


def _measure(run: Services, step: int, start: Theta, theta: Theta) -> KlMeasurement | None:
    """How far a rule with one point may go by its budget; None where no KL can be measured."""
    limit, kl = run.settings.kl_budget, run.measured_kl
    if limit is None or kl is None:
        return None
    estimate = kl_limits.estimate(start, theta, run.settings.scale)

    def read(share: int) -> Reading:
        way = share / SHARE_PARTS
        nats = float(kl(parameters.between(start, theta, way)))
        check_finite(np.array([nats]), step, "measured KL")
        return Reading(share, max(0.0, nats), way**2 * estimate)

    return kl_limits.measure_share(limit, read) if estimate > 0 else None


def measure_moved(
    settings: Settings, kl: Callable[[Theta], float] | None
) -> Callable[[Floats], float] | None:
    """Maps a displacement from θ₀ to KL from the model's start; None where it is not measured."""
    if kl is None:
        return None
    name, shape = settings.layout[0]

    def measure(moved: Floats) -> float:
        return float(kl({name: moved.astype(np.float32).reshape(shape)}))

    return measure


def apply(
    run: Services, at: Position, applied: AppliedStep, after: Position, watch: Stopwatch
) -> None:
    """Commit a step's update to the ledger, then move the policy.

    A figure outside its band pauses the run in the same transaction.
    """
    ledger, bands, report = run.ledger, run.bands, applied.report
    watched = {**report.figures, "kl": report.kl, "norm": report.norm}
    # JSON has no NaN: null is "unknown".
    noted = replace(report, not_finite=bands.not_finite(watched), seconds=watch.seconds())
    with ledger.transaction("controller"):  # a guard's pause is never lost to a crash
        step_states.apply(ledger, run.epoch, replace(applied, report=noted))
        blind.return_if_due(ledger, at.step + 1)
        if (broken := bands.broken(watched)) is not None:
            pauses.pause(ledger, f"guard {broken[0]}", f"after step {at.step}: {broken[1]}")
    # From here on the step is done; everything below follows from the ledger.
    failpoint("cp11")
    for update in optimizer.added_updates(run.settings, applied.updates, "centre"):
        run.policy.apply(update)
    if report.reach is not None and not rule_of(run.settings.section.rule).two_points:
        movable: Any = run.policy  # its KL was measured, so it is a language model's
        movable.move_to(after.centre)
    failpoint("cp12")
    check_weights(ledger, run.policy, after, f"after step {at.step}")


def _kl(
    run: Services, at: Position, after: Position, reach: KlMeasurement | None
) -> tuple[float | None, bool]:
    """KL to the start for a step's report, and whether it was measured on answers."""
    # A rule without a KL budget can go where the quadratic estimate is wrong, so there KL is
    # measured; in guided directions now and then. With a budget, the estimate is scaled by the
    # last measurement. That of adopted weights was measured when they were adopted.
    if (adopted := recorded.last_adopted(run.ledger)) is not None:
        return (0.0 if recorded.went_back(adopted) else adopted.get("nats")), True
    two_points = rule_of(run.settings.section.rule).two_points
    if reach is not None and reach.measured is not None:
        return reach.measured, True
    if run.settings.guides and run.measured_kl is not None:
        # The length of a step in a span says nothing of what it costs.
        due = run.bands.kl is not None or (at.step + 1) % kl_limits.MEASURED_EVERY == 0
        return (float(run.measured_kl(after.theta)), True) if due else (None, False)
    if run.kl is None:
        return None, False
    kl = float(run.kl(after.theta))
    kl *= after.state.carried.kl_scale if two_points else 1.0
    far = kl >= QUADRATIC_UP_TO and not two_points
    if run.measured_kl is None or not (far or run.bands.kl is not None):
        return kl, False
    return float(run.measured_kl(after.theta)), True
