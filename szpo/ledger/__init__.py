"""The ledger: one SQLite file that holds a run, append-only and hash-chained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.ledger.database import Ledger as Ledger

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"database": ["Ledger"]})
