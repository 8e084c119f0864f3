"""What the votes of a ledger say: progress, agreement, voters, features, tastes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.analysis.evidence import Evidence as Evidence
    from szpo.analysis.overview import Overview as Overview

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"evidence": ["Evidence"], "overview": ["Overview"]}
)
