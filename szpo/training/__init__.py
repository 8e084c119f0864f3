"""The training loop: what a step asks, its guards, budgets and report, and a run's totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.training.comparisons import prompt_order as prompt_order
    from szpo.training.controller import run as run
    from szpo.training.services import Bounds as Bounds
    from szpo.training.services import Hooks as Hooks

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparisons": ["prompt_order"],
        "controller": ["run"],
        "services": ["Bounds", "Hooks"],
    },
)
