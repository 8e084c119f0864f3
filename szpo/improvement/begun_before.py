"""What a run's record says of earlier improvements: when the last began, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.voting import withdrawals

NO_LONGER: Final = (theta.RETURNED, withdrawals.EVENT)
ENDED_BY: Final = (theta.ADOPTED, *NO_LONGER)
"""Kinds of events after which what an improvement began from no longer holds."""


def last_begun(ledger: Ledger) -> int:
    """Steps after which the last improvement began, or the policy went back to its start.

    0: there is none, or what one that adopted nothing began from no longer holds.
    """
    last, kept = theta.last_adopted(ledger), list(ledger.events(theta.KEPT))
    steps = 0 if last is None else int(last.get("begun", last)["steps"])
    if not kept or is_over(ledger, kept[-1]["event"]):
        return steps
    return max(steps, int(kept[-1]["body"]["begun"]["steps"]))


def is_over(ledger: Ledger, event: int) -> bool:
    """Whether what an improvement began from before this event no longer holds."""
    return happened(ledger, ENDED_BY, since=event)


def happened(ledger: Ledger, kinds: Sequence[str], *, since: int = 0, before: int = 2**62) -> bool:
    """Whether there is an event of these kinds from ``since`` on and before ``before``."""
    marks = ", ".join("?" * len(kinds))
    sql = f"SELECT count(*) AS n FROM events WHERE event >= ? AND event < ? AND kind IN ({marks})"
    return bool(ledger.query(sql, (since, before, *kinds))[0]["n"])
