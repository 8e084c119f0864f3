"""The recorded directions of a step, and the explanations of votes that they were drawn from.

They are the event "asked", committed with the step's plan: before any answer is generated, and so
before any vote. Replay takes the directions from there; verify draws them anew.
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
"""The bound of signed 16-bit integers."""


def note(step: int, asked: Asked) -> dict[str, Any]:
    """The body of the event "asked"."""
    ways = [[way.chance, list(way.regressors), list(way.weights)] for way in asked.ways]
    grids = [list(grid) for grid in asked.grids]
    return {"step": step, "asked_after": asked.after, "ways": ways, "directions": grids}


def read(ledger: Ledger, settings: Settings, step: int) -> Asked | None:
    """Read a step's recorded `Asked`; None where the seed alone gives the directions."""
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
    """The optimizer's query in a planned step, at the perturbation radius ``mu``."""
    return optimizer.query(settings, step, mu, asked=read(ledger, settings, step))


def settings_of(ledger: Ledger, settings: Settings, step: int) -> Settings:
    """The settings with the N of a planned step, which has more rows while more people vote."""
    row = ledger.step(step)
    return (
        settings if row is None or row["n"] == settings.section.N else settings.change(N=row["n"])
    )


def _asked(body: dict[str, Any], settings: Settings) -> Asked:
    """Parse the body of the event "asked".

    Raises:
        KeyError, TypeError, ValueError: the body is malformed.
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
    if [len(grid) for grid in grids] != [settings.dim] * (settings.section.K if ways else 0):
        raise ValueError("directions are of other coordinates, or of another number")
    return Asked(after, tuple(ways), grids)


def _integers(values: Sequence[Any], low: int, end: int) -> tuple[int, ...]:
    if not all(type(value) is int and low <= value < end for value in values):
        raise ValueError(f"not integers from {low} below {end}")
    return tuple(values)
