"""Two figures of a run as matplotlib axes, such as ``szpo.plots.gain(run)``.

Each function takes a run (a path, or the result of `szpo.open`) and optionally the axes to draw
into; it returns the axes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from szpo.analysis import charts, improvement
from szpo.analysis.charts import Series
from szpo.analysis.dataframes import Tables
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.voting.applied_step import read_reports

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GivenRun: TypeAlias = Tables | Ledger | str | Path


def gain(run: GivenRun, ax: Axes | None = None) -> Axes:
    """The share of held-out pairs that the tuned model wins against the base, over votes.

    Pairs of answers are compared by a simulated panel's reward; without one there is the blind
    comparison at the end alone. The band is the 95 % interval; one half is no gain.
    """
    with _ledger(run) as ledger:
        series = charts.gain_series(improvement.read(ledger))
    if series is None:
        raise UsageError(
            "plots.gain: no gain was measured in this run; it takes held-out prompts, and a "
            "simulated panel or a blind comparison"
        )
    axes = _draw(series, ax, ("votes", "pairs won", charts.GAIN))
    axes.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1)
    return axes


def kl(run: GivenRun, ax: Axes | None = None) -> Axes:
    """KL of the tuned model to the base after each step, nats per completion."""
    with _ledger(run) as ledger:
        known = [(row.step, row.kl) for row in read_reports(ledger) if row.kl is not None]
    series = Series("kl", [step for step, _ in known], [nats for _, nats in known])
    axes = _draw(series, ax, ("step", "nats per completion", "KL to the base"))
    axes.set_ylim(bottom=0)
    return axes


def _draw(series: Series, ax: Axes | None, texts: tuple[str, str, str]) -> Axes:
    x_label, y_label, title = texts
    if not series.x:
        raise UsageError(f"plots: the run has nothing to draw under {title!r} yet")
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(layout="constrained")
    charts.draw_series(ax, series, marker="o", markersize=4)
    ax.set(xlabel=x_label, ylabel=y_label, title=title)
    return ax


@contextlib.contextmanager
def _ledger(run: GivenRun) -> Iterator[Ledger]:
    """The run's ledger; a ledger that is opened here is closed afterwards."""
    if isinstance(run, Tables):
        yield run.ledger
    elif isinstance(run, Ledger):
        yield run
    else:
        with Ledger.open(run, readonly=True) as ledger:
            yield ledger
