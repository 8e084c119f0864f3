"""The weightings of voters by name. A new one is a file beside this one and an entry here.

``equal`` learns nothing: every vote counts once.
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
"""One weight per voter (..., P) from everyone's votes in earlier steps. A `View`, if given, is a
model's prediction from the other voters' votes for each of a voter's directions."""
WEIGHTINGS: Final[tuple[str, ...]] = ("equal", *LEARNED)
