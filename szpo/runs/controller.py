"""The loop that turns a policy, an evaluator and a ledger into a run.

Show a step's batches to M evaluators each, and wait until they have voted. Simulated evaluators
vote in `szpo.evaluators`, people through `ui/szpo_ui`; `szpo.voting` stores and counts their
votes.

Each pass finishes one step: `sample_batches` perturbs the policy and samples, `submit` and `wait`
ask evaluators, `update_policy` aggregates the votes. The ledger is the truth and has all progress,
so after a kill, calling `run` again continues where the run stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from szpo.errors import UsageError
from szpo.ledger import run_spec
from szpo.ledger.database import Clock, Record
from szpo.optim.optimizer import rule_of
from szpo.optim.rule import StepInputs
from szpo.runs import budget, sample_batches, start_features, update_policy
from szpo.runs.services import Position, Services, resume
from szpo.types import Comparison, Floats
from szpo.voting import lease, pauses, shown_features, shown_states, step_states
from szpo.voting.applied_step import Outcome, Stopwatch, read_reports
from szpo.voting.counting import StepVotes
from szpo.voting.recorded_step import note_inputs, read_step


def submit(run: Services, step: int, comparisons: Sequence[Comparison], watch: Stopwatch) -> None:
    """Submit the comparisons of an open step to the evaluators."""
    if run.row(step)["state"] == "open" and not all(c.identical for c in comparisons):
        watch.time("evaluation_s", lambda: run.evaluator.submit(comparisons))


def wait(
    run: Services,
    at: Position,
    comparisons: Sequence[Comparison],
    votes: StepVotes,
    watch: Stopwatch,
    clock: Clock,
) -> Outcome | None:
    """Wait until the step is closed; returns an outcome if the run was paused meanwhile."""
    ledger, epoch = run.ledger, run.epoch
    while True:
        row = run.row(at.step)
        if row["state"] != "open":
            return None  # closed by the rule, by an operator, or before a crash
        if (paused := outcome_if_paused(run, at)) is not None:
            return paused
        watch.time("evaluation_s", lambda: run.evaluator.poll(at.step))
        if all(c.identical for c in comparisons):
            step_states.close(ledger, at.step, "auto", epoch=epoch)
        elif not (
            step_states.close(ledger, at.step, "rule", epoch=epoch, votes=votes)
            or _close_if_overdue(run, row, votes, clock)
        ):
            watch.time("evaluation_s", run.wait)
            lease.check(ledger, run.epoch)


def steady_clock(run: Services) -> Clock:
    """The ledger's clock from now on, without jumps of the system clock, which could close a step.

    Only this controller applies the deadline. The time before it started, and pauses, are measured
    by the ledger's clock.
    """
    from_us, from_s = run.ledger.clock(), run.timer()
    return lambda: from_us + round((run.timer() - from_s) * 1e6)


def _close_if_overdue(run: Services, row: Record, votes: StepVotes, clock: Clock) -> bool:
    """Close a step whose deadline has passed, with the votes it has; False if it must wait."""
    seconds = run.deadline_s
    if seconds is None or clock() < step_states.deadline_us(run.ledger, row, seconds):
        return False
    return step_states.close(run.ledger, row["step"], "deadline", epoch=run.epoch, votes=votes)


def outcome_if_paused(run: Services, at: Position) -> Outcome | None:
    """The outcome of a run that somebody has paused; None if it is not paused."""
    flags = lease.controller(run.ledger)
    if flags["paused_by"] is None:
        return None
    by = pauses.describe_pause(flags["paused_by"], flags["pause_reason"])
    return Outcome("paused", by, at.step, at.votes)


def record_inputs(
    run: Services, at: Position, step: int, comparisons: Sequence[Comparison]
) -> None:
    """Measure the regressors of a step's votes and record them, unless the record has them.

    They depend on no vote: they are measured on the shown texts while panelists read them.
    """
    ledger, settings = run.ledger, run.settings
    fits = rule_of(settings.section.rule).two_points or settings.described is not None
    if not fits or read_step(ledger, step).body("regressors"):
        return
    named, scores = settings.described, None
    differences, ratings = None, dict[str, tuple[int, ...]]()
    if named is not None and not named.coordinates:
        scores = np.zeros((settings.section.K, len(comparisons) // settings.section.K, 0))
        if named.components:
            scores = _scores(run, comparisons)[..., : named.components]
    if named is not None and named.names:
        entries = run.counted_features
        shown_features.demand(named, entries)
        differences = shown_features.differences_of(named, comparisons, entries)
        ratings = shown_features.ratings_of(comparisons, entries)
    states = None
    if named is not None and named.states is not None:
        states = shown_states.read_of(run.policy, comparisons, named.states)
    inputs = StepInputs(scores, None, differences, states, ratings=ratings)
    with ledger.transaction("controller"):
        lease.check(ledger, run.epoch)
        ledger.record_event("regressors", "controller", note_inputs(step, inputs))


def _scores(run: Services, comparisons: Sequence[Comparison]) -> Floats:
    """Scores (K, N, d) of the shown texts."""
    settings, scores = run.settings, getattr(run.policy, "score_features", None)
    if scores is None:
        raise UsageError(
            "coordinates of named features need the scores of the shown texts, which this policy "
            "does not give; set subspace.kind to adapters"
        )
    return np.asarray(scores(comparisons).reshape(settings.section.K, -1, settings.dim))


def run(services: Services) -> Outcome:
    """Drive a run until its budget is spent, a limit stops it or somebody pauses it."""
    if services.lease is None:
        with lease.hold(services.ledger) as held:
            return run(replace(services, lease=held))
    at = resume(services.ledger, services.settings, services.policy)
    if at.step == 0 and services.check is not None:
        _write(services, at, Stopwatch(services.timer), then_open=False)
    while True:
        pauses.pause_if_due(services.ledger, at.step)
        end = outcome_if_paused(services, at) or _outcome_if_done(services, at)
        if end is not None:
            return end
        found = _do_step(services, at)
        if isinstance(found, Outcome):
            return found
        at = found


def _write(run: Services, at: Position, watch: Stopwatch, *, then_open: bool) -> None:
    """Plan the next step and write its answers, unless they are stored."""
    run.guide(at.step, run.epoch)
    if sample_batches.plan(run, at, at.step):
        sample_batches.generate(run, at, at.step, watch, then_open=then_open)


def _do_step(run: Services, at: Position) -> Position | Outcome:
    """Do one step; returns an outcome if the run was paused while the step was open."""
    watch, step = Stopwatch(run.timer), at.step
    _write(run, at, watch, then_open=run.lag == 0 or step == 0)
    if run.lag:
        run.guide(step + 1, run.epoch)  # a step is planned as the one before it opens
    sample_batches.open_stored(run, at, step)
    clock = steady_clock(run)
    sample_batches.check_perturbation(run.ledger, step)
    comparisons, votes = run.ledger.comparisons(step), StepVotes(run.ledger, step)

    if (paused := outcome_if_paused(run, at)) is not None:
        return paused
    submit(run, step, comparisons, watch)
    if not run.settings.awaits_features:
        record_inputs(run, at, step, comparisons)
    # A step planned under lag 1 keeps its head, even if the run continues without lag.
    ahead = run.lag or run.ledger.step(step + 1) is not None
    if ahead and sample_batches.plan(run, at, step + 1):
        sample_batches.generate(run, at, step + 1, watch, then_open=False)
    at = start_features.begin(run, at)
    record_inputs(run, at, step, comparisons)
    if (paused := wait(run, at, comparisons, votes, watch, clock)) is not None:
        return paused

    applied, after = update_policy.tell(run, at, votes.look(), comparisons)
    update_policy.apply(run, at, applied, after, watch)
    run.on_step(*read_reports(run.ledger, step))
    return after


# ---- why a run ends ----


def _outcome_if_done(run: Services, at: Position) -> Outcome | None:
    """The outcome if an operator's limit or the run's budget ends the run here, else None."""
    row = run.ledger.step(at.step)
    n = run.settings.section.N if row is None else row["n"]
    per_step = run.settings.section.K * n * run.settings.section.M
    if row is None or row["state"] not in ("open", "closed"):  # an open step is always finished
        limit = budget.reason_to_stop(run.ledger, step=at.step, votes=at.votes, per_step=per_step)
        if limit is not None:
            return Outcome("stopped", limit, at.step, at.votes)
    most = run_spec.read_budget(run.ledger).get("votes", run.votes_budget)
    if run.until_step is not None and at.step >= run.until_step:
        return Outcome("finished", f"{at.step} steps are applied", at.step, at.votes)
    if most is not None and at.votes + per_step > most:
        spent = f"{at.votes} of {most} votes spent, a step takes {per_step}"
        return Outcome("finished", spent, at.step, at.votes)
    return None
