"""What the votes of the last round did, as those who go on voting may know it.

How many, by how many, how often two of them agreed and how the model's step compares with the one
before; never which side or what feature they preferred, which would tell people how to vote next.
"""

from __future__ import annotations

from typing import Any, Final

from szpo.ledger.database import Ledger

PEOPLE: Final = 3
"""Persons from which agreement is told: of two, each would learn how the other voted."""
_ROUND: Final = """
WITH ended AS (
  SELECT event, json_extract(body, '$.step') AS step, json_extract(body, '$.votes') AS votes,
    json_extract(body, '$.moved') AS moved
  FROM events WHERE kind = 'step' ORDER BY event DESC LIMIT 2
), cast_votes AS (
  SELECT c.comparison, a.panelist, v.choice, v.choice = a.plus_side AS plus
  FROM comparisons c CROSS JOIN assignments a ON a.comparison = c.comparison
  CROSS JOIN votes v ON v.assignment = a.assignment AND v.revision =
    (SELECT max(revision) FROM votes WHERE assignment = a.assignment)
  WHERE c.run = ? AND c.kind = 'train' AND v.late = 0 AND v.choice <> 'skip'
    AND c.step = (SELECT step FROM ended ORDER BY event DESC LIMIT 1)
), sides AS (
  SELECT sum(plus) AS p, sum(NOT plus) AS m FROM cast_votes WHERE choice <> 'tie'
  GROUP BY comparison
)
SELECT step, votes, moved, (SELECT count(DISTINCT panelist) FROM cast_votes) AS people,
  (SELECT sum(p * (p - 1) + m * (m - 1)) / 2 FROM sides) AS same,
  (SELECT sum((p + m) * (p + m - 1)) / 2 FROM sides) AS pairs
FROM ended ORDER BY event DESC
"""


def read(ledger: Ledger) -> dict[str, Any] | None:
    """The last round whose votes moved the model, or would have; None before one.

    ``votes`` counted, by ``people``. ``pairs`` are those of votes on one comparison, ties left
    out, of which ``same`` chose one side; 0 where fewer than `PEOPLE` voted. ``moved`` is the
    model's step beside that of the round before: first, still, further or less.
    """
    rows = ledger.query(_ROUND, (ledger.run,))
    if not rows or not rows[0]["votes"]:
        return None
    last, moved = rows[0], [row["moved"] or 0.0 for row in rows]
    how = "first" if len(moved) == 1 else "further" if moved[0] > moved[1] else "less"
    told = last["people"] >= PEOPLE and last["pairs"]
    agreed = {} if told else {"same": 0, "pairs": 0}
    return {**last, **agreed, "moved": how if moved[0] else "still"}
