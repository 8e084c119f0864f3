"""The blind final comparison: the base against the tuned policy, on prompts that taught nothing.

Ordered by an operator, answered through the panelists' ordinary screen: plus is the tuned policy,
minus the base, and nobody sees which is which. An order may name a point on the way from the base
to the tuned policy instead. The two sides draw independent random numbers
(unlike a step's), because the figure is meant for readers: how often an answer of the one is
preferred to an answer of the other, each drawn as a user would get it.
"""

from __future__ import annotations

from collections.abc import Sequence

from szpo import seeds
from szpo.data.text_files import clean_prompt
from szpo.errors import UsageError
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.runs import samples
from szpo.runs.samples import Source
from szpo.types import Comparison, Prompt, Row
from szpo.voting import finals

COMPARISONS = 20
"""Comparisons of an order that names no number."""


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
    percent = order.body.get("percent", 100)
    sides = []
    for side, until, share in (("tuned", None, percent / 100), ("base", 0, 1.0)):
        seed = seeds.as_seed(seeds.derive(ledger.root_seed, "final", k=place, name=side))
        sides.append(samples.answers(ledger, source, asked, until=until, seed=seed, share=share))
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
    notes = {
        "rows": rows,
        "after": last,
        "tuned_sha256": tuned_sha256,
        "base_sha256": base_sha256,
    }
    finals.create(ledger, order, made, notes)


def _prompts(root_seed: int, place: int, heldout: Sequence[Prompt], count: int) -> list[Prompt]:
    """Held-out prompts in seeded order; where they run out, in another order again."""
    size = len(heldout)
    order = seeds.endless_order(
        size, count, lambda lap: seeds.derive(root_seed, "final prompts", step=lap * size, k=place)
    )
    return [clean_prompt(heldout[i]) for i in order]
