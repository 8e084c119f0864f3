"""What the answers to triads and repeats in a ledger say of the logistic link."""

from __future__ import annotations

import numpy as np

from szpo import counting, linkcheck, triads
from szpo.intervals import share
from szpo.ledger import Ledger, Record
from szpo.linkcheck import LinkCheck


def check(ledger: Ledger) -> LinkCheck | None:
    """What the answers so far say of the logistic link; None where no triads were ordered."""
    ids = triads.asked(ledger)
    if not ids:
        return None
    place = {comparison: i for i, comparison in enumerate(ids)}
    won, votes = np.zeros((2, len(ids)))
    ties = 0
    for row in _said(ledger):
        if row["comparison"] in place:
            ties += row["verdict"] == "tie"
            if row["verdict"] in ("plus", "minus"):
                votes[place[row["comparison"]]] += 1
                won[place[row["comparison"]]] += row["verdict"] == "plus"
    whole = votes.reshape(-1, 3)
    full = (whole > 0).all(-1)
    return linkcheck.check(
        won.reshape(-1, 3)[full], whole[full], ties=ties, again=share(*_again(ledger))
    )


def _again(ledger: Ledger) -> tuple[int, int]:
    """Comparisons that a panelist answered twice: the same side, and all."""
    rows = _said(ledger)
    first = {(row["comparison"], row["panelist"]): row["verdict"] for row in rows}
    both = [
        (row["verdict"], first.get((row["repeats"], row["panelist"])))
        for row in rows
        if row["repeats"] is not None and row["kind"] == "repeat"
    ]
    sided = [(a, b) for a, b in both if a in ("plus", "minus") and b in ("plus", "minus")]
    return sum(a == b for a, b in sided), len(sided)


def _said(ledger: Ledger) -> list[Record]:
    """Last answers in time, not excluded, with what they say of the batches."""
    without = counting.excluded(ledger)
    last: dict[str, Record] = {}
    for row in ledger.query(
        "SELECT v.vote, v.assignment, v.choice, a.comparison, a.panelist, a.plus_side, c.kind, "
        "c.repeats FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE v.late = 0 AND c.kind IN ('train', 'repeat') "
        "ORDER BY v.vote"
    ):
        last[row["assignment"]] = row
    return [
        {**row, "verdict": counting.verdict(row["choice"], row["plus_side"])}
        for row in last.values()
        if row["vote"] not in without
    ]


def note(ledger: Ledger) -> dict[str, str]:
    """What a step's report says of the link: {"link": one line} where it does not fit, else {}."""
    found = check(ledger)
    return {} if found is None or found.warning is None else {"link": found.warning}
