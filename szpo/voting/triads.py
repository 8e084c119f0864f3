"""Triads: three batches of answers to the same prompts, every two compared, to test the link.

An operator orders them and `szpo.runs.link_triads` makes them: comparisons of kind "repeat" that
repeat nothing, belong to no step and enter no tally. Panelists meet them as the short comparisons
of waiting time. `szpo.aggregation.link_test` has the arithmetic, `szpo.voting.triads` what the
answers say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo.aggregation import link_test
from szpo.aggregation.link_test import LinkCheck
from szpo.intervals import share
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.types import Vote
from szpo.voting import counting, seats
from szpo.voting.seats import Letter

SIDES: Final = ("plus", "minus")


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
    return best["comparison"], seats.less_used_side(sides, key)


def check(ledger: Ledger) -> LinkCheck | None:
    """What the answers so far say of the logistic link; None where no triads were ordered."""
    ids = asked(ledger)
    if not ids:
        return None
    place = {comparison: i for i, comparison in enumerate(ids)}
    won, votes = np.zeros((2, len(ids)))
    ties = 0
    said = [cast.vote for cast in counting.answers(ledger, "train", "repeat")]
    for vote in said:
        if vote.comparison in place:
            ties += vote.verdict == "tie"
            if vote.verdict in SIDES:
                votes[place[vote.comparison]] += 1
                won[place[vote.comparison]] += vote.verdict == "plus"
    whole = votes.reshape(-1, 3)
    full = (whole > 0).all(-1)
    return link_test.check(
        won.reshape(-1, 3)[full], whole[full], ties=ties, again=share(*_again(ledger, said))
    )


def _again(ledger: Ledger, said: Sequence[Vote]) -> tuple[int, int]:
    """Comparisons that a panelist answered twice: the same side, and all."""
    repeated = {
        row["comparison"]: row["repeats"]
        for row in ledger.query(
            "SELECT comparison, repeats FROM comparisons WHERE kind = 'repeat' "
            "AND repeats IS NOT NULL"
        )
    }
    first = {(vote.comparison, vote.panelist): vote.verdict for vote in said}
    both = [
        (vote.verdict, first.get((repeated[vote.comparison], vote.panelist)))
        for vote in said
        if vote.comparison in repeated
    ]
    sided = [(a, b) for a, b in both if a in SIDES and b in SIDES]
    return sum(a == b for a, b in sided), len(sided)


def note(ledger: Ledger) -> dict[str, str]:
    """What a step's report says of the link: {"link": one line} where it does not fit, else {}."""
    found = check(ledger)
    return {} if found is None or found.warning is None else {"link": found.warning}
