"""Figures of a run as functions that return matplotlib axes, such as ``szpo.plots.gain(run)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from szpo.reports.figures import estimates as estimates
    from szpo.reports.figures import gain as gain
    from szpo.reports.figures import kl as kl
    from szpo.reports.figures import length as length

__all__ = ["estimates", "gain", "kl", "length"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'szpo.plots' has no attribute {name!r}")
    return getattr(import_module("szpo.reports.figures"), name)


def __dir__() -> list[str]:
    return __all__
