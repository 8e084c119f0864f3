"""What leaves the fit: verdicts that are withdrawn, and features set aside.

Orders such as "not about length": groups of features that updates do not follow. An event names
the group, and the first step for which the order holds: the first that still takes votes. From
then on the group may explain votes, but updates do not follow it (`szpo.optim.named_features`).
Run, replay and verify read the orders with each step's inputs.

An event names the panelist and the first step for which it holds: the first that still takes
votes. In the same transaction every vote of theirs is amended as excluded, so open rounds lose
them at once. A rule that fits all votes at each step (`regression`) reads the earlier steps' votes
without theirs from then on. Run, replay and verify read this with each step's inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError, RunError, UsageError
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.optim.all_votes import AllVotes, count_sides, take_back, weigh_all
from szpo.optim.optimizer import State, rule_of
from szpo.optim.rule import Recounted
from szpo.optim.settings import Settings
from szpo.optim.weighting import History
from szpo.types import Theta
from szpo.voting import casting, counting, lease

OVER: Final = ("closed", "applied")
"""States of a step that takes no more votes."""

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
        first = f"{self.votes} vote{'s' * (self.votes != 1)} withdrawn"
        if not self.steps:
            return f"{first}; nothing had learned from them"
        first += ": no fit from now on has them"
        learned = [f"the policy from round {self.steps[0] + 1} on"]
        if self.improved:
            learned.append(f"improved weights {', '.join(each[:12] for each in self.improved)}")
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
        UsageError: nobody is called so, or has no votes.
    """
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
            over = [row["step"] for row in ledger.steps() if row["state"] in OVER]
            body = {"panelist": panelist, "step": max(over, default=-1) + 1}
            ledger.record_event(EVENT, by, body)
        for vote in new:
            casting.amend(ledger, vote, "exclude", REASON, by, ledger.clock())
        last = theta.last_adopted(ledger)
        if weights and last is not None and last["theta_sha256"] in learned.improved:
            digests = theta.theta_digests(ledger)
            body = {"steps": len(digests) - 1, theta.WITHDRAWN: panelist}
            ledger.record_event(theta.RETURNED, by, {**body, "theta_sha256": digests[0]})
            return replace(learned, removed=True)
    return learned


def adopt(
    ledger: Ledger,
    epoch: int,
    withdrawn: Sequence[Withdrawal],
    weights: Theta,
    body: Mapping[str, Any],
    others: Theta | None = None,
) -> None:
    """Record improved weights by `append_adopted`, if the run and their votes stand as then.

    ``epoch`` and ``withdrawn``: the controller's, and the withdrawals, when the votes were read.

    Raises:
        LeaseError: another controller has taken the run over.
        RunError: votes were withdrawn meanwhile.
    """
    with ledger.transaction("controller"):
        lease.check(ledger, epoch)
        if withdrawals(ledger) != tuple(withdrawn):
            raise RunError(
                "votes were withdrawn meanwhile, and what had learned from them is not "
                "adopted; improve again"
            )
        theta.append_adopted(ledger, weights, body, others)


def find_learned(ledger: Ledger, panelist: str) -> Learned:
    """What has learned from a panelist's verdicts."""
    rows = ledger.query(
        "SELECT DISTINCT step FROM counted_votes WHERE panelist = ? AND step IN "
        "(SELECT step FROM steps WHERE state = 'applied') ORDER BY step", (panelist,),
    )  # fmt: skip
    steps = tuple(row["step"] for row in rows)
    votes = ledger.query(
        "SELECT count(*) AS votes FROM votes v JOIN assignments a USING (assignment) "
        "WHERE a.panelist = ?",
        (panelist,),
    )[0]["votes"]
    return Learned(votes, steps, tuple(_improved_on(ledger, panelist, steps)))


def _improved_on(ledger: Ledger, panelist: str, steps: Sequence[int]) -> Iterator[str]:
    """Digests of adopted weights whose taste had votes on these steps, or that began from such."""
    from_votes, learned = ledger.layout != parameters.NO_COORDINATES, False
    for body in theta.adopted_bodies(ledger):
        if not theta.went_back(body):
            begun = body["begun"]
            cast = [step for step in steps if step < begun["steps"]]
            stands = left(ledger, begun["event"])
            held = any(stands(panelist, step) for step in cast)
            mixed = from_votes or begun.get("from") == theta.UPDATED
            learned = learned or held or bool(mixed and cast)
            if learned:
                yield body["theta_sha256"]
        else:
            learned = False  # what comes next begins from the start
        from_votes = False


