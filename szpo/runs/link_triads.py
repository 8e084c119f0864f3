"""Triads, ordered by an operator: three policies compared in pairs, to test the link function.

In each triad, θ + cμv, θ and θ − cμv answer the same prompts. v is a direction of an applied step
(the latest first), and all three use the same random numbers, as in a step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from szpo import seeds
from szpo.data.text_files import clean_answer
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import PanelEvaluator, enroll
from szpo.ledger import orders, run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.optim import optimizer
from szpo.replay import replay
from szpo.runs import samples
from szpo.runs.assemble import RunParts
from szpo.types import Batch, Comparison, Row, Shift
from szpo.voting import step_plan, triads
from szpo.voting.casting import VoteRequest

TRIADS: Final = 20
"""Default number of triads of an order."""
RADIUS: Final = 2
"""c: the outer policies are c times as far from θ as those of a step."""
EDGES: Final = ((0, 1), (1, 2), (0, 2))
"""Indices into (θ + cμv, θ, θ − cμv) of the comparisons ab, bc, ac; the first is plus."""
AT_ONCE: Final = 4
"""Triads drawn by one call of the policy."""


def fulfil(ledger: Ledger, order: Order, parts: RunParts) -> None:
    """Draw the batches; store three comparisons a triad and settle the order in one transaction.

    Raises:
        UsageError: there are no training prompts.
        LeaseError: the head is not where this process left it.
    """
    count, times = order.body.get("triads", TRIADS), order.body.get("radius", RADIUS)
    place = [o.id for o in orders.orders(ledger, "triads")].index(order.id)
    if not parts.prompts.train:
        raise UsageError("triads: this run's training prompts are not here; put their file back")
    settings, last = run_spec.recorded_settings(ledger), ledger.last_applied()
    state = replay.replay_state(ledger, settings)
    count_of = count * parts.settings.D
    asked = samples.draw_prompts(ledger, "triad prompts", place, parts.prompts.train, count_of)
    mu, newest = optimizer.ask(state).mu * times, last or 0
    shifts: list[Shift] = []
    for t in range(count):
        step = newest - t % (newest + 1)
        drawn = None if last is None else step_plan.read(ledger, settings, step)
        plus = optimizer.query(settings, step, mu, asked=drawn).shifts[0][0]
        shifts += [plus, Shift(step, 0, 0, 0.0), replace(plus, sign=-1)]
    batches_of = [asked[t * parts.settings.D : (t + 1) * parts.settings.D] for t in range(count)]
    batches: list[Batch] = []
    with samples.policy_at(ledger, parts, None) as policy:
        for first in range(0, count, AT_ONCE):
            some = batches_of[first : first + AT_ONCE]
            seed = seeds.as_seed(seeds.derive(ledger.root_seed, "triads", step=first, k=place))
            batches += policy.rollout(
                [prompts for prompts in some for _ in range(3)],
                shifts[3 * first : 3 * (first + len(some))],
                seed=seed,
            )
    made = []
    for t, prompts in enumerate(batches_of):
        three = batches[3 * t : 3 * t + 3]
        for edge, (first, second) in enumerate(EDGES):
            rows = tuple(
                Row(prompt, clean_answer(plus), clean_answer(minus))
                for prompt, plus, minus in zip(prompts, three[first], three[second], strict=True)
            )
            key = seeds.derive(ledger.root_seed, "triad", step=t, k=place, name=str(edge))
            made.append(Comparison(key.hex(), -1, place, 3 * t + edge, rows, kind="repeat"))
    orders.settle(ledger, order, {"rows": parts.settings.D, "after": last}, made)


def answer(panel: PanelEvaluator) -> int:
    """Let a panel in this process answer every triad; returns how many answers it gave."""
    service, given = panel.service, 0
    ledger = service.ledger
    for panelist, judge in enroll(service, "simulated", panel.name, panel.judges).items():
        while triads.choose(ledger, panelist) is not None:
            seat = service.calibration(panelist)
            comparison = None if seat is None else ledger.comparison(seat.comparison)
            if seat is None or comparison is None:  # the run is paused
                break
            name = f"{comparison.id}/{panelist}"
            choice = judge.judge(
                comparison,
                panelist=panelist,
                plus_side=seat.plus_side,
                key=seeds.derive(ledger.root_seed, "judge", name=name),
            )
            idem = seeds.derive(ledger.root_seed, "idem", name=name).hex()
            service.cast(VoteRequest(seat.id, choice, idem=idem))
            given += 1
    return given
