"""What a step's directions were drawn from, as it stands in the record of the step's plan.

It is the event "asked", committed with the plan: before any answer, and so before any vote on
them. Whoever plays the step again takes its directions from there; verify draws them anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.optim.settings import Settings
from szpo.types import Asked, Explanation, Query

LIMIT: Final = 2**15
"""Of numbers of 16 bits."""


def note(step: int, asked: Asked) -> dict[str, Any]:
    """What the event "asked" records."""
    ways = [[way.chance, list(way.regressors), list(way.weights)] for way in asked.ways]
    grids = [list(grid) for grid in asked.grids]
    return {"step": step, "asked_after": asked.after, "ways": ways, "directions": grids}


def read(ledger: Ledger, settings: Settings, step: int) -> Asked | None:
    """What was recorded with the plan of a step; None where the seed alone gives directions.

    Raises:
        IntegrityError: it is missing, or is not integers of the right number and size.
    """
    if not settings.asks_posterior:
        return None
    events = ledger.query(
        "SELECT body FROM events WHERE kind = 'asked' AND json_extract(body, '$.step') = ?",
        (step,),
    )
    if len(events) != 1:
        raise IntegrityError(f'step {step}: it has {len(events)} events "asked", not one')
    try:
        return _asked(json.loads(events[0]["body"]), settings)
    except (KeyError, TypeError, ValueError):
        problem = 'its event "asked" does not hold directions and what they were drawn from'
        raise IntegrityError(f"step {step}: {problem}") from None


def recorded_query(ledger: Ledger, settings: Settings, step: int, mu: float) -> Query:
    """What the optimizer asked in a planned step, at a radius.

    Raises:
        IntegrityError: the directions on record are missing, or not those of these coordinates.
    """
    return optimizer.query(settings, step, mu, asked=read(ledger, settings, step))


def _asked(body: dict[str, Any], settings: Settings) -> Asked:
    """The event's body.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    columns = 0 if settings.features is None else settings.features.columns
    ways = []
    for chance, at, weights in body["ways"]:
        ways.append(
            Explanation(chance, _integers(at, 0, columns), _integers(weights, -LIMIT, LIMIT))
        )
        if not at or len(at) != len(weights) or not any(weights):
            raise ValueError("a way has no weight on a regressor")
    _integers([way.chance for way in ways], 1, 2 * LIMIT)
    (after,) = _integers([body["asked_after"]], 0, body["step"] + 1)
    grids = tuple(_integers(grid, -LIMIT, LIMIT) for grid in body["directions"])
    if [len(grid) for grid in grids] != [settings.dim] * (settings.K if ways else 0):
        raise ValueError("directions are of other coordinates, or of another number")
    return Asked(after, tuple(ways), grids)


def _integers(values: Sequence[Any], low: int, end: int) -> tuple[int, ...]:
    if not all(type(value) is int and low <= value < end for value in values):
        raise ValueError(f"not integers from {low} below {end}")
    return tuple(values)
