"""Weights that a run adopted after improving on a taste: tensors of the record.

They are every moving factor of the adapter. A run's recommended point is θ in its coordinates
until it has adopted weights, and these from then on. A return (`szpo.voting.policy_checks`) ends
that: the start is recommended, until weights are adopted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError
from szpo.failpoints import failpoint
from szpo.ledger import rows
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.types import Theta

KIND: Final = "improved"
RETURN: Final = "returned"
"""Kind of the event by which the policy goes back to its start."""
WITHDRAWN: Final = "withdrawn"
"""Key of a return's body: the panelist whose withdrawn verdicts the weights had learned from."""
PREFIX: Final = "improved/"
"""Of the tensors' names; their number and the factor's name follow."""


@dataclass(frozen=True, eq=False)
class Adopted:
    """Weights that a run adopted, and how it came to them."""

    theta: Theta
    """Every moving factor."""
    stored: Theta
    """Every tensor of the event, other factors included."""
    sha256: str
    body: Mapping[str, Any]
    """The event's: ``steps`` applied before, ``taste``, ``seed``, ``nats`` and more."""


def append(
    ledger: Ledger, theta: Theta, body: Mapping[str, Any], others: Theta | None = None
) -> None:
    """Record weights and the event that adopts them, in one transaction.

    Args:
        ledger: The run.
        theta: Every moving factor.
        body: How many ``steps`` were applied before, and what else should be known.
        others: Tensors to record beside them.
    """
    with ledger.transaction("controller"):
        number = sum(1 for _ in ledger.events(KIND))
        hashes = {}
        for name, values in {**theta, **(others or {})}.items():
            made = rows.tensor(f"{PREFIX}{number}/{name}", values)
            ledger.append("tensors", made)
            hashes[name] = made["sha256"]
        failpoint("cp16")
        sha256 = digest(theta)
        ledger.record_event(
            KIND,
            "controller",
            {
                **body,
                "number": number,
                "tensors": hashes,
                "moving": list(theta),
                "theta_sha256": sha256,
            },
        )


def read(ledger: Ledger, until: int | None = None, number: int | None = None) -> Adopted | None:
    """The weights that were last adopted after at most ``until`` steps; None: none are in force.

    ``number``: only the first so many adoptions are looked at.

    Raises:
        IntegrityError: they are not the recorded ones.
    """
    found = last(ledger, until, number)
    if found is None or went_back(found):
        return None
    stored = tensors(ledger, found)
    theta = {name: stored[name] for name in found["moving"]}
    return Adopted(theta, stored, found["theta_sha256"], found)


def last(
    ledger: Ledger, until: int | None = None, number: int | None = None
) -> Mapping[str, Any] | None:
    """The body of the event in force: of an adoption, or of a return; arguments as in `read`."""
    found = None
    for body in bodies(ledger):
        if number is not None and body.get("number") == number:
            break
        if until is None or body["steps"] <= until:
            found = body
    return found


def bodies(ledger: Ledger) -> list[Mapping[str, Any]]:
    """The bodies of all adoptions and returns, in order."""
    sql = "SELECT body FROM events WHERE kind IN (?, ?) ORDER BY event"
    return [json.loads(row["body"]) for row in ledger.query(sql, (KIND, RETURN))]


def went_back(body: Mapping[str, Any]) -> bool:
    """Whether an event with this body is a return to the start."""
    return "tensors" not in body


def tensors(ledger: Ledger, body: Mapping[str, Any]) -> Theta:
    """The tensors of an event with this body: adopted weights, and others beside them.

    Raises:
        IntegrityError: they are not the recorded ones.
    """
    found = {}
    for name, sha256 in body["tensors"].items():
        stored = ledger.query(
            "SELECT * FROM tensors WHERE sha256 = ? AND name = ?",
            (sha256, f"{PREFIX}{body['number']}/{name}"),
        )
        if stored and rows.tensor("", rows.array(stored[0]))["sha256"] == sha256:
            found[name] = rows.array(stored[0]).astype(np.float32)
    moving = {name: found[name] for name in body["moving"] if name in found}
    sound = {*found} == {*body["tensors"]} and all(np.isfinite(v).all() for v in moving.values())
    if not sound or digest(moving) != body["theta_sha256"]:
        raise IntegrityError(
            f"{ledger.path.name}: its adopted weights are not the recorded ones; restore a copy"
        )
    return found


def is_still(ledger: Ledger) -> bool:
    """Whether nothing has moved: the run has no coordinates, and no adopted weights in force."""
    found = last(ledger)
    still = found is None or went_back(found)
    return ledger.layout == parameters.NO_COORDINATES and still


def digest(theta: Theta) -> str:
    """SHA-256 (hex) of moving factors in canonical form."""
    return parameters.digest(theta, tuple((name, value.shape) for name, value in theta.items()))
