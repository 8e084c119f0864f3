"""Requests of people and guards to pause a run, to resume it, or to end it at a step.

A pause and a stop are columns of the run's row in `controller`, which the holder of the lease
reads between steps. Each request is also an event, so that it outlives a restart, and so that a
deadline can exclude the time for which the run was paused.
"""

from __future__ import annotations

import json

from szpo.ledger.database import Ledger
from szpo.voting import lease, seats


def pause(ledger: Ledger, by: str, reason: str = "", *, now: bool = True) -> None:
    """Request a pause, now or after the current step; an event records it.

    With ``now`` an open step and its votes stay as they are, and nothing closes until `unpause`.
    Otherwise the current step is still voted on and applied, and the next one is not opened.
    Panelists and the report show ``reason``, which may be empty.
    """
    with ledger.transaction(by):
        if not now:
            body = {"reason": reason, "after": _current_step(ledger)}
            ledger.record_event("pause after", by, body)
            return
        ledger.execute(
            "UPDATE controller SET paused_by = ?, pause_reason = ? WHERE run = ?",
            (by, reason, ledger.run),
        )
        ledger.record_event("pause", by, {"reason": reason})


def describe_pause(by: str, reason: str) -> str:
    """Who paused the run, and why if that was given.

    >>> describe_pause("ann", "lunch"), describe_pause("ann", "")
    ('ann: lunch', 'ann')
    """
    return f"{by}: {reason}" if reason else by


def find_pending_pause(ledger: Ledger) -> tuple[str, str, int] | None:
    """A pause that was requested and has not begun: by whom, why, and the step before it."""
    found = ledger.query(
        "SELECT kind, actor, body FROM events WHERE kind IN ('pause', 'pause after', 'unpause') "
        "ORDER BY event DESC LIMIT 1"
    )
    if not found or found[0]["kind"] != "pause after":
        return None
    body = json.loads(found[0]["body"])
    return found[0]["actor"], body["reason"], body["after"]


def pause_if_due(ledger: Ledger, step: int) -> None:
    """Begin the pending pause if it was to come after a step before ``step``."""
    with ledger.transaction("controller"):
        pending = find_pending_pause(ledger)
        if pending is not None and pending[2] < step:
            pause(ledger, *pending[:2])


def unpause(ledger: Ledger, by: str) -> None:
    """Resume a paused run, or withdraw a pending pause.

    Seats that were held when the pause began get back the time that they had left.
    """
    with ledger.transaction(by):
        if lease.is_paused(ledger):
            seats.postpone(ledger, since_us=list_pauses(ledger)[-1][0])
        elif find_pending_pause(ledger) is None:
            return
        ledger.execute(
            "UPDATE controller SET paused_by = NULL, pause_reason = NULL WHERE run = ?",
            (ledger.run,),
        )
        ledger.record_event("unpause", by, {})


def list_pauses(ledger: Ledger) -> list[tuple[int, int | None]]:
    """List the run's pauses as (from, to) in µs since 1970; ``to`` is None while one lasts."""
    found: list[tuple[int, int | None]] = []
    for event in ledger.query(
        "SELECT kind, at_us FROM events WHERE kind IN ('pause', 'unpause') ORDER BY event"
    ):
        lasting = bool(found) and found[-1][1] is None
        if event["kind"] == "pause" and not lasting:
            found.append((event["at_us"], None))
        elif event["kind"] == "unpause" and lasting:
            found[-1] = found[-1][0], event["at_us"]
    return found


def sum_paused_us(ledger: Ledger, since_us: int) -> int:
    """Return for how many µs since ``since_us`` the run was paused; deadlines exclude them."""
    now = ledger.clock()
    spans = [
        (max(start, since_us), now if end is None else end) for start, end in list_pauses(ledger)
    ]
    return sum(max(0, end - start) for start, end in spans)


def stop_at(ledger: Ledger, step: int | None, by: str) -> None:
    """Request that the run ends before ``step``; None withdraws the request."""
    with ledger.transaction(by):
        ledger.execute("UPDATE controller SET stop_at = ? WHERE run = ?", (step, ledger.run))
        ledger.record_event("stop", by, {"step": step})


def _current_step(ledger: Ledger) -> int:
    """The first step that is not applied."""
    rows = ledger.query("SELECT step, state FROM steps WHERE run = ? ORDER BY step", (ledger.run,))
    under_way = [row["step"] for row in rows if row["state"] != "applied"]
    return int(under_way[0]) if under_way else len(rows)
