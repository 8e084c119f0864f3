"""The process that holds the model: it drives the run and carries out operators' orders.

While a run is paused, stopped or finished, the process stands by: it keeps the lease and waits
until somebody resumes the run. It carries out orders (`szpo.ledger.orders`) whenever it waits for
votes or stands by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from szpo.errors import IntegrityError, LeaseError, StorageError, SzpoError
from szpo.ledger import orders
from szpo.ledger.database import Ledger, Record
from szpo.ledger.orders import Order
from szpo.ledger.run_spec import BUDGET
from szpo.runs import sample_check, samples
from szpo.runs.assemble import RunParts
from szpo.types import Say
from szpo.voting import lease
from szpo.voting.lease import Lease
from szpo.voting.step_report import Outcome

_FULFIL: Final = {
    "final": samples.fulfil_final,
    "samples": samples.fulfil,
}
_CHANGES: Final = ("pause", "unpause", "stop", "limits", BUDGET)
"""Kinds of events after which a waiting run may continue."""


def fulfil(ledger: Ledger, parts: RunParts, say: Say) -> int:
    """Carry out the open orders; returns how many.

    An order that fails is settled with the reason, so that it is not tried forever.
    """
    waiting = orders.open_orders(ledger)
    for order in waiting:
        say(f"order {order.id} by {order.by}: {order.kind}")
        _fulfil_one(ledger, parts, order, say)
    return len(waiting)


def _fulfil_one(ledger: Ledger, parts: RunParts, order: Order, say: Say) -> None:
    try:
        _FULFIL[order.kind](ledger, order, parts)
    except (LeaseError, StorageError, IntegrityError):
        raise
    except SzpoError as error:
        reason = str(error)
    except Exception as error:  # the engine's: must not end a run that people vote in
        reason = f"{type(error).__name__}: {error}"
    else:
        return
    say(f"order {order.id} cannot be done: {reason}")
    orders.settle(ledger, order, {"error": reason})


class LeaseHolder:
    """Holds a run's lease while the run waits for votes, and after it has stopped.

    Here and in the loop, `do_one_turn` is called between two reads of the ledger.
    """

    def __init__(
        self, ledger: Ledger, parts: RunParts, held: Lease, wait: Callable[[], None], say: Say
    ):
        """``wait`` is called between two reads of the ledger."""
        self.held: Final = held
        self._ledger, self._parts, self._wait, self._say = ledger, parts, wait, say
        self._warned: frozenset[str] = frozenset()
        self._seen = _changes(ledger)
        self._reported: Outcome | None = None

    def do_one_turn(self) -> None:
        """Check the lease, warn of delays, carry out orders, wait."""
        lease.check(self._ledger, self.held.epoch)
        self._warn_of_delays()
        fulfil(self._ledger, self._parts, self._say)
        self._wait()

    def _warn_of_delays(self) -> None:
        """Report each reason for a delay of the open step once, when it first holds."""
        reasons = (explain_shortage(self._ledger),)
        found = frozenset(filter(None, reasons))
        for reason in sorted(found - self._warned):
            self._say(f"warning: {reason}")
        self._warned = found

    def stand_by(self, outcome: Outcome) -> None:
        """Wait with a run that ended, stopped or paused, until something may let it continue."""
        if outcome != self._reported:
            self._reported = outcome
            then = _how_to_resume(self._ledger)
            self._say(f"{outcome.status}: {outcome.reason}; standing by{then}")
        while self.is_settled():
            self.do_one_turn()
        self._seen = _changes(self._ledger)

    def is_settled(self) -> bool:
        """Whether nothing has happened since that may let the run continue."""
        return _changes(self._ledger) == self._seen


def _how_to_resume(ledger: Ledger) -> str:
    """How a paused run is resumed, as text after "standing by"; "" where it is not paused."""
    if lease.controller(ledger)["paused_by"] is None:
        return ""
    button = "Start the run" if sample_check.awaits_start(ledger) else "Resume"
    return f' until somebody presses "{button}" on the operator\'s page'


def explain_shortage(ledger: Ledger) -> str | None:
    """Why the open step cannot get all its votes from those who may vote; None if it can.

    None also for a panel that is not of people: it enrols its panelists itself.
    """
    row = _open_step(ledger)
    if (
        row is None
        or ledger.spec.get("config", {}).get("panel", {}).get("kind", "people") != "people"
    ):
        return None
    step, m = row["step"], row["m"]
    panel = ledger.query(
        "SELECT count(*) AS n FROM panelists p WHERE NOT EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist) AND NOT EXISTS "
        "(SELECT 1 FROM events WHERE kind = 'erase' "
        "AND json_extract(body, '$.panelist') = p.panelist) OR EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist AND revoked_us IS NULL)"
    )[0]["n"]
    # Somebody who skipped a comparison is not asked it again.
    lost = ledger.query(
        "SELECT c.comparison, count(l.assignment) AS lost FROM comparisons c LEFT JOIN "
        "(SELECT a.comparison, a.assignment FROM assignments a JOIN votes v USING (assignment) "
        "WHERE v.revision = (SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "AND v.choice = 'skip') l ON l.comparison = c.comparison "
        "WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND c.identical = 0 "
        "GROUP BY c.comparison",
        (ledger.run, step),
    )
    short = sum(panel - row["lost"] < m for row in lost)
    if not short:
        return None
    return (
        f"step {step}: {short} of {len(lost)} comparisons cannot get their {m} votes from the "
        f"{panel} panelists who may vote; invite more people, or close the round by hand"
    )


def _open_step(ledger: Ledger) -> Record | None:
    found = ledger.query("SELECT * FROM steps WHERE run = ? AND state = 'open'", (ledger.run,))
    return found[0] if found else None


def _changes(ledger: Ledger) -> int:
    marks = ", ".join("?" * len(_CHANGES))
    sql = f"SELECT coalesce(max(event), 0) AS last FROM events WHERE kind IN ({marks})"
    return int(ledger.query(sql, _CHANGES)[0]["last"])
