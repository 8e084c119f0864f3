"""Makes complete runs with many votes in minutes; hashes, seats and updates are real ones."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from szpo import seeds
from szpo.ledger import canonical
from szpo.ledger.database import Ledger, Record
from szpo.types import Comparison
from szpo.voting import counting, seats
from szpo.voting.seats import planned_sides
from szpo.voting.service import VoteService
from tests.support.quadratic import QuadraticPolicy, go, new_ledger, settings_of

READING_MS = 4000
"""Typical time of an answer; each is drawn between half and one and a half of it."""


class Crowd:
    """M people whose votes are written directly as rows, in one commit per comparison."""

    def __init__(self, ledger: Ledger, people: int):
        self.ledger = ledger
        service = VoteService(ledger)
        with ledger.transaction("votes"):
            self.people = [service.enroll("person", f"person-{i}") for i in range(people)]

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Answer at once; seven of ten votes are for the side with the larger mean number."""
        asked = counting.comparisons_asked(self.ledger, comparisons[0].step or 0)
        planned = planned_sides(self.ledger.root_seed, asked, len(self.people))
        by_id = {c.id: c for c in comparisons}
        for head in asked:
            with self.ledger.transaction("votes"):
                self._answer(head, by_id[head["comparison"]], planned[head["comparison"]])

    def _answer(self, head: Record, comparison: Comparison, sides: Sequence[str]) -> None:
        ledger, root = self.ledger, self.ledger.root_seed
        plus, minus = (
            np.mean([float(getattr(row, side).text.split()[1]) for row in comparison.rows])
            for side in ("plus", "minus")
        )
        draws = seeds.uniform(seeds.derive(root, "test", name=comparison.id), 2 * len(sides))
        for i, (panelist, side) in enumerate(zip(self.people, sides, strict=True)):
            order = seats.prompt_order(root, head, panelist, len(comparison.rows))
            seat, now = secrets.token_hex(16), ledger.clock()
            wins = (plus > minus) == (draws[2 * i] < 0.7)
            choice = side if wins else {"A": "B", "B": "A"}[side]
            dwell = int(READING_MS * (0.5 + draws[2 * i + 1]))
            ledger.append(
                "assignments",
                {"assignment": seat, "comparison": comparison.id, "panelist": panelist,
                 "plus_side": side, "prompt_order": canonical.canonical(order),
                 "served_us": now, "expires_us": now + 10**9, "tab": None},
            )  # fmt: skip
            ledger.append(
                "votes",
                {"assignment": seat, "revision": 0, "choice": choice, "skip_reason": None,
                 "rubric_version": 1, "dwell_ms": dwell, "details": None, "late": False,
                 "idem": f"vote-{seat}",
                 "payload_sha256": canonical.payload_sha256(seat, choice, None, dwell, None),
                 "received_us": now + 1000 * dwell},
            )  # fmt: skip

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has written the votes."""


def make(path: Path, *, steps: int, comparisons: int, people: int) -> None:
    """Write a run of ``steps`` applied steps; it has steps · comparisons · people votes."""
    settings = settings_of(N=comparisons, D=2, M=people)
    with new_ledger(path, settings) as ledger:
        ledger.execute("PRAGMA synchronous=OFF")
        crowd = Crowd(ledger, people)
        go(settings, ledger, QuadraticPolicy(settings), crowd, until_step=steps)
