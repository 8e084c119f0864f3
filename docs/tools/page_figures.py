"""Draw the figures of comparisons that took hours from the CSV files of experiments/tables.

    python docs/tools/page_figures.py

A row is a point of a line: its two axes, the line and how it asked, where the point is, its value
and its 95 % interval. The other figures are drawn by the bench that is named below them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from page_tables import DOCS, read

from szpo_simulators.study import COLOURS, MARKS, Study

NAMES = (
    "frontier", "compare-published-votes", "compare-tiny-votes", "compare-tiny-kl",
    "known-sign-read",
)  # fmt: skip
SHADES = (*COLOURS, "#888888", "#882255", "#999933")
SHAPES = (*MARKS, "<", ">", "*")
DASHES = {"": "-", "batch": "-", "pair": "--"}
ASKED = {"batch": "batch votes", "pair": "8 pair votes for each"}
ROOT = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x))
"""A small step's gain grows as the root of its KL, whose estimate may lie a little below 0."""
NATS = (0, 1, 2, 4, 8, 16, 32)
Points = Sequence[Mapping[str, str]]


def draw(name: str) -> None:
    """Draw one figure: a panel for each pair of axes, a colour for each line."""
    heading, *rows = read(name)
    points = [dict(zip(heading, row, strict=True)) for row in rows]
    panels = list(dict.fromkeys((point["x"], point["y"]) for point in points))
    names = list(dict.fromkeys(point["line"] for point in points))
    styles = {line: {"color": SHADES[i], "marker": SHAPES[i]} for i, line in enumerate(names)}
    with (
        tempfile.TemporaryDirectory() as folder,
        Study(name, Path(folder), figures=DOCS / "figures").figure(
            name, columns=len(panels), height=4.6
        ) as axes,
    ):
        for at, (x, y) in zip(axes, panels, strict=True):
            at.set(xlabel=x, ylabel=y)
            if x.endswith("(log scale)"):
                at.set_xscale("log")
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
        axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5)


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


if __name__ == "__main__":
    for each in NAMES:
        draw(each)
