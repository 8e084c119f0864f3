"""Steps that were given up: szpo writes none, but ledgers of before may hold them."""

from __future__ import annotations

from szpo.ledger.database import Ledger


def void(ledger: Ledger, step: int, reason: str = "wrong prompts", actor: str = "ann") -> None:
    """Write what an earlier version wrote when a step was given up."""
    with ledger.transaction(actor):
        ledger.execute(
            "UPDATE steps SET state = 'void', epoch = (SELECT epoch FROM controller) "
            "WHERE run = ? AND step = ?",
            (ledger.run, step),
        )
        body = {"step": step, "reason": reason, "row": ledger.step(step)}
        ledger.record_event("void", actor, body)
