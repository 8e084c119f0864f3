"""Runs as a whole: assemble, plan, drive and branch them; comparisons beside the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.runs.assemble import build as build
    from szpo.runs.assemble import create as create
    from szpo.runs.assemble import reopen as reopen
    from szpo.runs.driver import drive as drive

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"assemble": ["build", "create", "reopen"], "driver": ["drive"]}
)
