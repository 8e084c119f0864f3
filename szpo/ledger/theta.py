"""What a ledger records of the master coordinates θ: the start θ₀, and digests after steps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.rows import THETA0, array
from szpo.optim import parameters
from szpo.types import Theta


def stored_tensors(ledger: Ledger) -> dict[str, NDArray[Any]]:
    """Every stored tensor by name: the start of θ, and the basis of a subspace."""
    rows = ledger.query("SELECT * FROM tensors ORDER BY name")
    return {row["name"]: array(row) for row in rows}


def starting_theta(ledger: Ledger) -> Theta:
    """θ₀: the tensors named theta0/…, or zeros."""
    rows = ledger.query(
        "SELECT * FROM tensors WHERE name >= ? AND name < ?", (THETA0, THETA0[:-1] + "0")
    )
    given = {row["name"].removeprefix(THETA0): array(row).astype(np.float32) for row in rows}
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
    found = adopted.last(ledger)
    return _last_digest(ledger, "ASC") if found is None else str(found["theta_sha256"])


def theta_digests(ledger: Ledger) -> list[str]:
    """theta_sha256 of the centre before the first step and after each applied one, in order."""
    return _digests(ledger, "max")


def recommended_digests(ledger: Ledger) -> list[str]:
    """theta_sha256 of the recommended point before the first step and after each applied one.

    From the step after which weights were adopted on it is theirs, and after a return the start's.
    """
    found = updated_digests(ledger)
    for body in adopted.bodies(ledger):
        steps, digest = body["steps"], body["theta_sha256"]
        found[steps:] = [digest] * (len(found) - steps)
    return found


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
