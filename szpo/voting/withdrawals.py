"""Withdrawn verdicts: a panelist's votes leave the fit; steps that were taken stay as recorded.

An event names the panelist and the first step for which it holds: the first that still takes
votes. In the same transaction every vote of theirs is amended as excluded, so open rounds lose
them at once. A rule that fits all votes at each step (`regression`) reads the earlier steps' votes
without theirs from then on. Run, replay and verify read this with each step's inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from szpo.errors import IntegrityError, UsageError
from szpo.ledger import adopted, theta
from szpo.ledger.database import Ledger
from szpo.optim.rules.all_votes import count_sides
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import Recounted
from szpo.optim.settings import Settings
from szpo.voting import casting, counting, set_aside, step_plan

EVENT: Final = "withdrawn"
REASON: Final = "withdrawn by the panelist"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Verdicts of one panelist that are withdrawn."""

    panelist: str
    step: int
    """The first step for which it holds; it is about votes on earlier ones."""
    event: int

    def holds(self, panelist: str, step: int) -> bool:
        """Whether it is about a panelist's votes on a step."""
        return panelist == self.panelist and step < self.step


@dataclass(frozen=True, slots=True)
class Learned:
    """What had learned from verdicts before they were withdrawn."""

    votes: int
    steps: tuple[int, ...]
    """Applied steps whose fit they were in."""
    improved: tuple[str, ...]
    """Digests of adopted weights that were improved on them."""
    removed: bool = False
    """Weights that had learned from them are no longer in force."""

    def __str__(self) -> str:
        """The sentences for whoever withdrew them."""
        if not self.steps:
            return f"{self.votes} votes withdrawn; nothing had learned from them"
        first = f"{self.votes} votes withdrawn: no fit from now on has them"
        learned = [f"the policy from round {self.steps[0] + 1} on"]
        learned += [f"improved weights {each[:12]}" for each in self.improved]
        if self.removed:
            first += ", and the policy is at its start again; the record keeps its numbers"
        return (
            f"{first}; {' and '.join(learned)} had learned from them, and so had files written "
            "since: adapters, tastes and adapters of these, scorers, pairs, reports, copies; szpo "
            "cannot call files back"
        )


def withdraw(
    ledger: Ledger, by: str, name: str, settings: Settings, *, weights: bool = False
) -> Learned:
    """Withdraw the verdicts of the panelist with this pseudonym; say what had learned from them.

    Done again, it finishes what lacks, as after a kill.
    ``weights``: improved weights that had learned from them are put out of force.

    Raises:
        UsageError: nobody is called so, or the run weighs voters by each other's votes.
    """
    if settings.section.weighting != "equal":
        raise UsageError(
            "withdraw: this run weighs voters by each other's votes (optimizer.weighting), so "
            "none can be taken out of the fit; begin a new run without them"
        )
    with ledger.transaction(by):
        found = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (name,))
        if not found:
            raise UsageError(f"withdraw: nobody is called {name!r}")
        panelist = found[0]["panelist"]
        learned = find_learned(ledger, panelist)
        out = counting.excluded_votes(ledger)
        cast = ledger.query(
            "SELECT v.vote FROM votes v JOIN assignments a USING (assignment) "
            "WHERE a.panelist = ? ORDER BY v.vote",
            (panelist,),
        )
        if not cast:
            raise UsageError(f"withdraw: {name} has no votes; leave out --with-votes")
        new = [row["vote"] for row in cast if row["vote"] not in out]
        if new or panelist not in (each.panelist for each in withdrawals(ledger)):
            over = [row["step"] for row in ledger.steps() if row["state"] in set_aside.OVER]
            body = {"panelist": panelist, "step": max(over, default=-1) + 1}
            ledger.record_event(EVENT, by, body)
        for vote in new:
            casting.amend(ledger, vote, "exclude", REASON, by, ledger.clock())
        last = adopted.last(ledger)
        if weights and last is not None and last["theta_sha256"] in learned.improved:
            digests = theta.theta_digests(ledger)
            body = {"steps": len(digests) - 1, adopted.WITHDRAWN: panelist}
            ledger.record_event(adopted.RETURN, by, {**body, "theta_sha256": digests[0]})
            return replace(learned, removed=True)
    return learned


def find_learned(ledger: Ledger, panelist: str) -> Learned:
    """What has learned from a panelist's verdicts."""
    rows = ledger.query(
        "SELECT DISTINCT step FROM counted_votes WHERE panelist = ? AND step IN "
        "(SELECT step FROM steps WHERE state = 'applied') ORDER BY step", (panelist,),
    )  # fmt: skip
    steps = tuple(row["step"] for row in rows)
    bodies = (event["body"] for event in ledger.events(adopted.KIND))
    last = ((body["theta_sha256"], body["begun"]["steps"]) for body in bodies)
    improved = [sha256 for sha256, until in last if steps and until > steps[0]]
    votes = ledger.query(
        "SELECT count(*) AS votes FROM votes v JOIN assignments a USING (assignment) "
        "WHERE a.panelist = ?",
        (panelist,),
    )[0]["votes"]
    return Learned(votes, steps, tuple(improved))


def withdrawals(ledger: Ledger, before: int = 2**62) -> tuple[Withdrawal, ...]:
    """All withdrawals of a run, the earliest first; ``before``: those before this event."""
    sql = "SELECT event, body FROM events WHERE kind = ? AND event < ? ORDER BY event"
    rows = ledger.query(sql, (EVENT, before))
    found = ((row["event"], json.loads(row["body"])) for row in rows)
    return tuple(Withdrawal(body["panelist"], body["step"], event) for event, body in found)


def read(ledger: Ledger, settings: Settings, step: int) -> tuple[Recounted, ...]:
    """The rows of earlier steps that a step's fit reads anew, without withdrawn verdicts."""
    held = [each for each in withdrawals(ledger) if each.step <= step]
    if not held or not rule_of(settings.section.rule).two_points:
        return ()
    done = ledger.query(
        "SELECT min(event) AS event FROM events WHERE kind = 'step' "
        "AND json_extract(body, '$.step') = ?",
        (step,),
    )[0]["event"]
    if late := [each for each in held if done is not None and each.event > done]:
        raise IntegrityError(f'event {late[0].event}: "{EVENT}" names a step that was over')
    return tuple(_recount(ledger, settings, step, held))


def read_at(ledger: Ledger, settings: Settings, until: int, before: int) -> tuple[Recounted, ...]:
    """As `read`, of the steps < ``until`` by all withdrawals before this event."""
    held = withdrawals(ledger, before)
    return tuple(_recount(ledger, settings, until, held)) if held else ()


def _recount(
    ledger: Ledger, settings: Settings, until: int, held: Sequence[Withdrawal]
) -> Iterator[Recounted]:
    """The rows of the steps < ``until`` that have withdrawn votes, as they count without these."""
    first = len(settings.earlier_votes or ())
    for step in range(until):
        here = step_plan.settings_of(ledger, settings, step)
        o = here.section
        votes = counting.counted(ledger, step)
        out = [v for v in votes if any(each.holds(v.panelist, step) for each in held)]
        tally = counting.tally(ledger, step, o.K, o.N, [v for v in votes if v not in out])
        up, down = count_sides(here, tally)
        for k, n in sorted({(vote.k, vote.n) for vote in out}):
            side = 0.0 if tally.side is None else tally.side[k, n]
            yield first + k * o.N + n, float(up[k, n]), float(down[k, n]), float(side)
        first += o.K * o.N
