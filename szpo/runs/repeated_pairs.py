"""Pairs that are shown a second time, with sides swapped, to see whether people judge alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from szpo import seeds
from szpo.ledger.database import Ledger, Record
from szpo.optim.settings import Settings
from szpo.runs.services import Services
from szpo.types import Comparison
from szpo.voting import counting
from szpo.voting.seats import LETTERS

SHARE: Final = 0.1
"""Share of the chosen rows that show an earlier row again, to measure how far verdicts agree."""


def repeatable(ledger: Ledger) -> list[Record]:
    """Rows of finished rounds that nobody was shown again, in order: comparison, side, step, k.

    Each has a verdict, is no repeat itself, and nobody reported it as harmful.
    """
    return ledger.query(
        "SELECT c.comparison, a.plus_side, c.step, c.k FROM steps s "
        "JOIN comparisons c USING (run, step) "
        "JOIN assignments a USING (comparison) JOIN votes v ON v.assignment = a.assignment "
        "WHERE s.run = ? AND s.state = 'applied' AND c.kind = 'train' AND c.repeats IS NULL "
        "AND c.comparison NOT IN (SELECT repeats FROM comparisons WHERE repeats IS NOT NULL) "
        "AND v.vote <= s.last_vote GROUP BY c.comparison "
        "HAVING sum(v.choice <> 'skip') AND NOT sum(v.skip_reason IS ?) ORDER BY c.step, c.k, c.n",
        (ledger.run, counting.HARMFUL),
    )


def places(
    run: Services, settings: Settings, earlier: Sequence[Record], step: int
) -> dict[int, bytes]:
    """The rows that show an earlier one again, with their keys; no answers are drawn for them."""
    most = min(sum(each["plus_side"] == side for each in earlier) for side in LETTERS)
    rate, found = run.repeats / settings.own_share, dict[int, bytes]()  # of all rows
    for i in range(settings.section.K * settings.section.N):
        key = seeds.derive(settings.root_seed, "repeat", step=step, k=i)
        own = not settings.perturbs(step, i // settings.section.N)
        if own and len(found) < most and float(seeds.uniform(key, 1)[0]) < rate:
            found[i] = key
    return found


def draw(run: Services, earlier: list[Record], key: bytes, side: str) -> Comparison:
    """An earlier row to show again, with sides swapped, removed from ``earlier``."""
    swapped = [each for each in earlier if each["plus_side"] != side]
    chosen = swapped[seeds.integer(key, 1, len(swapped))]
    earlier.remove(chosen)
    found = run.ledger.comparison(chosen["comparison"])
    assert found is not None, chosen
    return found
