"""A panel that visits: it answers a run's open comparisons from another process.

It does so through the vote service, exactly as people in a browser would and with the rows an
in-process panel would leave, until the run ends or enough votes are cast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from szpo.errors import UsageError
from szpo.evaluators.protocol import Evaluator, NobodyLeftError
from szpo.ledger.database import Ledger
from szpo.types import Comparison
from szpo.voting import counting, lease

PATIENCE = 300
"""Polls without a live controller after which the process gives up: a minute at .2 s each."""


@dataclass(frozen=True, slots=True)
class Served:
    """How many votes this process cast, and why it ended."""

    votes: int
    reason: str


def visit(
    ledger: Ledger,
    panel: Evaluator,
    *,
    limit: int | None = None,
    once: bool = False,
    wait: Callable[[], None] = lambda: time.sleep(0.2),
    patience: int = PATIENCE,
    leave: int = 0,
    read: Callable[[], None] | None = None,
) -> Served:
    """Answer open comparisons until the run's controller ends, or ``limit`` votes are cast.

    Args:
        ledger: the run, opened for writing; its controller lives in another process.
        panel: who answers; comparisons that it cannot complete are left to others.
        limit: votes of this process; only whole comparisons (M votes each) are begun.
        once: answer what is open now and return.
        wait: called whenever nothing is open.
        patience: calls of ``wait`` in a row without a live controller before giving up.
        leave: comparisons of each step that are left to people.
        read: called before each comparison, which is then answered alone: a human pace.

    Raises:
        UsageError: M is larger than the panel.
    """
    cast, idle, driven = 0, 0, False
    while True:
        held, live = _driven(ledger)
        asked = left_over(ledger, lacking(ledger), leave)
        if asked and read is not None:
            read()  # somebody may have been faster meanwhile
            asked = left_over(ledger, lacking(ledger), leave)[:1]
        chosen = asked if limit is None else _affordable(asked, limit - cast)
        before = _votes(ledger)
        if chosen:
            try:
                submit(ledger, panel, [comparison for comparison, _ in chosen])
            except NobodyLeftError:
                if not leave:  # else a person took the last seat in this moment
                    raise
        added = _votes(ledger) - before
        cast += added
        if limit is not None and (cast >= limit or len(chosen) < len(asked)):
            return Served(cast, f"{cast} of {limit} votes are cast")
        if once:
            return Served(cast, "nothing else is open")
        if driven and not held and not added:
            return Served(cast, "the run's controller has ended")
        driven |= live
        idle = 0 if live or added else idle + 1
        if idle > patience:
            return Served(cast, "nobody drives this run; start it with: szpo run --resume")
        if not added:
            wait()


def lacking(ledger: Ledger) -> list[tuple[Comparison, int]]:
    """Comparisons of the open step with the votes they lack, those already begun first.

    None while the run is paused: a simulated panel rests as people do.
    """
    rows = [row for row in ledger.steps() if row["state"] == "open"]
    if not rows or lease.controller(ledger)["paused_by"] is not None:
        return []
    step, m = rows[-1]["step"], rows[-1]["m"]
    have: dict[str, int] = {}
    for vote in counting.counted(ledger, step):
        have[vote.comparison] = have.get(vote.comparison, 0) + 1
    found = [
        (comparison, m - have.get(comparison.id, 0))
        for comparison in ledger.comparisons(step)
        if not comparison.identical
    ]
    return sorted(((c, lack) for c, lack in found if lack > 0), key=lambda pair: pair[1] == m)


def left_over(
    ledger: Ledger, asked: list[tuple[Comparison, int]], leave: int
) -> list[tuple[Comparison, int]]:
    """What is there for this panel when ``leave`` comparisons of the step are for people.

    Comparisons that a person has before them, or has answered, are counted as theirs. With
    ``leave`` 0 there are no people, and everything is there.
    """
    if not leave or not asked:
        return asked
    now = ledger.clock()
    rows = ledger.query(
        "SELECT DISTINCT a.comparison FROM assignments a JOIN panelists p USING (panelist) "
        "JOIN comparisons c USING (comparison) WHERE p.kind = 'person' AND c.kind = 'train' "
        "AND c.run = ? AND c.step = ? AND (a.expires_us > ? OR EXISTS "
        "(SELECT 1 FROM votes v WHERE v.assignment = a.assignment AND v.choice <> 'skip'))",
        (ledger.run, asked[0][0].step, now),
    )
    theirs = {row["comparison"] for row in rows}
    free = [pair for pair in asked if pair[0].id not in theirs]
    kept = max(0, leave - len(theirs))
    return free[: len(free) - kept] if kept else free


def _affordable(asked: list[tuple[Comparison, int]], left: int) -> list[tuple[Comparison, int]]:
    """The first comparisons that ``left`` votes can complete."""
    chosen = []
    for comparison, lack in asked:
        left -= lack
        if left < 0:
            break
        chosen.append((comparison, lack))
    return chosen


def submit(ledger: Ledger, panel: Evaluator, asked: Sequence[Comparison]) -> None:
    """Answer, unless the step closes meanwhile (a deadline, an operator)."""
    step, wanted = asked[0].step, {comparison.id for comparison in asked}
    lack = {comparison.id for comparison, _ in lacking(ledger)}
    try:
        # Complete ones are submitted again, as after a crash: the panel leaves them as they are.
        panel.submit([c for c in ledger.comparisons(step) if c.id in wanted or c.id not in lack])
    except UsageError:
        row = ledger.step(step)
        if row is not None and row["state"] == "open":
            raise


def _votes(ledger: Ledger) -> int:
    """Answers of panels; people vote in between."""
    return int(
        ledger.query(
            "SELECT count(*) AS n FROM votes JOIN assignments USING (assignment) "
            "JOIN panelists USING (panelist) WHERE kind <> 'person'"
        )[0]["n"]
    )


def _driven(ledger: Ledger) -> tuple[bool, bool]:
    """Whether a controller holds the run, and whether its lease still runs.

    A held lease that has run out is a killed controller, or one that generates for long.
    """
    row = lease.controller(ledger)
    held = row["lease"] is not None
    return held, held and row["expires_us"] > ledger.clock()
