"""Triads: three batches of answers to the same prompts, compared pairwise to test the link.

An operator orders them and `szpo.runs.link_triads` draws the batches. Their comparisons have the
kind "repeat" but repeat nothing; they belong to no step and enter no tally. Waiting panelists are
shown them. `results` tests the link on the votes (`szpo.aggregation.link_test`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from szpo.aggregation import link_test
from szpo.aggregation.link_test import LinkCheck
from szpo.intervals import share
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.types import DECIDED, Vote
from szpo.voting import counting
from szpo.voting.seats import Letter
from szpo.voting.sides import less_used_side


def list_comparisons(ledger: Ledger) -> list[str]:
    """List the comparisons of all triads: ab, bc and ac of the first, then of the next."""
    return [c for order in orders.results(ledger, "triads") for c in orders.comparisons(order)]


def choose(ledger: Ledger, panelist: str) -> tuple[str, Letter] | None:
    """Choose a triad's comparison that the panelist has not been shown, and the side of plus.

    None while none is left. Triads that the panelist has seen least of come first, since one
    panelist's votes on a triad may depend on each other; then comparisons with the fewest seats.
    """
    triad = {comparison: i // 3 for i, comparison in enumerate(list_comparisons(ledger))}
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
    sides = ["A"] * best["left"] + ["B"] * (best["seats"] - best["left"])
    chosen = best["comparison"]
    return chosen, less_used_side(sides, ledger.root_seed, chosen, panelist)


def results(ledger: Ledger) -> LinkCheck | None:
    """Test the logistic link on the answers so far; None where no triads were ordered."""
    ids = list_comparisons(ledger)
    if not ids:
        return None
    index = {comparison: i for i, comparison in enumerate(ids)}
    won, asked = np.zeros((2, len(ids)))
    ties = 0
    votes = [cast.vote for cast in counting.standing_votes(ledger, "train", "repeat")]
    for vote in votes:
        if vote.comparison in index:
            ties += vote.verdict == "tie"
            if vote.verdict in DECIDED:
                asked[index[vote.comparison]] += 1
                won[index[vote.comparison]] += vote.verdict == "plus"
    whole = asked.reshape(-1, 3)
    full = (whole > 0).all(-1)
    return link_test.check(
        won.reshape(-1, 3)[full], whole[full], ties=ties, again=share(*_count_again(ledger, votes))
    )


def _count_again(ledger: Ledger, votes: Sequence[Vote]) -> tuple[int, int]:
    """Count the comparisons that a panelist answered twice: those with one verdict, and all."""
    repeated = {
        row["comparison"]: row["repeats"]
        for row in ledger.query(
            "SELECT comparison, repeats FROM comparisons WHERE kind = 'repeat' "
            "AND repeats IS NOT NULL"
        )
    }
    first = {(vote.comparison, vote.panelist): vote.verdict for vote in votes}
    both = [
        (vote.verdict, first.get((repeated[vote.comparison], vote.panelist)))
        for vote in votes
        if vote.comparison in repeated
    ]
    decided = [(a, b) for a, b in both if a in DECIDED and b in DECIDED]
    return sum(a == b for a, b in decided), len(decided)


def note(ledger: Ledger) -> dict[str, str]:
    """The link's warning for a step's notes, {"link": one line}; {} where the link fits."""
    found = results(ledger)
    return {} if found is None or found.warning is None else {"link": found.warning}
