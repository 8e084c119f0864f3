"""θ′ = θ + μv, or θ ± μv, written before answers are sampled; then a batch from each policy.

`szpo.optim.optimizer.ask` chooses v and μ, and `szpo.optim.parameters.shift` adds μv to θ where
answers are sampled.

The answers become N comparisons a direction, of D rows each. A killed run continues from the
step's state in the ledger, and repeats nothing that is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from szpo import seeds
from szpo.data.text_files import clean_answer, clean_prompt
from szpo.errors import RunError, UsageError
from szpo.failpoints import failpoint
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.optim.optimizer import rule_of
from szpo.optim.settings import Settings
from szpo.policies.protocol import Halving
from szpo.runs import budget, guards, pair_choice
from szpo.runs.services import Position, Services
from szpo.types import Batch, Comparison, Prompt, Query, Row
from szpo.voting import step_states
from szpo.voting.applied_step import Stopwatch, flatten
from szpo.voting.recorded_step import read_step

CANARY_STEPS = 3
"""It is an error if both sides give equal answers throughout this many steps in a row."""


def plan(run: Services, at: Position, step: int) -> bool:
    """Write a step's perturbation to the ledger, and begin the step.

    Returns False if its answers are already stored.
    """
    ledger, epoch = run.ledger, run.epoch
    row = ledger.step(step)
    if row is not None and (
        row["state"] not in ("planned", "generating") or step_states.stored(ledger, step)
    ):
        return False
    failpoint("cp1")
    query = optimizer.ask(at.state, step) if row is None else None
    n = budget.comparisons_of_round(ledger, run.settings, run.sheet, run.votes_budget, at.votes)
    with ledger.transaction("controller"):
        record_plan(run, at, query)
        step_states.begin(ledger, epoch, step, n)
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
        step_states.record_plan(run.ledger, run.epoch, run.settings, query, at.centre_sha256)


def plan_ahead(run: Services, at: Position, step: int) -> Query | None:
    """With lag, the plan of the next step, which is recorded when this step opens.

    So neither a kill nor a later run without lag can plan it from another head or other votes.
    """
    if run.lag and run.ledger.step(step) is None:
        return optimizer.ask(at.state, step)
    return None


def generate(run: Services, at: Position, step: int, watch: Stopwatch, *, then_open: bool) -> None:
    """Let the policies answer the step's prompts, and store the comparisons.

    Raises:
        UsageError: the number of prompts is not the step's.
        RunError: the policy left prompts unanswered.
        IntegrityError: the policy's weights are not those from which the step was planned.
    """
    ledger, settings = run.ledger, run.settings
    prompts = _prompts(run, step)
    if settings.picks_pairs:
        (comparisons, pool, drawn), seconds = watch.time(
            "generation_s", lambda: pair_choice.draw(run, at, step, prompts)
        )
    else:
        pool = {}
        query = read_step(ledger, step).query(settings)
        shifts = [shift for pair in query.shifts for shift in pair]
        size = settings.section.N * settings.section.D
        asked = [prompts[shift.k * size : (shift.k + 1) * size] for shift in shifts]
        key = seeds.derive(settings.root_seed, "rollout", step=step)
        batches, seconds = watch.time(
            "generation_s", lambda: run.policy.rollout(asked, shifts, seed=seeds.as_seed(key))
        )
        comparisons = compare(settings, step, asked, batches)
        rows = [row for each in comparisons for row in each.rows]
        drawn = [(row.prompt, answer) for row in rows for answer in (row.plus, row.minus)]
    failpoint("cp3")
    if run.check is not None and step == 0:
        run.check(drawn)
    figures = {**guards.figures(comparisons), "generation_s": seconds}
    if isinstance(run.policy, Halving) and run.policy.halved_rows is not None:
        figures["batch_rows"] = run.policy.halved_rows  # the batch's shape changes last bits
    head = run.policy.digest()
    notes = {**figures, **pool}
    if rule_of(settings.section.rule).two_points:
        notes["centre"] = flatten(run.policy.theta(), settings.layout).tolist()
    ahead = plan_ahead(run, at, step + 1) if then_open else None
    with ledger.transaction("controller"):
        step_states.store(ledger, run.epoch, step, comparisons, head, notes, then_open=then_open)
        record_plan(run, at, ahead)


def compare(
    settings: Settings,
    step: int,
    prompts: Sequence[Sequence[Prompt]],
    batches: Sequence[Batch],
) -> tuple[Comparison, ...]:
    """A rollout's batches, (plus, minus) per direction, split into N comparisons of D rows."""
    if len(batches) != len(prompts) or any(
        len(batch) != len(asked) for batch, asked in zip(batches, prompts, strict=False)
    ):
        raise RunError(
            f"step {step}: the policy answered {[len(batch) for batch in batches]} prompts, "
            f"and was asked {[len(asked) for asked in prompts]}"
        )
    result = []
    for k in range(settings.section.K):
        rows = [
            Row(clean_prompt(prompt), clean_answer(plus), clean_answer(minus))
            for prompt, plus, minus in zip(
                prompts[2 * k], batches[2 * k], batches[2 * k + 1], strict=True
            )
        ]
        for n in range(settings.section.N):
            key = seeds.derive(settings.root_seed, "comparison", step=step, k=k, name=str(n))
            shown = tuple(rows[n * settings.section.D : (n + 1) * settings.section.D])
            result.append(Comparison(key.hex(), step, k, n, shown))
    return tuple(result)


def open_stored(run: Services, at: Position, step: int) -> None:
    """Open a step whose answers were stored during the votes on the step before."""
    if run.row(step)["state"] == "generating":
        ahead = plan_ahead(run, at, step + 1)
        with run.ledger.transaction("controller"):
            step_states.open_step(run.ledger, run.epoch, step)
            record_plan(run, at, ahead)


def _prompts(run: Services, step: int) -> tuple[Prompt, ...]:
    """The step's prompts: those of as many steps of the settings' N as it is large."""
    settings, n = run.settings, run.row(step)["n"]
    sql = "SELECT coalesce(sum(n), 0) AS n FROM steps WHERE run = ? AND step < ?"
    before = run.ledger.query(sql, (run.ledger.run, step))[0]["n"]
    numbers = range(before // settings.section.N, (before + n) // settings.section.N)
    given = [prompt for number in numbers for prompt in run.prompts(number)]
    needed = settings.section.K * n * settings.section.D
    if len(given) != needed:
        raise UsageError(f"step {step}: {len(given)} prompts given, K·N·D = {needed} are needed")
    return tuple(map(clean_prompt, given))
