"""Where a run's optimizer stands between two steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from szpo.aggregation.weighting import History
from szpo.optim.checked_settings import settings_to_json
from szpo.optim.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the optimizer knows before it gets the votes of ``step``.

    A function of the settings and the recorded votes alone.
    """

    settings: Settings
    step: int
    carried: Any
    """What the rule carries from step to step; its file in `szpo.optim.rules` says what."""
    votes: float = 0.0
    ties: float = 0.0
    history: History | None = None
    """Past votes by voter, where the votes came with their voters."""


def state_to_json(state: State) -> dict[str, Any]:
    """The state as plain JSON values, to look at or to compare."""
    return {**_plain_fields(state), "settings": settings_to_json(state.settings)}


def _plain_fields(value: Any) -> dict[str, Any]:
    return {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.name != "settings"
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return _plain_fields(value)
    return list(value) if isinstance(value, tuple) else value
