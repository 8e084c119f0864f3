"""Votes as data: preference files of other projects become pairs, and pairs become files.

Each format is one file with a pure function from a parsed record to pairs;
`szpo.data.preference_files` reads and writes. Nothing here needs a tensor library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.data.pairs import Pair as Pair
    from szpo.data.prompts import PromptSet as PromptSet

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"pairs": ["Pair"], "prompts": ["PromptSet"]}
)
