"""Triads: three batches of answers to the same prompts, every two compared, to test the link.

An operator orders them and `szpo.linkprobe` makes them: comparisons of kind "repeat" that repeat
nothing, belong to no step and enter no tally. Panelists meet them as the short comparisons of
waiting time. `szpo.linkcheck` has the arithmetic, `szpo.linkreport` what the answers say.
"""

from __future__ import annotations

from szpo import orders, seats
from szpo.ledger import Ledger
from szpo.seats import Letter


def asked(ledger: Ledger) -> list[str]:
    """Every comparison of a triad, in order: ab, bc and ac of the first, and so on."""
    return [c for order in orders.results(ledger, "triads") for c in orders.comparisons(order)]


def choose(ledger: Ledger, panelist: str) -> tuple[str, Letter] | None:
    """A triad's comparison that the panelist has not been shown, and the side of plus.

    None while none is left. Of the triads those first of which they have met least, then what the
    fewest have been shown: a panelist's own votes on one triad may go together.
    """
    triad = {comparison: i // 3 for i, comparison in enumerate(asked(ledger))}
    if not triad:
        return None
    heads = ledger.query(
        "SELECT c.comparison, count(a.assignment) AS seats, "
        "coalesce(sum(a.plus_side = 'A'), 0) AS left, coalesce(sum(a.panelist = ?), 0) AS met "
        "FROM comparisons c LEFT JOIN assignments a USING (comparison) WHERE c.kind = 'repeat' "
        "AND c.repeats IS NULL AND c.identical = 0 GROUP BY c.comparison",
        (panelist,),
    )
    heads = [head for head in heads if head["comparison"] in triad]
    met = [triad[head["comparison"]] for head in heads if head["met"]]
    free = [head for head in heads if not head["met"]]
    if not free:
        return None

    def rank(head: dict[str, object]) -> tuple[object, ...]:
        number = triad[str(head["comparison"])]
        return met.count(number), head["seats"], number, head["comparison"]

    best = min(free, key=rank)
    key = seats.side_key(ledger.root_seed, best["comparison"], panelist)
    sides = ["A"] * best["left"] + ["B"] * (best["seats"] - best["left"])
    return best["comparison"], seats.lesser(sides, key)
