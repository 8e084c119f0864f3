"""A panel in a process of its own, which answers a run's open comparisons.

It votes through the vote service, like people in a browser, and writes the same rows as a panel
inside the run's process, until the run ends or enough votes are cast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison
from szpo.voting import lease
from szpo.voting.counting import StepVotes
from szpo.voting.evaluator import Evaluator, NobodyLeftError

PATIENCE = 300
"""The process gives up after this many polls without a live controller: a minute at .2 s each."""


def pause() -> None:
    """Wait .2 seconds."""
    time.sleep(0.2)


def visit(
    ledger: Ledger,
    panel: Evaluator,
    *,
    limit: int | None = None,
    once: bool = False,
    leave: int = 0,
    wait: Callable[[], None] = pause,
    patience: int = PATIENCE,
    read: Callable[[], None] | None = None,
) -> tuple[int, str]:
    """Answer open comparisons until the run's controller ends, or ``limit`` votes are cast.

    Returns how many votes this process cast, and why it ended.

    Args:
        ledger: the run, opened for writing; its controller lives in another process.
        panel: who answers; comparisons that it cannot complete are left to others.
        limit: most votes of this process; a comparison is begun only if it can be completed.
        once: answer what is open now and return.
        leave: how many comparisons of each step are left to people.
        wait: called whenever nothing is open.
        patience: after this many waits in a row without a live controller the panel gives up.
        read: called before each comparison, which is then answered alone: a human pace.
    """
    cast, idle, driven = 0, 0, False
    step = OpenComparisons(ledger)
    while True:
        held, live = _check_controller(ledger)
        asked = leave_to_people(ledger, step.lacking(), leave)
        if asked and read is not None:
            read()  # somebody else may have voted meanwhile
            asked = leave_to_people(ledger, step.lacking(), leave)[:1]
        chosen = asked if limit is None else _affordable(asked, limit - cast)
        before = _last_vote(ledger)
        if chosen:
            try:
                step.submit(panel, [comparison for comparison, _ in chosen])
            except NobodyLeftError:
                if not leave:  # else a person has just taken the last seat
                    raise
        added = _count_votes(ledger, before)
        cast += added
        if limit is not None and (cast >= limit or len(chosen) < len(asked)):
            return cast, f"{cast} of {limit} votes are cast"
        if once:
            return cast, "nothing else is open"
        if driven and not held and not added:
            return cast, "the process that drives the run has ended"
        driven |= live
        idle = 0 if live or added else idle + 1
        if idle > patience:
            return cast, f"nobody drives this run; start it with: szpo run --resume {ledger.path}"
        if not added:
            wait()


class OpenComparisons:
    """The comparisons of the open step, and the votes that each lacks.

    A step's comparisons are read once; each call reads only votes that are new.
    """

    def __init__(self, ledger: Ledger):
        self.ledger: Final = ledger
        self._votes: StepVotes | None = None
        self._comparisons: tuple[Comparison, ...] = ()
        self._asked: tuple[Comparison, ...] = ()

    def lacking(self) -> list[tuple[Comparison, int]]:
        """Comparisons of the open step with the votes they lack, those already begun first.

        Empty while the run is paused, when people cannot vote either.
        """
        rows = self.ledger.query(
            "SELECT step, m FROM steps WHERE run = ? AND state = 'open' "
            "ORDER BY step DESC LIMIT 1",
            (self.ledger.run,),
        )
        if not rows or lease.controller(self.ledger)["paused_by"] is not None:
            return []
        step, m = rows[0]["step"], rows[0]["m"]
        if self._votes is None or self._votes.step != step:
            self._votes = StepVotes(self.ledger, step)
            self._comparisons = self.ledger.comparisons(step)
            self._asked = tuple(c for c in self._comparisons if not c.identical)
        votes = self._votes.look()
        found = [(comparison, votes.missing_at(comparison.id)) for comparison in self._asked]
        return sorted(((c, lack) for c, lack in found if lack), key=lambda pair: pair[1] == m)

    def submit(self, panel: Evaluator, asked: Sequence[Comparison]) -> None:
        """Let the panel answer, unless the step closes meanwhile (a deadline, an operator)."""
        step, wanted = asked[0].step, {comparison.id for comparison in asked}
        lack = {comparison.id for comparison, _ in self.lacking()}
        every = [c for c in self._comparisons if c.step == step] or asked
        try:
            # Complete ones are submitted again, as after a crash, and are not changed.
            panel.submit([c for c in every if c.id in wanted or c.id not in lack])
        except UsageError:
            row = self.ledger.step(step)
            if row is not None and row["state"] == "open":
                raise


def leave_to_people(
    ledger: Ledger, asked: list[tuple[Comparison, int]], leave: int
) -> list[tuple[Comparison, int]]:
    """The comparisons that this panel may answer if ``leave`` of the step's are for people.

    Comparisons that a person has open, or has answered, count towards them. With ``leave`` 0 the
    panel may answer all.
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
    reserved = max(0, leave - len(theirs))
    return free[: len(free) - reserved] if reserved else free


def _affordable(asked: list[tuple[Comparison, int]], left: int) -> list[tuple[Comparison, int]]:
    """The first comparisons that ``left`` votes can complete."""
    chosen = []
    for comparison, lack in asked:
        left -= lack
        if left < 0:
            break
        chosen.append((comparison, lack))
    return chosen


def _last_vote(ledger: Ledger) -> int:
    return int(ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"])


def _count_votes(ledger: Ledger, after: int) -> int:
    """Count votes after the given one, without those of people."""
    rows = ledger.query(
        "SELECT count(*) AS n FROM votes v CROSS JOIN assignments USING (assignment) "
        "JOIN panelists USING (panelist) WHERE v.vote > ? AND kind <> 'person'",
        (after,),
    )
    return int(rows[0]["n"])


def _check_controller(ledger: Ledger) -> tuple[bool, bool]:
    """Whether a controller holds the run, and whether its lease is still valid.

    A lease may be held although it has expired: its controller was killed, or is generating for
    long.
    """
    row = lease.controller(ledger)
    held = row["lease"] is not None
    return held, held and row["expires_us"] > ledger.clock()
