"""The state of a run's optimizer between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from szpo.aggregation.weighting import History
from szpo.optim.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the optimizer knows before it gets the votes of ``step``.

    A function of the settings and the recorded votes alone.
    """

    settings: Settings
    step: int
    carried: Any
    """What the rule carries from step to step; see the rule's file in `szpo.optim.rules`."""
    votes: float = 0.0
    history: History | None = None
    """Past votes by voter, if it is known who cast them."""
