"""Zeroth-order policy optimisation from comparisons made by evaluators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.library.vector import Optimizer as Optimizer
    from szpo.library.vector import Pair as Pair
    from szpo.reports.dataframes import open as open

__version__ = "0.1.0"

# Looked up when asked for, so that importing szpo stays light.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "library.vector": ["Optimizer", "Pair"],
        "reports.dataframes": ["open"],
    },
)
