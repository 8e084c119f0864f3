"""What a ledger records of θ: its start, digests after steps, and weights that a run adopted.

Weights that a run adopted after improving on a taste: tensors of the record. They are every moving
factor of the adapter. A run's recommended point is θ in its coordinates until it has adopted
weights, and these from then on. A return (`szpo.voting.blind`) ends that: the start is
recommended, until weights are adopted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from szpo.errors import IntegrityError
from szpo.failpoints import failpoint
from szpo.ledger import canonical
from szpo.ledger.canonical import THETA0, array_of
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.types import Theta

ADOPTED: Final = "improved"
RETURNED: Final = "returned"
"""Kind of the event by which the policy goes back to its start."""
KEPT: Final = "unimproved"
"""Kind of the event of an improvement that found nothing to adopt."""
WITHDRAWN: Final = "withdrawn"
"""Key of a return's body: the panelist whose withdrawn verdicts the weights had learned from."""
START: Final = "start"
RECOMMENDED: Final = "recommended"
UPDATED: Final = "updated"
"""Where an improvement began: at the run's start, at what it recommended, or at the mix that its
updates led to."""
ADOPTED_PREFIX: Final = "improved/"
"""Of the tensors' names; their number and the factor's name follow."""


def improving_file(run: Path) -> Path:
    """The file with the state of an improvement that goes on, beside that of its run."""
    return run.with_name(f"{run.name}-improving.npz")


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


def append_adopted(
    ledger: Ledger, theta: Theta, body: Mapping[str, Any], others: Theta | None = None
) -> None:
    """Record weights and the event that adopts them, in one transaction.

    ``theta``: every moving factor; ``others``: tensors to record beside them. ``body``: how many
    ``steps`` were applied before, and what else should be known.
    """
    with ledger.transaction("controller"):
        number = sum(1 for _ in ledger.events(ADOPTED))
        hashes = {}
        for name, values in {**theta, **(others or {})}.items():
            made = canonical.tensor_row(f"{ADOPTED_PREFIX}{number}/{name}", values)
            ledger.append("tensors", made)
            hashes[name] = made["sha256"]
        failpoint("cp16")
        sha256 = adopted_digest(theta)
        ledger.record_event(
            ADOPTED,
            "controller",
            {
                **body,
                "number": number,
                "tensors": hashes,
                "moving": list(theta),
                "theta_sha256": sha256,
            },
        )


def read_adopted(
    ledger: Ledger, until: int | None = None, number: int | None = None
) -> Adopted | None:
    """The weights that were last adopted after at most ``until`` steps; None: none are in force.

    ``number``: only the first so many adoptions are looked at.

    Raises:
        IntegrityError: they are not the recorded ones.
    """
    body = last_adopted(ledger, until, number)
    if body is None or went_back(body):
        return None
    stored = adopted_tensors(ledger, body)
    theta = {name: stored[name] for name in body["moving"]}
    return Adopted(theta, stored, body["theta_sha256"], body)


def last_adopted(
    ledger: Ledger, until: int | None = None, number: int | None = None
) -> Mapping[str, Any] | None:
    """The body of the event in force: an adoption or a return; arguments as in `read_adopted`."""
    last = None
    for body in adopted_bodies(ledger):
        if number is not None and body.get("number") == number:
            break
        if until is None or body["steps"] <= until:
            last = body
    return last


def adopted_bodies(ledger: Ledger) -> list[Mapping[str, Any]]:
    """The bodies of all adoptions and returns, in order."""
    sql = "SELECT body FROM events WHERE kind IN (?, ?) ORDER BY event"
    return [json.loads(row["body"]) for row in ledger.query(sql, (ADOPTED, RETURNED))]


def went_back(body: Mapping[str, Any]) -> bool:
    """Whether an event with this body is a return to the start."""
    return "tensors" not in body


