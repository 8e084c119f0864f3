"""The process that holds the model: it drives the run and fulfils the operators' orders.

While the run goes on it drives it; while it is paused, stopped or finished it stands by, keeps
the lease, and goes on when somebody lets it. Orders (`szpo.ledger.orders`) are fulfilled whenever
votes are awaited and while standing by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from szpo.errors import IntegrityError, LeaseError, StorageError, SzpoError
from szpo.ledger import orders
from szpo.ledger.database import Ledger, Record
from szpo.ledger.orders import Order
from szpo.ledger.run_spec import BUDGET
from szpo.runs import link_triads, samples
from szpo.runs.assemble import RunParts
from szpo.training.step_report import Outcome
from szpo.types import Say
from szpo.voting import lease, steps
from szpo.voting.counting import StepVotes
from szpo.voting.lease import Lease

_FULFIL: Final = {
    "final": samples.fulfil_final,
    "samples": samples.fulfil,
    "triads": link_triads.fulfil,
}
_CHANGES: Final = ("pause", "unpause", "stop", "limits", BUDGET)
"""Events after which a run that stood still may go on."""


def fulfil(ledger: Ledger, parts: RunParts, say: Say) -> int:
    """Fulfil the open orders; returns how many.

    What cannot be done is settled with its reason, so that it is not tried for ever.

    Raises:
        LeaseError, StorageError, IntegrityError: not the order's fault; it stays open.
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
    except Exception as error:  # an engine's own: it must not end a run that people vote in
        reason = f"{type(error).__name__}: {error}"
    else:
        return
    say(f"order {order.id} cannot be done: {reason}")
    orders.settle(ledger, order, {"error": reason})


class LeaseHolder:
    """A process that holds a run's lease: what it does while votes are missing, and afterwards.

    Between two looks at the ledger, here and in the loop, it calls `turn`.
    """

    def __init__(
        self, ledger: Ledger, parts: RunParts, held: Lease, wait: Callable[[], None], say: Say
    ):
        """``wait`` is called between two looks at the ledger."""
        self.held: Final = held
        self._ledger, self._parts, self._wait, self._say = ledger, parts, wait, say
        self._warned: frozenset[str] = frozenset()
        self._seen = _changes(ledger)
        self._reported: Outcome | None = None

    def do_one_turn(self) -> None:
        """Keep the lease, warn of what delays the step, fulfil orders, wait.

        Raises:
            LeaseError: another controller took the run over.
        """
        lease.check(self._ledger, self.held.epoch)
        self._warn_of_delays()
        fulfil(self._ledger, self._parts, self._say)
        self._wait()

    def _warn_of_delays(self) -> None:
        """Say once, when it begins, why an open step may stay open for longer than expected."""
        reasons = explain_shortage(self._ledger), explain_delay(self._ledger)
        found = frozenset(filter(None, reasons))
        for reason in sorted(found - self._warned):
            self._say(f"warning: {reason}")
        self._warned = found

    def stand_by(self, outcome: Outcome) -> None:
        """Stay with a run that ended, stopped or paused so, until somebody lets it go on."""
        if outcome != self._reported:
            self._reported = outcome
            then = _how_to_resume(self._ledger)
            self._say(f"{outcome.status}: {outcome.reason}; standing by{then}")
        while (now := _changes(self._ledger)) == self._seen:
            self.do_one_turn()
        self._seen = now


def _how_to_resume(ledger: Ledger) -> str:
    """Who lets a paused run go on, after "standing by"; nothing where it is not paused."""
    if lease.controller(ledger)["paused_by"] is None:
        return ""
    button = "Resume" if steps.has_opened(ledger) else "Start the run"
    return f' until somebody presses "{button}" on the operator\'s page'


def explain_shortage(ledger: Ledger) -> str | None:
    """Why the open step cannot get all its votes from those who may vote; None if it can.

    Nor is there one where a simulated panel answers: it enrols itself.
    """
    row = _open_step(ledger)
    if row is None or _panel_settings(ledger).get("kind", "people") != "people":
        return None
    step, m = row["step"], row["m"]
    panel = ledger.query(
        "SELECT count(*) AS n FROM panelists p WHERE NOT EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist) AND NOT EXISTS "
        "(SELECT 1 FROM events WHERE kind = 'erase' "
        "AND json_extract(body, '$.panelist') = p.panelist) OR EXISTS "
        "(SELECT 1 FROM credentials WHERE panelist = p.panelist AND revoked_us IS NULL)"
    )[0]["n"]
    # Somebody who skipped has been asked and is not asked again.
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
        f"{panel} panelists who may vote; invite more people, or close the step by hand"
    )


def explain_delay(ledger: Ledger) -> str | None:
    """Why an open step whose deadline has passed is still open; None if it is not."""
    minutes, quorum = (
        _panel_settings(ledger).get(name) for name in ("deadline_minutes", "quorum")
    )
    row = _open_step(ledger)
    if row is None or minutes is None or steps.quorate(StepVotes(ledger, row["step"]), quorum):
        return None
    if ledger.clock() < steps.deadline_us(ledger, row, minutes * 60):
        return None
    return (
        f"step {row['step']}: its deadline has passed, yet it has less than the quorum of "
        f"{quorum:.0%} of its votes; it closes once it has them"
    )


def _panel_settings(ledger: Ledger) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ledger.spec.get("config", {}).get("panel", {})
    return found


def _open_step(ledger: Ledger) -> Record | None:
    found = ledger.query("SELECT * FROM steps WHERE run = ? AND state = 'open'", (ledger.run,))
    return found[0] if found else None


def _changes(ledger: Ledger) -> int:
    marks = ", ".join("?" * len(_CHANGES))
    sql = f"SELECT coalesce(max(event), 0) AS last FROM events WHERE kind IN ({marks})"
    return int(ledger.query(sql, _CHANGES)[0]["last"])
