"""Show a step's batches to M evaluators each, and wait until they have voted.

Simulated evaluators vote in `szpo.evaluators`, people through `ui/szpo_ui`; `szpo.voting` stores
and counts their votes.
"""

from __future__ import annotations

from collections.abc import Sequence

from szpo.ledger.database import Clock, Record
from szpo.training.position import Position
from szpo.training.services import Services
from szpo.types import Comparison
from szpo.voting import lease, pauses, steps
from szpo.voting.counting import StepVotes
from szpo.voting.step_report import Outcome, Stopwatch
from szpo.voting.steps import Closing


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
            steps.close(ledger, at.step, Closing("auto", epoch=epoch))
        elif not (
            steps.close(ledger, at.step, Closing("rule", epoch=epoch), votes=votes)
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
    if seconds is None or row["opened_us"] is None or (
        clock() < steps.deadline_us(run.ledger, row, seconds)
    ):  # fmt: skip
        return False
    closing = Closing("deadline", epoch=run.epoch)
    return steps.close(run.ledger, row["step"], closing, votes=votes)


def outcome_if_paused(run: Services, at: Position) -> Outcome | None:
    """The outcome of a run that somebody has paused; None if it is not paused."""
    flags = lease.controller(run.ledger)
    if flags["paused_by"] is None:
        return None
    by = pauses.describe_pause(flags["paused_by"], flags["pause_reason"])
    return Outcome("paused", by, at.step, at.votes)
