"""Read a step's counted votes by voter, as a weighting of voters needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from szpo.aggregation.weighting import MINUS, PLUS, TIE, VotesByVoter
from szpo.ledger.database import Ledger
from szpo.optim.settings import Settings
from szpo.types import Floats, Tally, Vote
from szpo.voting import calibration

VERDICTS: Final = {"plus": PLUS, "minus": MINUS, "tie": TIE}


def read_votes_by_voter(
    ledger: Ledger, settings: Settings, step: int, votes: Sequence[Vote], tally: Tally
) -> VotesByVoter:
    """Arrange the counted ``votes`` of a closed step by voter, in the order of their ids.

    The weighting ``skill`` needs answers to gold, too: they are read up to the step's close.
    """
    gold = calibration.results(ledger, step) if settings.section.weighting == "skill" else {}
    voters = tuple(sorted({vote.panelist for vote in votes} | set(gold)))
    column = {voter: i for i, voter in enumerate(voters)}
    verdicts = np.zeros((len(voters), *tally.identical.shape), dtype=np.int8)
    for vote in votes:
        verdicts[column[vote.panelist], vote.k, vote.n] = VERDICTS[vote.verdict]
    answers: Floats | None = None
    if gold:
        answers = np.array([gold.get(voter, (0.0, 0.0)) for voter in voters])
    return VotesByVoter(voters, verdicts, tally.identical, answers)
