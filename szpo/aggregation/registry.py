"""The weightings of voters by name: a new one is a file beside this one, and its entry here.

``equal`` is not learned: every vote counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from szpo.aggregation import rationality, weighting
from szpo.aggregation.weighting import History, View
from szpo.types import Floats

LEARNED: Final[Mapping[str, Callable[[History, View | None], Floats]]] = {
    "skill": lambda history, view: weighting.skill(history, view=view).weights,
    "rationality": lambda history, view: rationality.rationality(history, view=view).weights,
}
"""One weight per voter (..., P) from everyone's votes in earlier steps; with a view, as a model
says what the others' votes mean for each of a voter's directions."""
WEIGHTINGS: Final[tuple[str, ...]] = ("equal", *LEARNED)
