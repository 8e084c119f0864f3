"""A step's counted votes by voter, read from the ledger: what a weighting of voters needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo.aggregation.weighting import MINUS, PLUS, TIE, Ballots
from szpo.ledger.database import Ledger
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally, Vote
from szpo.voting import counting

SAID: Final = {"plus": PLUS, "minus": MINUS, "tie": TIE}


def ballots(
    ledger: Ledger, settings: Settings, step: int, votes: Sequence[Vote], tally: Tally
) -> Ballots:
    """The counted ``votes`` of a closed step by voter, their ids in order.

    Under the weighting ``skill`` with the known questions answered up to the step's close.
    """
    gold = known(ledger, step) if settings.weighting == "skill" else {}
    voters = tuple(sorted({vote.panelist for vote in votes} | set(gold)))
    place = {voter: i for i, voter in enumerate(voters)}
    said = np.zeros((len(voters), *tally.identical.shape), dtype=np.int8)
    for vote in votes:
        said[place[vote.panelist], vote.k, vote.n] = SAID[vote.verdict]
    asked: Floats | None = None
    if gold:
        asked = np.array([gold.get(voter, (0.0, 0.0)) for voter in voters])
    return Ballots(voters, said, tally.identical, asked)


def known(ledger: Ledger, step: int) -> dict[str, tuple[float, float]]:
    """Right and all answers to known questions by panelist, up to the close of a step.

    Last answers count; a tie is half right, a skip is no answer.
    """
    row = ledger.step(step)
    if row is None or row["last_vote"] is None:
        return {}
    without = counting.excluded(ledger, row["last_amendment"])
    last = {
        vote["assignment"]: vote
        for vote in ledger.query(
            "SELECT v.vote, v.assignment, v.choice, a.panelist, a.plus_side, c.expected "
            "FROM comparisons c JOIN assignments a USING (comparison) "
            "JOIN votes v USING (assignment) "
            "WHERE c.kind = 'gold' AND v.late = 0 AND v.vote <= ? ORDER BY v.vote",
            (row["last_vote"],),
        )
    }
    found: dict[str, tuple[float, float]] = {}
    for vote in last.values():
        verdict = counting.verdict(vote["choice"], vote["plus_side"])
        if verdict == "skip" or vote["vote"] in without:
            continue
        right, asked = found.get(vote["panelist"], (0.0, 0.0))
        hit = 0.5 if verdict == "tie" else float(verdict == vote["expected"])
        found[vote["panelist"]] = right + hit, asked + 1
    return found
