"""A run's recorded votes as pairs: verdicts on rows, notes on rows, and batch verdicts row by row.

The verdict on a comparison is the majority of its counted votes. That on a single row (D = 1) is
a pair marked ``pair``. Of a batch, each row with different answers becomes a pair marked
``batch``, weaker evidence than a vote of its own. A row with panelists' notes becomes a pair
marked ``note`` instead, or none if the notes are balanced.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

from szpo.baselines.asking import pair_of
from szpo.baselines.costs import Meter
from szpo.data.pairs import Pair, Preferences, Source
from szpo.ledger.database import Ledger
from szpo.types import Comparison, Verdict, Vote
from szpo.voting import counting


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
    notes = _notes(ledger)
    for comparison, votes in _voted(ledger):
        meter.charge_votes([(r.plus, r.minus) for r in comparison.rows], votes=len(votes))
        found = _make_pairs(comparison, votes, notes)
        ties += not found
        comparisons += 1
        kept = [pair for pair in found if rows_of_batches or pair.source != "batch"]
        unused += len(votes) if len(kept) < len(found) else 0
        pairs += kept
    return Preferences(tuple(pairs), ties, comparisons, unused=unused)


def _voted(ledger: Ledger) -> Iterator[tuple[Comparison, list[Vote]]]:
    """Yield comparisons of closed steps that have counted votes, each with its votes."""
    for step in ledger.steps():
        if step["state"] not in ("closed", "applied"):
            continue
        votes: dict[str, list[Vote]] = defaultdict(list)
        for vote in counting.counted(ledger, step["step"]):
            votes[vote.comparison].append(vote)
        for comparison in ledger.comparisons(step["step"]):
            if comparison.id in votes:
                yield comparison, votes[comparison.id]


def _make_pairs(
    comparison: Comparison, votes: list[Vote], notes: Mapping[tuple[str, str, int], dict[int, int]]
) -> list[Pair]:
    """The pairs of one comparison."""
    lead = sum({"plus": 1, "minus": -1}.get(vote.verdict, 0) for vote in votes)
    own: dict[int, list[int]] = defaultdict(list)
    for vote in votes:
        for i, value in notes.get((vote.comparison, vote.panelist, vote.revision), {}).items():
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


def _notes(ledger: Ledger) -> dict[tuple[str, str, int], dict[int, int]]:
    """Notes by comparison, panelist and revision: row → 1 for plus, −1 for minus, 0 for a tie.

    A note has the letter that the panelist saw on screen; malformed notes are ignored.
    """
    found: dict[tuple[str, str, int], dict[int, int]] = {}
    for vote in ledger.votes():
        details = json.loads(vote["details"]) if vote["details"] else {}
        given = details.get("notes") if isinstance(details, dict) else None
        if not isinstance(given, dict):
            continue
        plus = vote["plus_side"]
        values = {"tie": 0, plus: 1, "B" if plus == "A" else "A": -1}
        found[vote["comparison"], vote["panelist"], vote["revision"]] = {
            int(i): values[letter]
            for i, letter in given.items()
            if i.isdigit() and isinstance(letter, str) and letter in values
        }
    return found
