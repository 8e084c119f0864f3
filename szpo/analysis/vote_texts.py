"""A ledger's training votes with the texts that they judge, for the study of tastes.

It holds counted votes of closed rounds only: an operator should not watch a panel vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison, Floats, Ints
from szpo.voting import counting

WORTH = {"plus": 1.0, "tie": 0.5, "minus": 0.0}


@dataclass(frozen=True)
class Judged:
    """n votes on the comparisons of closed rounds."""

    comparisons: tuple[Comparison, ...]
    which: Ints
    """(n,) the comparison of each vote, as an index."""
    y: Floats
    """(n,) 1 plus, 0 minus, ½ tie."""
    panelist: tuple[str, ...]
    """(n,) pseudonyms."""


def read(ledger: Ledger) -> Judged:
    """The counted votes of every closed round, in order of step, direction and comparison.

    Raises:
        UsageError: there are none.
    """
    names = {row["panelist"]: row["pseudonym"] for row in ledger.query("SELECT * FROM panelists")}
    shown: list[Comparison] = []
    which, y, panelist = [], [], []
    for step in ledger.steps():
        if step["state"] not in ("closed", "applied"):
            continue
        votes = sorted(counting.counted(ledger, step["step"]), key=lambda vote: (vote.k, vote.n))
        voted = {vote.comparison for vote in votes}
        first = len(shown)
        shown += [c for c in ledger.comparisons(step["step"]) if c.id in voted]
        place = {c.id: first + i for i, c in enumerate(shown[first:])}
        which += [place[vote.comparison] for vote in votes]
        y += [WORTH[vote.verdict] for vote in votes]
        panelist += [names[vote.panelist] for vote in votes]
    if not y:
        raise UsageError(
            f"{ledger.path.name} has no votes on a closed round yet; let its panel vote first"
        )
    return Judged(tuple(shown), np.array(which, dtype=np.int64), np.array(y), tuple(panelist))
