"""Votes cast by each panelist, those of the open round too: their number is not their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from szpo.ledger.database import Ledger
from szpo.voting import second_seats


@dataclass(frozen=True, slots=True)
class VotesCast:
    """Training comparisons that each panelist has answered, up to a vote."""

    by_name: Mapping[str, int]
    last: int
    second: Mapping[str, int] = field(default_factory=dict)
    """Those of them that were answered as a second person, which no round counts."""


NONE: Final = VotesCast({}, 0)
_CAST: Final = (
    f"SELECT p.pseudonym, count(*) AS n, sum(v.assignment IN {second_seats.SEATS}) AS second "
    "FROM votes v CROSS JOIN assignments a "
    "USING (assignment) CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p "
    "USING (panelist) WHERE v.vote > ? AND v.vote <= ? AND v.revision = 0 "
    "AND c.kind = 'train' GROUP BY p.pseudonym"
)
"""By pseudonym: comparisons answered, and those as a second person; (after, until)."""


def count(ledger: Ledger, before: VotesCast = NONE) -> VotesCast:
    """The votes cast until now, by pseudonym; what ``before`` has counted is not read again.

    A comparison counts once, however often its answer was changed; skips and late votes count.
    """
    found, second = Counter(before.by_name), Counter(before.second)
    last = ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"]
    for row in ledger.query(_CAST, (before.last, last)):
        found[row["pseudonym"]] += row["n"]
        second[row["pseudonym"]] += row["second"]
    return VotesCast(found, last, second)
