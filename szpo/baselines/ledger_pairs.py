"""A run's recorded votes as pairs: verdicts on rows, notes on rows, and batch verdicts row by row.

The verdict on a comparison is the majority of its counted votes. That on a single row (D = 1) is
a pair marked ``pair``. Of a batch, each row with different answers becomes a pair marked
``batch``, weaker evidence than a vote of its own. A row with panelists' notes becomes a pair
marked ``note`` instead, or none if the notes are balanced.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import groupby

from szpo.baselines.asking import pair_of
from szpo.baselines.costs import Meter
from szpo.data.pairs import Pair, Preferences, Source
from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger, Record
from szpo.types import Comparison, Verdict


def read_pairs(
    ledger: Ledger, meter: Meter | None = None, *, rows_of_batches: bool = True
) -> Preferences:
    """Read the pairs of closed steps from their counted votes, in the order of the steps.

    Votes and answers read are added to the meter, as the run counted them. Without
    ``rows_of_batches``, rows that nobody judged singly are left out, and their votes are counted.
    """
    pairs: list[Pair] = []
    ties = comparisons = unused = 0
    meter = meter or Meter()
    cast = ledger.query("SELECT * FROM counted_votes ORDER BY step, k, n, place")
    for shown, own in groupby(cast, key=lambda vote: vote["comparison"]):
        comparison, votes = ledger.comparison(shown), list(own)
        if comparison is None:
            raise IntegrityError(f"{ledger.path.name}: comparison {shown} is missing")
        meter.charge_votes([(r.plus, r.minus) for r in comparison.rows], votes=len(votes))
        found = _make_pairs(comparison, votes)
        ties += not found
        comparisons += 1
        kept = [pair for pair in found if rows_of_batches or pair.source != "batch"]
        unused += len(votes) if len(kept) < len(found) else 0
        pairs += kept
    return Preferences(tuple(pairs), ties, comparisons, unused=unused)


def _make_pairs(comparison: Comparison, votes: list[Record]) -> list[Pair]:
    """The pairs of one comparison."""
    lead = sum({"plus": 1, "minus": -1}.get(vote["verdict"], 0) for vote in votes)
    own: dict[int, list[int]] = defaultdict(list)
    for vote in votes:
        for i, value in _notes(vote).items():
            own[i].append(value)
    found = []
    whole: Source = "pair" if len(comparison.rows) == 1 else "batch"
    for i, row in enumerate(comparison.rows):
        if i in own and whole == "batch":
            pair = pair_of(row, _verdict(sum(own[i])), source="note", votes=len(own[i]))
        else:
            pair = pair_of(row, _verdict(lead), source=whole, votes=len(votes))
        found += [] if pair is None else [pair]
    return found


def _verdict(lead: int) -> Verdict:
    return "plus" if lead > 0 else "minus" if lead < 0 else "tie"


def _notes(vote: Record) -> dict[int, int]:
    """The notes of a vote by row: 1 for plus, −1 for minus, 0 for a tie; malformed ones are not.

    A note has the letter that the panelist saw on screen.
    """
    details = json.loads(vote["details"]) if vote["details"] else {}
    given = details.get("notes") if isinstance(details, dict) else None
    plus = vote["plus_side"]
    values = {"tie": 0, plus: 1, "B" if plus == "A" else "A": -1}
    return {
        int(i): values[letter]
        for i, letter in (given.items() if isinstance(given, dict) else ())
        if i.isdigit() and isinstance(letter, str) and letter in values
    }
