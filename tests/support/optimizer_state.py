"""The optimizer's state as plain JSON values, to compare two states."""

import dataclasses
from typing import Any

import numpy as np

from szpo.config.optimizer import record_settings
from szpo.optim.optimizer import State


def state_to_json(state: State) -> dict[str, Any]:
    """The state as plain JSON values."""
    return {**_plain_fields(state), "settings": record_settings(state.settings)}


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
