"""Zeroth-order policy optimisation from comparisons made by evaluators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from szpo.tables import open as open

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "open":  # looked up when asked for, so that importing szpo stays light
        from szpo import tables

        return tables.open
    raise AttributeError(f"module 'szpo' has no attribute {name!r}")
