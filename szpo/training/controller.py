"""The loop that turns a policy, an evaluator and a ledger into a run.

Each pass finishes one step: `perturb_policy`, `sample_batches`, `ask_evaluators`, and
`update_policy`, which also aggregates the votes. The ledger is the truth and has all progress, so
after a kill, calling `run` again continues where the run stopped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from szpo.ledger import run_spec
from szpo.training import (
    ask_evaluators,
    budget,
    measure_inputs,
    perturb_policy,
    position,
    sample_batches,
    start_features,
    update_policy,
)
from szpo.training.ask_evaluators import outcome_if_paused
from szpo.training.position import Position
from szpo.training.services import Services
from szpo.voting import lease, pauses
from szpo.voting.counting import StepVotes
from szpo.voting.step_report import Outcome, Stopwatch, read_steps


def run(services: Services) -> Outcome:
    """Drive a run until its budget is spent, a limit stops it or somebody pauses it."""
    if services.lease is None:
        with lease.hold(services.ledger) as held:
            return run(replace(services, lease=held))
    at = position.resume(services.ledger, services.settings, services.policy)
    while True:
        pauses.pause_if_due(services.ledger, at.step)
        end = outcome_if_paused(services, at) or _outcome_if_done(services, at)
        if end is not None:
            return end
        found = _do_step(services, at)
        if isinstance(found, Outcome):
            return found
        at = found


def _do_step(run: Services, at: Position) -> Position | Outcome:
    """Do one step; returns an outcome if the run was paused while the step was open."""
    watch, step = Stopwatch(run.timer), at.step
    if perturb_policy.plan(run, at, step):
        sample_batches.generate(run, at, step, watch, then_open=run.lag == 0 or step == 0)
    sample_batches.open_stored(run, at, step)
    clock = ask_evaluators.steady_clock(run)
    perturb_policy.check_perturbation(run.ledger, step)
    comparisons, votes = run.ledger.comparisons(step), StepVotes(run.ledger, step)

    if (paused := outcome_if_paused(run, at)) is not None:
        return paused
    ask_evaluators.submit(run, step, comparisons, watch)
    if step == 0:
        run.behind()
        if (paused := outcome_if_paused(run, at)) is not None:
            return paused
    if run.settings.features is not None or not run.settings.idle:
        measure_inputs.record(run, at, step, comparisons)
    # A step planned under lag 1 keeps its head, even if the run continues without lag.
    ahead = run.lag or run.ledger.step(step + 1) is not None
    if ahead and perturb_policy.plan(run, at, step + 1):
        sample_batches.generate(run, at, step + 1, watch, then_open=False)
    at = start_features.begin(run, at)
    measure_inputs.record(run, at, step, comparisons)
    if (paused := ask_evaluators.wait(run, at, comparisons, votes, watch, clock)) is not None:
        return paused

    pending = update_policy.tell(run, at, votes.look())
    noted = update_policy.describe(run, at, pending, votes, comparisons)
    after = update_policy.apply(run, at, pending, noted, watch)
    run.on_step(*read_steps(run.ledger, step))
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
            return _outcome(at, "stopped", limit)
    ends = run_spec.read_budget(run.ledger)
    until, most = ends.get("steps", run.until_step), ends.get("votes", run.votes_budget)
    if until is not None and at.step >= until:
        return _outcome(at, "finished", f"{at.step} steps are applied")
    if most is not None and at.votes + per_step > most:
        spent = f"{at.votes} of {most} votes spent, a step takes {per_step}"
        return _outcome(at, "finished", spent)
    return None


def _outcome(at: Position, status: Literal["finished", "stopped"], reason: str) -> Outcome:
    return Outcome(status, reason, at.step, at.votes)
