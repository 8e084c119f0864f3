"""Gradient methods on the same votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.baselines.registry import run as run

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"registry": ["run"]})
