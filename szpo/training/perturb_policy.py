"""θ′ = θ + μv, or θ ± μv: a step's perturbation, written to the ledger before answers are sampled.

`szpo.optim.optimizer.ask` chooses v and μ, and `szpo.optim.parameters.shift` adds μv to θ where
answers are sampled.
"""

from __future__ import annotations

from szpo.errors import RunError
from szpo.failpoints import failpoint
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.training import budget
from szpo.training.position import Position
from szpo.training.services import Services
from szpo.types import Query
from szpo.voting import steps

CANARY_STEPS = 3
"""It is an error if both sides give equal answers throughout this many steps in a row."""


def plan(run: Services, at: Position, step: int) -> bool:
    """Write a step's perturbation to the ledger, and begin the step.

    Returns False if its answers are already stored.
    """
    ledger, epoch = run.ledger, run.epoch
    row = ledger.step(step)
    if row is not None and (
        row["state"] not in ("planned", "generating") or steps.stored(ledger, step)
    ):
        return False
    failpoint("cp1")
    query = optimizer.ask(at.state, step) if row is None else None
    n = budget.comparisons_of_round(ledger, run.settings, run.sheet, run.votes_budget, at.votes)
    with ledger.transaction("controller"):
        record_plan(run, at, query)
        steps.begin(ledger, epoch, step, n)
    failpoint("cp2")
    return True


def check_perturbation(ledger: Ledger, step: int) -> None:
    """The canary: plus and minus must differ somewhere in the last `CANARY_STEPS` steps."""
    first = step - CANARY_STEPS + 1
    found = ledger.query(
        "SELECT count(*) AS n, coalesce(sum(identical = 0), 0) AS differing FROM comparisons "
        "WHERE run = ? AND kind = 'train' AND step BETWEEN ? AND ?",
        (ledger.run, first, step),
    )[0]
    row = ledger.step(step)
    if first >= 0 and found["n"] and not found["differing"] and row is not None:
        if row["pairing"] == "pool":
            raise RunError(
                f"steps {first}–{step}: all answers to each prompt are equal; raise "
                "generation.temperature, or take prompts that leave a choice"
            )
        raise RunError(
            f"steps {first}–{step}: plus and minus gave equal answers in every row at mu = "
            f"{row['mu']:.3g}; the perturbation does not reach the model, or is far too small"
        )


def record_plan(run: Services, at: Position, query: Query | None) -> None:
    """Write a step's perturbation to the ledger; nothing for None."""
    if query is not None:
        steps.record_plan(run.ledger, run.epoch, run.settings, query, at.centre_sha256)


def plan_ahead(run: Services, at: Position, step: int) -> Query | None:
    """With lag, the plan of the next step, which is recorded when this step opens.

    So neither a kill nor a later run without lag can plan it from another head or other votes.
    """
    if run.lag and run.ledger.step(step) is None:
        return optimizer.ask(at.state, step)
    return None
