"""The exported policy against the start on pairs that no fit has seen: a run's last line.

Each pair is an answer of either to a held-out prompt, drawn after the policy's last change. People
judge them in the blind final comparison (`szpo.voting.finals`). A simulated panel judges them in
the run's process when the end is measured; then an event has the counts, and how many pairs its
reward decides for the new answer without the panel's noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from szpo.analysis import evidence
from szpo.intervals import Share, share
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import recommended_digest
from szpo.voting import finals

KIND: Final = "last pairs"


@dataclass(frozen=True, slots=True)
class LastPairs:
    """Verdicts on pairs of the exported policy's answers and the start's."""

    pairs: int
    new: int
    """Verdicts for the exported policy's answer."""
    start: int
    same: int
    simulated: bool = False
    true: Share | None = None
    """The share without noise, of the pairs in which a simulated panel's reward differs."""
    fresh: Share | None = None
    """The share among people who had not voted before."""

    @property
    def preferred(self) -> Share:
        """The share of the verdicts for either that are for the new answer."""
        return share(self.new, self.new + self.start)

    @property
    def line(self) -> str:
        """The result in a sentence.

        >>> LastPairs(64, 42, 17, 5, simulated=True, true=share(45, 60)).line
        'of 64 pairs the new answer was preferred in 71 % [59, 81] by the simulated panel, 5 the \
same; without its noise 75 %; 128 answers read for this'
        """
        cast = self.new + self.start + self.same
        of = (
            f"{self.pairs} pairs"
            if cast == self.pairs
            else f"{cast} verdicts on {self.pairs} pairs"
        )
        who = " by the simulated panel" if self.simulated else ""
        text = f"of {of} the new answer was preferred in {_percent(self.preferred)}{who}"
        text += f", {self.same} the same" if self.same else ""
        if self.true is not None and self.true.value is not None:
            text += f"; without its noise {100 * self.true.value:.0f} %"
        if self.fresh is not None and 0 < self.fresh.of < self.preferred.of:
            text += f"; {_percent(self.fresh)} by those who had not voted before"
        return f"{text}; {2 * cast:,} answers read for this"


def _percent(found: Share) -> str:
    if found.value is None:
        return "none"
    return f"{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def read(ledger: Ledger) -> LastPairs | None:
    """The verdicts on pairs of the weights that the run exports now; None where there are none."""
    digest = recommended_digest(ledger)
    placed = orders.orders(ledger, "final")
    alike = [
        order
        for order in placed
        if order.closed_us is not None
        and order.result
        and (order.result.get("tuned_sha256"), order.result.get("rows")) == (digest, 1)
    ]
    if alike:
        rows = evidence.read(ledger)
        counted = finals.results(rows.totals.final, rows.totals.trainers, rows.run.finals)
        if counted is not None and rows.run.finals[counted.order] == digest:
            pairs, tuned = sum(len(orders.comparisons(each)) for each in alike), counted.tuned
            new, start = round(tuned.hits), round(tuned.of - tuned.hits)
            return LastPairs(pairs, new, start, counted.ties, fresh=counted.untuned)
    bodies = [event["body"] for event in ledger.events(KIND)]
    found = next((body for body in reversed(bodies) if body["theta_sha256"] == digest), None)
    if found is None:
        return None
    true = share(*found["true"])
    return LastPairs(found["pairs"], found["new"], found["start"], found["same"], True, true)