def withdrawals(ledger: Ledger, before: int = 2**62) -> tuple[Withdrawal, ...]:
    """All withdrawals of a run, the earliest first; ``before``: those before this event."""
    sql = "SELECT event, body FROM events WHERE kind = ? AND event < ? ORDER BY event"
    rows = ledger.query(sql, (EVENT, before))
    found = ((row["event"], json.loads(row["body"])) for row in rows)
    return tuple(Withdrawal(body["panelist"], body["step"], event) for event, body in found)


def votes_out(ledger: Ledger) -> set[int]:
    """The ids of all votes that are withdrawn, of whatever round or kind."""
    people = [each.panelist for each in withdrawals(ledger)]
    rows = ledger.query(
        "SELECT DISTINCT v.vote FROM amendments m JOIN votes v USING (vote) "
        "JOIN assignments a USING (assignment) WHERE m.action = 'exclude' "
        "AND a.panelist IN (SELECT value FROM json_each(?))",
        (json.dumps(people),),
    )
    return {row["vote"] for row in rows}


def count_out(ledger: Ledger, step: int | None = None) -> int:
    """Counted votes of closed rounds that are withdrawn; ``step``: for the fit of this step."""
    held = [each for each in withdrawals(ledger) if step is None or each.step <= step]
    if not held:
        return 0
    cast = ledger.query("SELECT panelist, step FROM counted_votes")
    return sum(any(each.holds(**row) for each in held) for row in cast)


def history_left(ledger: Ledger, history: History, step: int) -> History:
    """Past votes as the fit of a step reads them, without those withdrawn."""
    return _without(history, [w for w in withdrawals(ledger) if w.step <= step])


def _without(history: History, held: Sequence[Withdrawal]) -> History:
    until = {each.panelist: each.step for each in held}
    if not until:
        return history
    first = np.array([until.get(voter, 0) for voter in history.voters], dtype=np.int64)
    there = history.steps >= first[:, None]
    return replace(history, verdicts=history.verdicts * there[..., None])


def left(ledger: Ledger, before: int = 2**62) -> Callable[[str, int], bool]:
    """Whether a panelist's votes on a step stand; ``before``: by withdrawals before this event."""
    out = withdrawals(ledger, before)
    return lambda panelist, step: not any(each.holds(panelist, step) for each in out)


def read_recounted(ledger: Ledger, settings: Settings, step: int) -> tuple[Recounted, ...]:
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


def votes_left(
    ledger: Ledger,
    settings: Settings,
    state: State,
    before: int = 2**62,
    only: frozenset[str] | None = None,
) -> AllVotes:
    """The votes of a run's fit without those withdrawn before this event, also of late.

    ``only``: those of these panelists, by pseudonym, as if nobody else had voted.
    Where voters weigh by each other's votes, weights are learned from what is left.
    """
    held, others = withdrawals(ledger, before), frozenset[str]()
    if only is not None:
        every = ledger.query("SELECT panelist, pseudonym FROM panelists")
        others = frozenset(row["panelist"] for row in every if row["pseudonym"] not in only)
    out = (*held, *(Withdrawal(each, state.step, 0) for each in others))
    rows = tuple(_recount(ledger, settings, state.step, out)) if out else ()
    record: AllVotes = state.carried
    left = take_back(record, rows)
    if left is record or settings.section.weighting == "equal" or state.history is None:
        return left
    voters = [i for i, voter in enumerate(state.history.voters) if voter not in others]
    return weigh_all(settings, left, _without(state.history.of(voters), held))


def _recount(
    ledger: Ledger, settings: Settings, until: int, held: Sequence[Withdrawal]
) -> Iterator[Recounted]:
    """The rows of the steps < ``until`` that have withdrawn votes, as they count without these."""
    first = 0
    for step, row in enumerate(ledger.steps()[:until]):
        here = settings.change(N=row["n"])
        o = here.section
        votes = counting.counted(ledger, step)
        out = [v for v in votes if any(each.holds(v.panelist, step) for each in held)]
        tally = counting.tally(ledger, step, o.K, o.N, [v for v in votes if v not in out])
        up, down = count_sides(here, tally)
        for k, n in sorted({(vote.k, vote.n) for vote in out}):
            side = 0.0 if tally.side is None else tally.side[k, n]
            yield first + k * o.N + n, float(up[k, n]), float(down[k, n]), float(side)
        first += o.K * o.N
