"""Read a step's counted votes by voter: what a weighting of voters needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo.aggregation.weighting import MINUS, PLUS, TIE, VotesByVoter
from szpo.ledger.database import Ledger
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally, Vote
from szpo.voting import counting

VERDICTS: Final = {"plus": PLUS, "minus": MINUS, "tie": TIE}


def read_votes_by_voter(
    ledger: Ledger, settings: Settings, step: int, votes: Sequence[Vote], tally: Tally
) -> VotesByVoter:
    """The counted ``votes`` of a closed step by voter, their ids in order.

    Under the weighting ``skill`` with the known questions answered up to the step's close.
    """
    gold = count_gold(ledger, step) if settings.weighting == "skill" else {}
    voters = tuple(sorted({vote.panelist for vote in votes} | set(gold)))
    place = {voter: i for i, voter in enumerate(voters)}
    verdicts = np.zeros((len(voters), *tally.identical.shape), dtype=np.int8)
    for vote in votes:
        verdicts[place[vote.panelist], vote.k, vote.n] = VERDICTS[vote.verdict]
    asked: Floats | None = None
    if gold:
        asked = np.array([gold.get(voter, (0.0, 0.0)) for voter in voters])
    return VotesByVoter(voters, verdicts, tally.identical, asked)


def count_gold(ledger: Ledger, step: int) -> dict[str, tuple[float, float]]:
    """Right and all answers to known questions by panelist, up to the close of a step.

    Last answers count; a tie is half right, a skip is no answer.
    """
    row = ledger.step(step)
    if row is None or row["last_vote"] is None:
        return {}
    gold = ledger.query("SELECT comparison, expected FROM comparisons WHERE kind = 'gold'")
    expected = {head["comparison"]: head["expected"] for head in gold}
    until = {"last_vote": row["last_vote"], "last_amendment": row["last_amendment"]}
    found: dict[str, tuple[float, float]] = {}
    for _, _, vote in counting.answers(ledger, "gold", **until):
        if vote.verdict != "skip":
            right, asked = found.get(vote.panelist, (0.0, 0.0))
            hit = (
                0.5 if vote.verdict == "tie" else float(vote.verdict == expected[vote.comparison])
            )
            found[vote.panelist] = right + hit, asked + 1
    return found
