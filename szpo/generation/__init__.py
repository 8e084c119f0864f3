"""Generation for several policies of one base model in one batch.

`engine` is the contract, `flat_engine` and `generate_engine` meet it, `engine_choice` picks one of
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.generation.engine import Engine as Engine
    from szpo.generation.engine_choice import check_engine as check_engine
    from szpo.generation.engine_choice import engine_for as engine_for

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"engine_choice": ["check_engine", "engine_for"], "engine": ["Engine"]}
)
