"""Figures of a run as functions that return matplotlib axes, such as ``szpo.plots.gain(run)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from szpo.reports.figures import estimates as estimates
    from szpo.reports.figures import gain as gain
    from szpo.reports.figures import kl as kl
    from szpo.reports.figures import length as length

__getattr__, __dir__, __all__ = lazy_loader.attach(
    "szpo", submod_attrs={"reports.figures": ["estimates", "gain", "kl", "length"]}
)
