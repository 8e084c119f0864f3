"""The loop that turns a policy, an evaluator and a ledger into a run.

Each pass finishes one step: `perturb_policy`, `sample_batches`, `ask_evaluators`, `update_policy`,
which also aggregates the votes. The ledger is the truth: whatever was reached is found there, so a
killed run goes on where it stood, and calling `run` again continues.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from szpo.evaluators.protocol import Evaluator
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.training import (
    ask_evaluators,
    budget,
    perturb_policy,
    position,
    sample_batches,
    update_policy,
)
from szpo.training.ask_evaluators import outcome_if_paused
from szpo.training.position import Position
from szpo.training.services import Bounds, Hooks, Prompts, Services
from szpo.training.step_report import Outcome, Stopwatch
from szpo.voting import lease, pauses
from szpo.voting.counting import StepVotes

if TYPE_CHECKING:
    from szpo.policies.protocol import Policy


def run(
    ledger: Ledger,
    policy: Policy,
    evaluator: Evaluator,
    prompts: Prompts,
    bounds: Bounds,
    hooks: Hooks | None = None,
) -> Outcome:
    """Drive a run until its bounds end it, a limit stops it or somebody pauses it.

    Args:
        ledger: The run, opened for writing.
        policy: At θ₀ or after any step of this run; it is brought to the head.
        evaluator: Answers the comparisons of each step.
        prompts: What each step asks, as `szpo.training.services.prompt_order` gives it.
        bounds: Where the run ends, how far it generates ahead, when a step is closed early.
        hooks: What the calling process supplies: how to wait, whom to report to, a held lease.

    Raises:
        LeaseError: another controller holds the run, or took it over.
        RunError: the canary (equal answers in three steps), a non-finite estimate.
        IntegrityError: the policy's weights are not the ledger's.
        UsageError: the policy or the prompts do not fit the run.
    """
    hooks = hooks or Hooks()
    own = lease.hold(ledger) if hooks.lease is None else contextlib.nullcontext(hooks.lease)
    with own as held:
        services = Services(
            ledger, policy, evaluator, prompts, run_spec.recorded_settings(ledger), held,
            bounds, hooks,
        )  # fmt: skip
        at = position.resume(ledger, services.settings, policy)
        while True:
            pauses.pause_if_due(ledger, at.step)
            end = outcome_if_paused(services, at) or _outcome_if_done(services, at)
            if end is not None:
                return end
            found = _do_step(services, at)
            if isinstance(found, Outcome):
                return found
            at = found


def _do_step(run: Services, at: Position) -> Position | Outcome:
    """One step; an outcome if the run was paused while it was open."""
    watch, step = Stopwatch(run.hooks.timer), at.step
    if perturb_policy.plan(run, at, step):
        sample_batches.generate(run, at, step, watch, then_open=run.bounds.lag == 0 or step == 0)
    sample_batches.open_stored(run, at, step)
    clock = ask_evaluators.steady_clock(run)
    perturb_policy.check_perturbation(run.ledger, step)
    comparisons, votes = run.ledger.comparisons(step), StepVotes(run.ledger, step)

    if (paused := outcome_if_paused(run, at)) is not None:
        return paused
    ask_evaluators.submit(run, step, comparisons, watch)
    # A step planned under lag 1 keeps its head, also when the run goes on without lag.
    ahead = run.bounds.lag or run.ledger.step(step + 1) is not None
    if ahead and perturb_policy.plan(run, at, step + 1):
        sample_batches.generate(run, at, step + 1, watch, then_open=False)
    if (paused := ask_evaluators.wait(run, at, comparisons, votes, watch, clock)) is not None:
        return paused

    pending = update_policy.tell(run, at, votes.look())
    report = update_policy.describe(run, at, pending, votes, comparisons)
    after = update_policy.apply(run, at, pending, report, watch)
    if run.hooks.on_step is not None:
        run.hooks.on_step(replace(report, seconds=watch.seconds()))
    return after


# ---- why a run ends ----


def _outcome_if_done(run: Services, at: Position) -> Outcome | None:
    """Why the next step is not done, by an operator's limits or the bounds of this call."""
    bounds, row = run.bounds, run.ledger.step(at.step)
    per_step = run.settings.K * run.settings.N * run.settings.M
    if row is None or row["state"] not in ("open", "closed"):  # what is begun is finished
        limit = budget.reason_to_stop(
            run.ledger, step=at.step, votes=at.votes, per_step=per_step, reading=run.reading
        )
        if limit is not None:
            return _outcome(at, "stopped", limit)
    ends = run_spec.read_budget(run.ledger)
    until, most = ends.get("steps", bounds.until_step), ends.get("votes", bounds.votes_budget)
    if until is not None and at.step >= until:
        return _outcome(at, "finished", f"{at.step} steps are applied")
    if most is not None and at.votes + per_step > most:
        spent = f"{at.votes} of {most} votes spent, a step takes {per_step}"
        return _outcome(at, "finished", spent)
    return None


def _outcome(at: Position, status: Literal["finished", "stopped"], reason: str) -> Outcome:
    return Outcome(status, reason, at.step, at.votes)
