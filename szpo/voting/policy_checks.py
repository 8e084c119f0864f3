"""Verdicts on check rows, and the return to the start where the panel does not prefer the new.

A check row shows an answer of adopted weights, which is plus, beside one of the start; the round's
event "generated" names it. After each round the verdicts since the last return are tested: that
fewer than half prefer the new answer, by a uniform prior on p < ½, against a coin. Where the Bayes
factor reaches `NEEDED`, the start's weights are recommended again, until a fit of the votes as
they are then passes the same bound and the policy improves again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import Any, Final

from szpo.errors import RunError
from szpo.ledger import theta as recorded
from szpo.ledger.database import Ledger
from szpo.types import Theta, Vote
from szpo.voting import counting, lease, withdrawals
from szpo.voting.withdrawals import Withdrawal

NEEDED: Final = 9
"""Odds against the new answers from which the policy goes back; a taste takes fewer."""
RETURN: Final = recorded.RETURNED


def adopt(
    ledger: Ledger,
    epoch: int,
    withdrawn: Sequence[Withdrawal],
    theta: Theta,
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
        if withdrawals.withdrawals(ledger) != tuple(withdrawn):
            raise RunError(
                "votes were withdrawn meanwhile, and what had learned from them is not "
                "adopted; improve again"
            )
        recorded.append_adopted(ledger, theta, body, others)


def factor_against(new: int, start: int) -> Fraction:
    """Bayes factor of "fewer than half prefer the new" against a coin, exact.

    It is 2ⁿ ∫₀^½ 2 pᵃ (1 − p)ᵇ dp for a verdicts for the new answer and b for the start's, n in
    all: a tail of the binomial law of n + 1 coins.

    >>> factor_against(0, 5), factor_against(0, 0)
    (Fraction(21, 2), Fraction(1, 1))
    """
    n = new + start
    tail = sum(comb(n + 1, j) for j in range(new + 1, n + 2))
    return Fraction(tail, (n + 1) * comb(n, new))


@dataclass(frozen=True, slots=True)
class Checks:
    """Counted verdicts on the check rows of finished rounds since the last return."""

    new: int = 0
    """For the answer of the adopted weights."""
    start: int = 0
    same: int = 0

    @property
    def factor(self) -> Fraction:
        """`factor_against` them."""
        return factor_against(self.new, self.start)

    @property
    def against(self) -> bool:
        """They are reason enough to return to the start."""
        return self.factor >= NEEDED

    def sentence(self) -> str:
        """Why the policy is at its start again."""
        return (
            f"the panel preferred the start's answer in {self.start} of {self.new + self.start} "
            f"check pairs (odds of {float(self.factor):.3g}), so the policy went back to the start"
        )


def walk(ledger: Ledger) -> Iterator[tuple[int, Checks, Mapping[str, Any] | None]]:
    """Yield the number of steps and the checks after each round since weights were first adopted.

    With them comes None, or the body of a return's event, and the checks are those before it.
    Verdicts that were withdrawn count no longer from the next round on.
    """
    out = {each.event: each for each in withdrawals.withdrawals(ledger)}
    steps, votes, waiting = 0, list[tuple[int, Vote]](), dict[int, list[str]]()
    for row in ledger.query(
        "SELECT event, kind, body, json_extract(body, '$.step') AS step, "
        "json_extract(body, '$.pool.checks') AS checks FROM events "
        "WHERE kind IN ('generated', 'step', ?, ?) "
        "AND event > (SELECT min(event) FROM events WHERE kind = ?) ORDER BY event",
        (RETURN, withdrawals.EVENT, recorded.ADOPTED),
    ):
        if row["kind"] == "generated":
            waiting[row["step"]] = json.loads(row["checks"] or "[]")
        elif row["kind"] == "step":
            step, ids = row["step"], waiting.pop(row["step"], ())
            steps = step + 1
            if ids:
                cast = counting.counted(ledger, step)
                votes += [(step, vote) for vote in cast if vote.comparison in ids]
            yield steps, _count(votes), None
        elif row["kind"] == RETURN:
            yield steps, _count(votes), json.loads(row["body"])
            votes, waiting = [], {}
        else:
            left = out[row["event"]]
            votes = [(step, vote) for step, vote in votes if not left.holds(vote.panelist, step)]


def read(ledger: Ledger) -> Checks:
    """The checks as they stand."""
    found = Checks()
    for _, checks, back in walk(ledger):
        found = checks if back is None else Checks()
    return found


def return_if_due(ledger: Ledger, steps: int) -> None:
    """Go back to the start where the checks say so; call it in a round's last transaction."""
    last = recorded.last_adopted(ledger)
    if last is None or recorded.went_back(last):
        return
    found = read(ledger)
    if found.against:
        ledger.record_event(RETURN, "controller", describe(ledger, steps, found))


def describe(ledger: Ledger, steps: int, found: Checks) -> dict[str, Any]:
    """The body of a return's event."""
    return {
        "steps": steps,
        "new": found.new,
        "start": found.start,
        "same": found.same,
        "theta_sha256": recorded.theta_digests(ledger)[0],
    }


def why_back(ledger: Ledger, steps: int | None = None) -> str | None:
    """Why the policy is at its start again; None where it is not, or not since ``steps``."""
    last = recorded.last_adopted(ledger)
    if last is None or not recorded.went_back(last) or steps not in (None, last["steps"]):
        return None
    if recorded.WITHDRAWN in last:
        return (
            "its improved weights had learned from votes that were withdrawn, so the policy "
            "went back to the start"
        )
    return Checks(last["new"], last["start"], last["same"]).sentence()


def _count(votes: Sequence[tuple[int, Vote]]) -> Checks:
    more = Counter(vote.verdict for _, vote in votes)
    return Checks(more["plus"], more["minus"], more["tie"])
