"""Orders such as "not about length": groups of features that updates do not follow.

An event names the group, and the first step for which the order holds: the first that still takes
votes. From then on the group may explain votes, but updates do not follow it
(`szpo.optim.named_features`). Run, replay and verify read the orders with each step's inputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.optim.named_features import NamedFeatures, group_of, groups, groups_of, members

EVENT: Final = "not about"
OVER: Final = ("closed", "applied")
"""States of a step that takes no more votes."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An order that sets a group aside, or its withdrawal."""

    group: str
    """The feature that names the group."""
    step: int
    """The first step for which it holds."""
    on: bool
    """False withdraws it."""
    by: str
    event: int

    def describe(self, features: NamedFeatures, what: str = "step", first: int = 0) -> str:
        """The order's effect in a sentence; ``what`` names a step, ``first`` numbers step 0."""
        follow = "not followed" if self.on else "followed again"
        group = ", ".join(groups_of(features)[self.group])
        return f"{group}: {follow} from the update of {what} {self.step + first} on"


def not_about_orders(ledger: Ledger) -> tuple[SetAside, ...]:
    """All orders of a run, and withdrawals, the earliest first."""
    found = ledger.query("SELECT event, actor, body FROM events WHERE kind = ?", (EVENT,))
    bodies = [(row, json.loads(row["body"])) for row in found]
    return tuple(
        SetAside(body["group"], body["step"], body["on"], row["actor"], row["event"])
        for row, body in bodies
    )


def in_force(ledger: Ledger, step: int | None = None) -> dict[str, SetAside]:
    """The orders in force in a step, by the group's name; by default those in the newest step."""
    last = {o.group: o for o in not_about_orders(ledger) if step is None or o.step <= step}
    return {name: order for name, order in last.items() if order.on}


def read(ledger: Ledger, features: NamedFeatures, step: int) -> tuple[int, ...]:
    """The regressors that a step does not follow, in rising order."""
    held = in_force(ledger, step)
    done = ledger.query(
        "SELECT min(event) AS event FROM events WHERE kind = 'step' "
        "AND json_extract(body, '$.step') = ?",
        (step,),
    )[0]["event"]
    if late := [
        o for o in not_about_orders(ledger) if o.step <= step and o.event > (done or o.event)
    ]:
        raise IntegrityError(f'event {late[0].event}: "{EVENT}" names a step that was over')
    try:
        return tuple(sorted(i for name in held for i in members(features, name)))
    except UsageError as error:
        raise IntegrityError(f'"{EVENT}" in step {step}: {error}') from error


def require_names(features: NamedFeatures | None) -> NamedFeatures:
    """The named features of a run."""
    if features is None:
        raise UsageError(
            "not about: the run's coordinates are not named features (subspace.kind features)"
        )
    return features


def order_not_about(
    ledger: Ledger, by: str, features: NamedFeatures | None, name: str, *, on: bool = True
) -> SetAside:
    """Record an order that sets the group of a feature aside, or its withdrawal; return it."""
    features = require_names(features)
    group = group_of(features, members(features, name)[0]).name
    with ledger.transaction(by):
        held = in_force(ledger)
        if (group in held) == on:
            state = "left out already" if on else "not left out"
            raise UsageError(f"not about: {group} is {state}")
        if on and len(held) + 1 == len(groups(features)):
            raise UsageError(
                "not about: this is the last group; one must be left for the model to follow"
            )
        step = 1 + max((r["step"] for r in ledger.steps() if r["state"] in OVER), default=-1)
        ledger.record_event(EVENT, by, {"group": group, "step": step, "on": on})
        return not_about_orders(ledger)[-1]
