"""Void steps: szpo no longer writes them, but older ledgers may have them."""

from __future__ import annotations

from szpo.ledger.database import Ledger


def void(ledger: Ledger, step: int, reason: str = "wrong prompts", actor: str = "ann") -> None:
    """Void a step as an earlier version did."""
    with ledger.transaction(actor):
        ledger.execute(
            "UPDATE steps SET state = 'void', epoch = (SELECT epoch FROM controller) "
            "WHERE run = ? AND step = ?",
            (ledger.run, step),
        )
        body = {"step": step, "reason": reason, "row": ledger.step(step)}
        ledger.record_event("void", actor, body)
