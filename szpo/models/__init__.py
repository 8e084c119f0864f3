"""Language models: loading, 4-bit, the tiny model, LoRA sites, batched LoRA, adapter files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.models.loading import Loaded as Loaded
    from szpo.models.loading import load as load

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"loading": ["Loaded", "load"]}
)
