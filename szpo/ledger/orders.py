"""Orders: what an operator requests of the process that holds the model, fulfilled exactly once.

The operator's page has no model. It places an order (an event "order"). The process that drives
the run fulfils the order, and stores the result and an event "done" in one transaction. An order
without "done" is open, so a crash neither loses an order nor fulfils it twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from szpo.errors import UsageError
from szpo.ledger.database import Ledger, Record
from szpo.types import Comparison

OrderKind = Literal["final", "samples"]
KINDS: Final = get_args(OrderKind)

_SELECT = (
    "SELECT o.event, o.actor, o.at_us, o.body, d.body AS done, d.at_us AS done_us, "
    "c.at_us AS closed_us FROM events o "
    "LEFT JOIN events d ON d.kind = 'done' AND json_extract(d.body, '$.order') = o.event "
    "LEFT JOIN events c ON c.kind = 'order closed' AND json_extract(c.body, '$.order') = o.event "
    "WHERE o.kind = 'order'"
)


@dataclass(frozen=True, slots=True)
class Order:
    """One order and what became of it.

    ``result`` is what `settle` was given; {"error": sentence} where the order cannot be done.
    """

    id: int
    """The number of the event that placed it."""
    kind: OrderKind
    by: str
    at_us: int
    body: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    done_us: int | None = None
    closed_us: int | None = None
    """When its comparisons stopped taking votes; None while they take them (kind final)."""

    @property
    def error(self) -> str | None:
        """Why it could not be done; None where it was, or is still open."""
        return None if self.result is None else self.result.get("error")


def place_order(
    ledger: Ledger, kind: OrderKind, by: str, body: Mapping[str, Any] | None = None
) -> int:
    """Place an order; returns its number.

    ``final``: {"comparisons": F, 1 to 1,000} blind comparisons of the base with the tuned policy.
    ``samples``: {"prompts": how many, 1 to 64, "step": k or None} answers of the base, of the
    weights after step k, and of the current weights, to the same held-out prompts.
    """
    body = dict(body or {})
    if kind not in KINDS:
        raise UsageError(f"order {kind!r} is unknown; there are: {', '.join(KINDS)}")
    allowed = {
        "final": {"comparisons": 1000},
        "samples": {"prompts": 64, "step": 2**31},
    }[kind]
    for name, value in body.items():
        if name not in allowed:
            raise UsageError(f"order {kind}: {name!r} is unknown; it takes {', '.join(allowed)}")
        least = 0 if name == "step" else 1
        if name == "step" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"order {kind}: {name} is {value!r}; give a whole number")
        if not least <= value <= allowed[name]:
            raise UsageError(f"order {kind}: {name} is {value}; give {least} to {allowed[name]:,}")
    with ledger.transaction(by):
        ledger.record_event("order", by, {"kind": kind, "body": body})
        return int(ledger.query("SELECT max(event) AS event FROM events")[0]["event"])


def orders(ledger: Ledger, kind: OrderKind | None = None) -> list[Order]:
    """Every order (of a kind), oldest first."""
    orders = [_order(row) for row in ledger.query(_SELECT + " ORDER BY o.event")]
    return [order for order in orders if kind in (None, order.kind)]


def open_orders(ledger: Ledger) -> list[Order]:
    """The orders that nobody has fulfilled yet, oldest first."""
    return [order for order in orders(ledger) if order.result is None]


def results(ledger: Ledger, kind: OrderKind | None = None) -> list[Order]:
    """The settled orders (of a kind), oldest first; failed ones have an `Order.error`."""
    return [order for order in orders(ledger, kind) if order.result is not None]


def get(ledger: Ledger, order: int) -> Order:
    """One order.

    Raises:
        UsageError: there is none of that number.
    """
    rows = ledger.query(_SELECT + " AND o.event = ?", (order,))
    if not rows:
        raise UsageError(f"order {order} does not exist in {ledger.path.name}")
    return _order(rows[0])


def settle(
    ledger: Ledger, order: Order, body: Mapping[str, Any], made: Sequence[Comparison] = ()
) -> bool:
    """Record the result of an order, and store the comparisons made for it, in one commit.

    False, and nothing is stored, if it was settled before.
    """
    with ledger.transaction("controller"):
        if get(ledger, order.id).result is not None:
            return False
        ids = {"comparisons": [comparison.id for comparison in made]} if made else {}
        result = {**ids, **body}
        ledger.record_event("done", "controller", {"order": order.id, "result": result})
        for comparison in made:
            ledger.append_comparison(comparison)
        return True


def close(ledger: Ledger, order: int, by: str) -> bool:
    """Take no more votes on an order's comparisons; False if it was closed before."""
    with ledger.transaction(by):
        placed = get(ledger, order)
        if not comparisons(placed):
            raise UsageError(f"order {order} has no comparisons yet; close it once they are made")
        if placed.closed_us is not None:
            return False
        ledger.record_event("order closed", by, {"order": order})
        return True


def asked(ledger: Ledger) -> int:
    """How many comparisons the final orders have that still take votes."""
    taking = (order for order in orders(ledger, "final") if order.closed_us is None)
    return sum(len(comparisons(order)) for order in taking)


def comparisons(order: Order) -> tuple[str, ...]:
    """The ids of the comparisons that were made for an order, first to last."""
    return tuple((order.result or {}).get("comparisons", ()))


def takes_votes(ledger: Ledger, comparison: str) -> bool:
    """Whether a comparison that was made for an order takes votes: until that is closed."""
    closed = (order for order in results(ledger, "final") if order.closed_us is not None)
    return not any(comparison in comparisons(order) for order in closed)


def _order(row: Record) -> Order:
    placed = json.loads(row["body"])
    return Order(
        id=row["event"],
        kind=placed["kind"],
        by=row["actor"],
        at_us=row["at_us"],
        body=placed["body"],
        result=None if row["done"] is None else json.loads(row["done"])["result"],
        done_us=row["done_us"],
        closed_us=row["closed_us"],
    )
