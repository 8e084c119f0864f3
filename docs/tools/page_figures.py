"""Draw the figures of comparisons that took hours from the CSV files of experiments.

    python docs/tools/page_figures.py
    szpo demo --seed 0; python docs/tools/page_figures.py runs/demo-0.db  # the mix over its votes

A row of ``tables/NAME.csv`` is a point of a line: its two axes, the line and how it asked, where
the point is, its value and its 95 % interval, or the range of few seeds. Gains of the tiny model
are kept as measured beside four base answers, and drawn from eighty as in the tables; a point
without a width is the base itself. The other figures are drawn by the bench that is named below
them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from page_tables import DOCS, departures, offset, read, spread

from szpo.analysis import taught_taste
from szpo.drawing import COLOURS, MARKS
from szpo.ledger.database import Ledger
from szpo_simulators.bench_study import Study

FIGURES = {
    "frontier": "bars: 95 %, over seeds; dpo, rm+ppo, 400-bayes: range of three, three, two seeds",
    "compare-published-votes": "bands: 95 %, seeds and prompts; regression: range of four seeds",
    "compare-tiny-kl": "bands: 95 %, over seeds",
    "known-sign-read": "bars: 95 %, over seeds and prompts",
}
"""What the bands or bars of each figure are."""
FROM = {"compare-tiny-kl": "tiny", "known-sign-read": "known-sign"}
"""Beside which few answers of the base the gains of a file were measured."""
REWARDS = {"gain, first person": r"regex:\b(I|my|me|I'm)\b"}
"""The reward of an axis, where it is not sentiment."""
SHADES = (*COLOURS, "#888888", "#882255", "#999933")
SHAPES = (*MARKS, "<", ">", "*")
DASHES = {"": "-", "batch": "-", "pair": "--"}
ASKED = {"batch": "batch votes", "pair": "8 pair votes for each"}
ROOT = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x))
"""A small step's gain grows as the root of its KL, whose estimate may lie a little below 0."""
NATS = (0, 1, 2, 4, 8, 16, 32)
Points = Sequence[Mapping[str, Any]]


def points_of(name: str) -> Points:
    """The points of a figure, gains counted from eighty answers of the base."""
    if name == "compare-published-votes":
        return departed()
    heading, *rows = read(name)
    points: list[dict[str, Any]] = [dict(zip(heading, row, strict=True)) for row in rows]
    for point in points:
        if name in FROM and "gain" in point["y"] and point["low"] != point["high"]:
            shift = offset(REWARDS.get(point["y"], "sentiment"), FROM[name]).mean()
            point |= {end: float(point[end]) + shift for end in ("value", "low", "high")}
    return points


def departed() -> Points:
    """The published rules and departures from them, by what a seed takes on average."""
    return [
        {"x": f"{what} (log scale)", "y": "gain in held-out sentiment", "line": line,
         "ask": "batch", "at": np.mean([float(cell[what]) for cell in cells]),
         **dict(zip(("value", "low", "high"), spread(gains), strict=True))}
        for what in ("votes", "answers read")
        for line, points in departures().items()
        for cells, gains in points
    ]  # fmt: skip


@contextmanager
def figure(name: str, *, columns: int, height: float) -> Iterator[Any]:
    """Axes to draw on, saved as SVG among the figures of the pages."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(name, Path(folder), figures=DOCS / "figures")
        with study.figure(name, columns=columns, height=height) as axes:
            yield axes


def draw(name: str) -> None:
    """Draw one figure: a panel for each pair of axes, a colour for each line."""
    points = points_of(name)
    panels = list(dict.fromkeys((point["x"], point["y"]) for point in points))
    names = list(dict.fromkeys(point["line"] for point in points))
    styles = {line: {"color": SHADES[i], "marker": SHAPES[i]} for i, line in enumerate(names)}
    with figure(name, columns=len(panels), height=4.6) as axes:
        for at, (x, y) in zip(axes, panels, strict=True):
            at.set(xlabel=x, ylabel=y)
            if x.endswith("(log scale)"):
                at.set_xscale("log")
                at.xaxis.set_major_locator(LogLocator(subs=(1, 2, 4)))
                at.xaxis.set_minor_locator(NullLocator())
                at.xaxis.set_major_formatter("{x:,.0f}")
            if x.endswith("(root scale)"):
                at.set_xscale("function", functions=ROOT)
                at.set_xticks(NATS, [str(n) for n in NATS])
            panel = [point for point in points if (point["x"], point["y"]) == (x, y)]
            for line, ask in dict.fromkeys((point["line"], point["ask"]) for point in panel):
                here = [p for p in panel if (p["line"], p["ask"]) == (line, ask)]
                draw_line(at, here, {**styles[line], "linestyle": DASHES[ask]})
        handles = [Line2D([], [], label=line, **style) for line, style in styles.items()]
        handles += [
            Line2D([], [], color="#666666", linestyle=DASHES[ask], label=ASKED[ask])
            for ask in ASKED
            if any(point["ask"] == ask for point in points)
        ]
        axes[0].figure.legend(
            handles=handles, loc="outside lower center", ncols=4, fontsize=7.5,
            title=FIGURES[name], title_fontsize=7.5,
        )  # fmt: skip


def draw_line(axes: Axes, points: Points, style: Mapping[str, Any]) -> None:
    """Draw a line with its intervals: a band with its end marked, or bars at its few points."""
    at, values = ([float(point[name]) for point in points] for name in ("at", "value"))
    known = [point for point in points if point["low"]]
    low, high = ([float(point[name]) for point in known] for name in ("low", "high"))
    where = [float(point["at"]) for point in known]
    if points[0]["ask"]:
        axes.plot(at, values, markevery=[-1], **style)
        axes.fill_between(where, low, high, color=style["color"], alpha=0.18, linewidth=0)
    else:
        axes.plot(at, values, **style)
        axes.vlines(where, low, high, color=style["color"], linewidth=0.9)


def draw_mix(run: Path) -> None:
    """Draw the nats of the adapters that a run mixes most, over its votes."""
    with Ledger.open(run, readonly=True) as ledger:
        lesson = taught_taste.read(ledger)
    with figure("demo-mix", columns=1, height=3.0) as at:
        at.set(xlabel="votes", ylabel="nats of the adapter")
        at.axhline(0, color="#888888", linewidth=0.6)
        for color, (name, votes, nats) in zip(COLOURS, lesson.mixed, strict=False):
            at.plot(votes, nats, color=color, label=name)
        at.legend(fontsize=7.5)


if __name__ == "__main__":
    if runs := sys.argv[1:]:
        draw_mix(Path(runs[0]))
    else:
        for each in FIGURES:
            draw(each)