def adopted_tensors(ledger: Ledger, body: Mapping[str, Any]) -> Theta:
    """The tensors of an event with this body: adopted weights, and others beside them.

    Raises:
        IntegrityError: they are not the recorded ones.
    """
    tensors = {}
    for name, sha256 in body["tensors"].items():
        stored = ledger.query(
            "SELECT * FROM tensors WHERE sha256 = ? AND name = ?",
            (sha256, f"{ADOPTED_PREFIX}{body['number']}/{name}"),
        )
        if stored and canonical.tensor_row("", canonical.array_of(stored[0]))["sha256"] == sha256:
            tensors[name] = canonical.array_of(stored[0]).astype(np.float32)
    moving = {name: tensors[name] for name in body["moving"] if name in tensors}
    sound = {*tensors} == {*body["tensors"]} and all(np.isfinite(v).all() for v in moving.values())
    if not sound or adopted_digest(moving) != body["theta_sha256"]:
        raise IntegrityError(
            f"{ledger.path.name}: its adopted weights are not the recorded ones; restore a copy"
        )
    return tensors


def is_still(ledger: Ledger) -> bool:
    """Whether nothing has moved: the run has no coordinates, and no adopted weights in force."""
    adopted = last_adopted(ledger)
    still = adopted is None or went_back(adopted)
    return ledger.layout == parameters.NO_COORDINATES and still


def adopted_digest(theta: Theta) -> str:
    """SHA-256 (hex) of moving factors in canonical form."""
    return parameters.digest(theta, tuple((name, value.shape) for name, value in theta.items()))


def stored_tensors(ledger: Ledger) -> dict[str, NDArray[Any]]:
    """Every stored tensor by name: the start of θ, and the basis of a subspace."""
    rows = ledger.query("SELECT * FROM tensors ORDER BY name")
    return {row["name"]: array_of(row) for row in rows}


def starting_theta(ledger: Ledger) -> Theta:
    """θ₀: the tensors named theta0/…, or zeros."""
    rows = ledger.query(
        "SELECT * FROM tensors WHERE name >= ? AND name < ?", (THETA0, THETA0[:-1] + "0")
    )
    given = {row["name"].removeprefix(THETA0): array_of(row).astype(np.float32) for row in rows}
    if not given:
        return parameters.zeros(ledger.layout)
    return {name: given[name] for name, _ in ledger.layout}


def theta_digest(ledger: Ledger) -> str:
    """theta_sha256 of the centre of the next comparisons (before the first step, of θ₀).

    The recommended point is another one only under a rule of two points. Then a step's first
    update has the recommended point's digest, and its last update the centre's.
    """
    return _last_digest(ledger, "DESC")


def recommended_digest(ledger: Ledger) -> str:
    """theta_sha256 of the recommended point after the last applied step: what a run exports."""
    adopted = last_adopted(ledger)
    return _last_digest(ledger, "ASC") if adopted is None else str(adopted["theta_sha256"])


def theta_digests(ledger: Ledger) -> list[str]:
    """theta_sha256 of the centre before the first step and after each applied one, in order."""
    return _digests(ledger, "max")


def recommended_digests(ledger: Ledger) -> list[str]:
    """theta_sha256 of the recommended point before the first step and after each applied one.

    From the step after which weights were adopted on it is theirs, and after a return the start's.
    """
    digests = updated_digests(ledger)
    for body in adopted_bodies(ledger):
        steps, digest = body["steps"], body["theta_sha256"]
        digests[steps:] = [digest] * (len(digests) - steps)
    return digests


def updated_digests(ledger: Ledger) -> list[str]:
    """theta_sha256 of the point that updates lead to, also where adopted weights replace it."""
    return _digests(ledger, "min")


def _last_digest(ledger: Ledger, order: Literal["ASC", "DESC"]) -> str:
    rows = ledger.query(
        f"SELECT theta_sha256 FROM updates WHERE run = ? ORDER BY step DESC, k {order} LIMIT 1",
        (ledger.run,),
    )
    return str(rows[0]["theta_sha256"]) if rows else _starting_digest(ledger)


def _digests(ledger: Ledger, which: Literal["min", "max"]) -> list[str]:
    # With min or max SQLite takes the other columns from that very row.
    rows = ledger.query(
        f"SELECT theta_sha256, {which}(k) AS k FROM updates WHERE run = ? GROUP BY step "
        "ORDER BY step",
        (ledger.run,),
    )
    return [_starting_digest(ledger), *(row["theta_sha256"] for row in rows)]


def _starting_digest(ledger: Ledger) -> str:
    return parameters.digest(starting_theta(ledger), ledger.layout, ledger.basis_sha256)
