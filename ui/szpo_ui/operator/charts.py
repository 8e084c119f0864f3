"""Charts of the operator's page as inline SVG; every point also stands in a table.

A chart is an image to assistive technology, named by its heading; the numbers stand in the table
that the page puts behind it. Colours and line widths come from the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from szpo.intervals import Estimate
from szpo.reports.charts import Series, line_chart, ticks

WIDTH, HEIGHT = 960, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 34
REACH = 4.0
"""Value differences beyond this are drawn at the edge: e⁴ is odds of 55 to 1."""
SMALL_WIDTH, SMALL_HEIGHT = 220, 56
FEWEST = 3
"""Points from which a small curve is drawn: two of them make any noise a line."""


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        span = (self.high - self.low) or 1.0
        return self.first + (inside - self.low) / span * (self.last - self.first)


def values(steps: Sequence[dict[str, Any]], name: str = "chart") -> Markup:
    """Value differences per step with their intervals, and the band of ten steps pooled.

    A hollow dot is a step whose votes all went one way: its estimate is bounded by their number.
    Steps without a path behind them (the first) are drawn by plus and minus, as crosses.
    """
    shown = [(s, s["heading"] if s["heading"].n else s["raw"]) for s in steps]
    if not shown:
        return Markup('<p class="op-empty">Nothing to draw yet: no round has closed.</p>')
    edges = [abs(e) for _, x in shown for e in (x.low, x.high) if e is not None]
    reach = min(REACH, max(edges, default=1.0))
    marks = ticks(-reach, reach, 6)
    at_y = _Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    first, last = shown[0][0]["step"], shown[-1][0]["step"]
    at_x = _Scale(first - 0.5, max(last, first + 9) + 0.5, LEFT, WIDTH - RIGHT)
    parts = [f'<svg class="op-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="'
             f'{escape(name, quote=True)}">']  # fmt: skip
    parts += _frame(marks, at_x, at_y, first, last)
    parts += _band([(s["step"], s["pooled"]) for s in steps if s["pooled"].n], at_x, at_y)
    parts += [_point(s, x, at_x(s["step"]), at_y) for s, x in shown]
    return Markup("".join([*parts, "</svg>"]))  # only numbers and our own words are in it


def path(steps: Sequence[dict[str, Any]]) -> Markup:
    """The share of votes for the way a run goes, ten steps pooled, over votes; empty before any.

    A share of p is a value difference of log p / (1 − p).
    """
    counted = accumulate(s["votes"] for s in steps)
    known = [
        (votes, s["pooled"].value, s["pooled"].low, s["pooled"].high)
        for votes, s in zip(counted, steps, strict=True)
        if s["pooled"].value is not None
        and s["pooled"].low is not None
        and s["pooled"].high is not None
    ]
    if len(known) < 2:
        return Markup("")
    votes, *odds = zip(*known, strict=True)
    value, low, high = ([1 / (1 + math.exp(-x)) for x in each] for each in odds)
    drawn = Series("votes for going on", votes, value, low, high)
    title, bounds = "Votes for going on, over votes", (0, 1)
    return Markup(line_chart(
        title, [drawn], x_label="votes", y_label="share of votes", reference=0.5, bounds=bounds,
    ))  # fmt: skip


def _frame(marks: Sequence[float], at_x: _Scale, at_y: _Scale, first: int, last: int) -> list[str]:
    parts = []
    for mark in marks:
        y, kind = f"{at_y(mark):.1f}", "zero" if mark == 0 else "grid"
        label = f"{mark:+g}".replace("-", "−") if mark else "0"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y}" dy=".32em" text-anchor="end">{label}</text>')
    for mark in ticks(first, max(last, first + 9), 10):
        if mark % 1 == 0 and at_x.low <= mark <= at_x.high:
            place = f'x="{at_x(mark):.1f}" y="{HEIGHT - BOTTOM + 18}"'
            parts.append(f'<text {place} text-anchor="middle">{mark + 1:g}</text>')
    return parts


def _band(pooled: Sequence[tuple[int, Estimate]], at_x: _Scale, at_y: _Scale) -> list[str]:
    known = [(x, e.value, e.low, e.high) for x, e in pooled
             if e.value is not None and e.low is not None and e.high is not None]  # fmt: skip
    if not known:
        return []
    around = [f"{at_x(x):.1f},{at_y(high):.1f}" for x, _, _, high in known]
    around += [f"{at_x(x):.1f},{at_y(low):.1f}" for x, _, low, _ in reversed(known)]
    line = " ".join(f"{at_x(x):.1f},{at_y(value):.1f}" for x, value, _, _ in known)
    return [f'<polygon class="band" points="{" ".join(around)}"/>',
            f'<polyline class="pooled" points="{line}"/>']  # fmt: skip


def _point(step: dict[str, Any], x: Estimate, px: float, at_y: _Scale) -> str:
    if x.value is None or x.low is None or x.high is None:
        return ""
    low, high, y = at_y(x.low), at_y(x.high), at_y(x.value)
    caption = (
        f"round {step['step'] + 1}: {x.value:+.2f} [{x.low:+.2f} to {x.high:+.2f}], "
        f"{step['votes']} votes{', unanimous' if step['unanimous'] else ''}"
    )
    if step["heading"].n:
        kind = "dot hollow" if step["unanimous"] else "dot"
        mark = f'<circle class="{kind}" cx="{px:.1f}" cy="{y:.1f}" r="4.5"/>'
    else:
        mark = f'<path class="cross" d="M{px - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    return (
        f'<g class="step"><title>{caption}</title>'
        f'<line class="whisker" x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f"{mark}</g>"
    )


def spark(
    points: Sequence[tuple[int, float]],
    band: tuple[float | None, float | None] = (None, None),
    name: str = "",
) -> Markup:
    """A small curve with its guard band shaded; nothing for fewer points than `FEWEST`.

    Its height stands for at least a tenth of the figure, so that noise looks like noise.
    """
    if len(points) < FEWEST:
        return Markup("")
    ys = [y for _, y in points] + [edge for edge in band if edge is not None]
    low, high = min(ys), max(ys)
    level = max(abs(low), abs(high))
    pad = max((high - low) * 0.12, (level * 0.1 - (high - low)) / 2) or 1.0
    at_y = _Scale(low - pad, high + pad, SMALL_HEIGHT - 4, 4)
    first, last = points[0][0], points[-1][0]
    at_x = _Scale(first, max(last, first + 1), 4, SMALL_WIDTH - 6)
    parts = [
        f'<svg class="op-spark" viewBox="0 0 {SMALL_WIDTH} {SMALL_HEIGHT}" role="img" '
        f'aria-label="{escape(name, quote=True)}" preserveAspectRatio="none">'
    ]
    parts += _limits(band, at_y)
    line = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="pooled" points="{line}"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def _limits(band: tuple[float | None, float | None], at_y: Callable[[float], float]) -> list[str]:
    parts = []
    low, high = band
    if low is not None:
        y = at_y(low)
        parts.append(f'<rect class="outside" x="0" y="{y:.1f}" width="{SMALL_WIDTH}" '
                     f'height="{max(0.0, SMALL_HEIGHT - y):.1f}"/>')  # fmt: skip
    if high is not None:
        parts.append(f'<rect class="outside" x="0" y="0" width="{SMALL_WIDTH}" '
                     f'height="{max(0.0, at_y(high)):.1f}"/>')  # fmt: skip
    return parts


def interval(low: float, high: float, value: float | None, at: float | None = None) -> Markup:
    """A share on a line from 0 to 1: its interval as a bar, the value as a tick, ``at`` dashed.

    Decoration: the numbers stand beside it as text.
    """
    if value is None:
        return Markup("")
    scale = _Scale(0, 1, 1, 99)
    parts = ['<svg class="op-line" viewBox="0 0 100 14" preserveAspectRatio="none" '
             'aria-hidden="true"><line class="rail" x1="1" x2="99" y1="7" y2="7"/>']  # fmt: skip
    if at is not None:
        x = f"{scale(at):.1f}"
        parts.append(f'<line class="zero" x1="{x}" x2="{x}" y1="0" y2="14"/>')
    width = max(1.0, scale(high) - scale(low))
    parts.append(f'<rect class="bar" x="{scale(low):.1f}" y="4" width="{width:.1f}" height="6"/>')
    x = f"{scale(value):.1f}"
    parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="1" y2="13"/></svg>')
    return Markup("".join(parts))
