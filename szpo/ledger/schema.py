"""The tables of a ledger: the file schema.sql and the triggers that keep it append-only."""

from __future__ import annotations

from importlib import resources

from szpo.ledger import canonical


def schema() -> str:
    """The whole DDL: the file schema.sql and the append-only triggers of every chained table."""
    text = resources.files("szpo").joinpath("ledger", "schema.sql").read_text(encoding="utf-8")
    guards = []
    for table in [*canonical.CHAINED, "events"]:
        if table == "assignments":  # part of it is mutable; its triggers stand in the file
            continue
        for action in ("UPDATE", "DELETE"):
            guards.append(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;"
            )
    return text + "\n".join(guards)
