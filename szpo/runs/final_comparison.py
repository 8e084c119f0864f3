"""The blind final comparison: the base against the tuned policy, on prompts that taught nothing.

Ordered by an operator, answered through the panelists' ordinary screen: plus is the tuned policy,
minus the base, and nobody sees which is which. The two sides draw independent random numbers
(unlike a step's), because the figure is meant for readers: how often an answer of the one is
preferred to an answer of the other, each drawn as a user would get it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from szpo import seeds
from szpo.aggregation import win_rates
from szpo.aggregation.win_rates import Preferences, Said
from szpo.data.text_files import clean_prompt
from szpo.errors import UsageError
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.runs import samples
from szpo.runs.samples import Source
from szpo.types import Comparison, Prompt, Row
from szpo.voting import calibration, counting

COMPARISONS = 20
"""Comparisons of an order that names no number."""


@dataclass(frozen=True, slots=True)
class FinalResult:
    """The result of a final comparison so far."""

    order: int
    step: int
    """The last step applied to the tuned side."""
    comparisons: int
    identical: int
    """Comparisons whose two answers are the same in every row: shown to nobody."""
    closed: bool
    votes: Preferences


def fulfil(ledger: Ledger, order: Order, source: Source) -> None:
    """Draw both sides' answers and store the comparisons with the order's settlement, at once.

    Raises:
        UsageError: there are no held-out prompts, or no step is applied.
    """
    last = ledger.last_applied()
    if last is None:
        raise UsageError("final comparison: no step is applied yet; the two sides are the same")
    if not source.prompts.heldout:
        raise UsageError("final comparison: this run has no held-out prompts; set prompts.heldout")
    place = [o.id for o in orders.orders(ledger, "final")].index(order.id)
    count = order.body.get("comparisons", COMPARISONS)
    rows = min(source.rows, len(source.prompts.heldout))
    asked = _prompts(ledger.root_seed, place, source.prompts.heldout, count * rows)
    sides = []
    for side, until in (("tuned", None), ("base", 0)):
        seed = seeds.as_seed(seeds.derive(ledger.root_seed, "final", k=place, name=side))
        sides.append(samples.answers(ledger, source, asked, until=until, seed=seed))
    (tuned, tuned_sha256), (base, base_sha256) = sides
    pairs = [
        Row(prompt, plus, minus) for prompt, plus, minus in zip(asked, tuned, base, strict=True)
    ]
    made = [
        Comparison(
            seeds.derive(ledger.root_seed, "final", k=place, name=str(n)).hex(),
            -1,
            place,
            n,
            tuple(pairs[n * rows : (n + 1) * rows]),
            kind="final",
        )
        for n in range(count)
    ]
    body = {
        "comparisons": [comparison.id for comparison in made],
        "rows": rows,
        "after": last,
        "tuned_sha256": tuned_sha256,
        "base_sha256": base_sha256,
    }
    with ledger.transaction("controller"):
        if orders.settle(ledger, order, body):
            for comparison in made:
                ledger.append_comparison(comparison)


def result(ledger: Ledger, order: Order) -> FinalResult:
    """Count an order's final comparisons: each seat's last answer, unless it was late.

    Raises:
        UsageError: the order made no comparisons.
    """
    made = orders.comparisons(order)
    if not made or order.result is None:
        raise UsageError(f"order {order.id} has no comparisons: {order.error or 'not made yet'}")
    wanted = set(made)
    answers = [
        Said(vote.comparison, vote.panelist, vote.verdict)
        for _, _, vote in counting.answers(ledger, "final")
        if vote.comparison in wanted
    ]
    identical = ledger.query(
        "SELECT comparison FROM comparisons WHERE kind = 'final' AND identical = 1"
    )
    return FinalResult(
        order=order.id,
        step=order.result["after"],
        comparisons=len(made),
        identical=sum(row["comparison"] in wanted for row in identical),
        closed=order.closed_us is not None,
        votes=win_rates.count(answers, calibration.tuned(ledger)),
    )


def _prompts(root_seed: int, place: int, heldout: Sequence[Prompt], count: int) -> list[Prompt]:
    """Held-out prompts in seeded order; where they run out, in another order again."""
    size = len(heldout)
    order = seeds.endless_order(
        size, count, lambda lap: seeds.derive(root_seed, "final prompts", step=lap * size, k=place)
    )
    return [clean_prompt(heldout[i]) for i in order]
