"""The one way to draw: matplotlib figures as SVG, in which the same drawing has the same bytes."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cycler import cycler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can distinguish."""
MARKS: Final = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Final[Any] = {
    "svg.hashsalt": "szpo",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.prop_cycle": cycler(color=COLOURS, marker=MARKS),
}

_LOCK: Final = threading.RLock()
"""matplotlib's settings and fonts are shared by all threads."""


@contextmanager
def figure(width: float, height: float, style: Any = None) -> Iterator[Figure]:
    """An empty figure in inches, without pyplot, which would keep it in memory.

    Draw and save it within the block. ``style``: settings beside `STYLE`, by name.
    """
    import matplotlib  # slow to load, and most commands need none of it
    from matplotlib.figure import Figure

    with _LOCK, matplotlib.rc_context({**STYLE, **(style or {})}):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure) -> bytes:
    """The figure as an SVG file without a date; texts stay texts."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's browser has the font
        drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
