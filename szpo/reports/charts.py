"""A run's line charts as plain SVG text: no library, no script, readable in both themes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from szpo.analysis.improvement import Improvement
from szpo.analysis.taught import Lesson
from szpo.intervals import Share

WIDTH, HEIGHT = 640, 272
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 52
GAIN: Final = "Gain over votes"


@dataclass(frozen=True)
class Series:
    """Values over x, with an interval for each where ``low`` and ``high`` are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dots: bool = False
    """Draw points instead of a joined line."""


def estimate_series(steps: Iterable[tuple[int, float | None, float | None]]) -> Series:
    """The value difference Δ̂ over steps with its 95 % interval, units of the link.

    ``steps`` are (step, Δ̂, standard error); those without a Δ̂ are left out.
    """
    rows = [(step, value, error or 0.0) for step, value, error in steps if value is not None]
    return Series(
        "Δ̂",
        [step for step, _, _ in rows],
        [value for _, value, _ in rows],
        [value - 1.96 * error for _, value, error in rows],
        [value + 1.96 * error for _, value, error in rows],
        dots=True,
    )


def gain_series(helped: Improvement) -> Series | None:
    """The share of held-out pairs won over votes, with intervals; None where none was measured."""
    gained = [(p.votes, p.wins) for p in helped.points if p.wins is not None]
    if not gained:
        return None
    # Before any vote the tuned policy is the base, which wins half of the pairs against itself.
    return Series(
        "held out",
        [0, *(votes for votes, _ in gained)],
        [0.5, *(wins.value or 0.0 for _, wins in gained)],
        [0.5, *(wins.low for _, wins in gained)],
        [0.5, *(wins.high for _, wins in gained)],
    )


def draw_gain(helped: Improvement) -> str | None:
    """The share of held-out pairs won, with intervals, as SVG; None where none was measured."""
    series = gain_series(helped)
    if series is None:
        return None
    return line_chart(
        GAIN, [series], x_label="votes", y_label="pairs won", reference=0.5, bounds=(0, 1)
    )


def draw_share(share: Share | None) -> str:
    """A share with its interval on a bar from 0 to 100 % with ½ marked, as SVG in one colour.

    Empty where there is none.
    """
    if share is None or share.value is None:
        return ""
    low, at, high = (100 * x for x in (share.low, share.value, share.high))
    said = f"{at:.0f} % [{low:.0f}, {high:.0f}] on a bar from 0 to 100 %"
    return (
        f'<svg class="share" viewBox="-3 0 106 14" width="212" height="28" role="img" '
        f'aria-label="{said}" fill="currentColor"><rect y="3" width="100" height="3" '
        f'opacity=".15"/><rect x="{low:.1f}" y="3" width="{high - low:.1f}" height="3" '
        f'opacity=".5"/><rect x="49.75" y="1" width=".5" height="7"/><circle cx="{at:.1f}" '
        'cy="4.5" r="2"/><g font-size="5" text-anchor="middle"><text x="1" y="13">0</text>'
        '<text x="50" y="13">½</text><text x="103" y="13" text-anchor="end">100 %</text></g></svg>'
    )


def draw_lesson(lesson: Lesson) -> str:
    """The probability of each leading group over votes, as SVG with its legend.

    Empty before a taste is shown. Every text in it is escaped.
    """
    if not lesson.lines:
        return ""
    series = [Series(line.name, line.votes, line.chances) for line in lesson.lines]
    title, bounds = "What the votes taught", (0, 1)
    chart = line_chart(
        title, series, x_label="votes", y_label="probability", reference=0.5, bounds=bounds
    )
    return chart + legend(series)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about ``wanted`` intervals.

    >>> ticks(0, 1), ticks(0.13, 0.92, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    span = (high - low) or abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    reference: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """One chart as an ``<svg>`` element; colours come from the classes s0, s1, … of the page.

    Args:
        title: read out to those who do not see the chart.
        series: at least one value in all.
        x_label: under the axis.
        y_label: above the axis.
        reference: a dashed level, such as a win rate of one half.
        bounds: fixed range of y, of which (0, 1) is one of shares; otherwise the data's.
    """
    xs = [x for s in series for x in s.x]
    ys = [y for s in series for part in (s.y, s.low or (), s.high or ()) for y in part]
    ys = [y for y in ys if math.isfinite(y)] + ([] if reference is None else [reference])
    if not xs or not ys:
        return f'<p class="quiet">{escape(title)}: nothing to draw yet.</p>'
    if bounds is None:
        pad = 0.0 if max(ys) > min(ys) else max(abs(ys[0]) / 2, 0.5)
        bounds = min(ys) - pad, max(ys) + pad
    y_ticks = ticks(*bounds)
    # x counts steps or votes: there is nothing between two of them.
    x_ticks = [t for t in ticks(min(xs), max(xs), 8) if min(xs) <= t <= max(xs) and t % 1 == 0]
    low, high = y_ticks[0], y_ticks[-1]
    span_x = (max(xs) - min(xs)) or 1.0

    def at_x(x: float) -> float:
        return LEFT + (x - min(xs)) / span_x * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        inside = min(max(y, low), high)
        return HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>'
    ]
    for t in y_ticks:
        y = f"{at_y(t):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        said = f"{100 * t:g} %" if bounds == (0, 1) else f"{t:g}"
        parts.append(f'<text x="{LEFT - 8}" y="{y}" dy=".32em" text-anchor="end">{said}</text>')
    for t in x_ticks:
        place = f'x="{at_x(t):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} text-anchor="middle">{t:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" x="{LEFT}" y="{TOP - 5}">{escape(y_label)}</text>'
    )
    if reference is not None:
        y = f"{at_y(reference):.1f}"
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        )
    for i, s in enumerate(series):
        parts += _draw_series(s, i, at_x, at_y)
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """The names of a chart's series beside their lines, as an HTML list of the same classes."""
    items = (
        f'<li><svg viewBox="0 0 28 10" aria-hidden="true"><path class="s{i} line" d="M0 5H28"/>'
        f"</svg> {escape(s.name)}</li>"
        for i, s in enumerate(series)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def standalone(svg: str) -> str:
    """The chart as a file of its own, with its colours inside, for both themes.

    >>> standalone('<svg class="chart" viewBox="0 0 1 1"></svg>')[:41]
    '<svg xmlns="http://www.w3.org/2000/svg" c'
    """
    light = ["#2563a8", "#c2571a", "#39824e"]
    dark = ["#7db4ec", "#f0a36b", "#86cf9b"]
    rules = [
        "text{fill:#62696f;font:11px system-ui,sans-serif}.grid{stroke:#8885}",
        ".reference{stroke:#888;stroke-dasharray:4 4}.line{fill:none;stroke-width:2}",
        ".band{opacity:.18}.whisker{opacity:.35}.dot{opacity:.75}",
        _colours(light),
        f"@media(prefers-color-scheme:dark){{text{{fill:#9aa2a9}}{_colours(dark)}}}",
    ]
    opening = '<svg xmlns="http://www.w3.org/2000/svg"'
    head, _, rest = svg.replace("<svg", opening, 1).partition(">")
    return f"{head}><style>{''.join(rules)}</style>{rest}\n"


def _colours(values: Sequence[str]) -> str:
    return "".join(
        f".s{i}.line,.s{i}.whisker{{stroke:{c}}}.s{i}.band,.s{i}.dot{{fill:{c}}}"
        for i, c in enumerate(values)
    )


def _draw_series(
    s: Series, i: int, at_x: Callable[[float], float], at_y: Callable[[float], float]
) -> list[str]:
    points = [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
    placed = [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points]
    parts = []
    if s.low is not None and s.high is not None:
        edges = [e for e in zip(s.x, s.low, s.high, strict=True) if math.isfinite(e[1] + e[2])]
        if s.dots:
            parts += [
                f'<line class="s{i} whisker" x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" '
                f'y1="{at_y(lo):.1f}" y2="{at_y(hi):.1f}"/>'
                for x, lo, hi in edges
            ]
        else:
            around = [f"{at_x(x):.1f},{at_y(hi):.1f}" for x, _, hi in edges]
            around += [f"{at_x(x):.1f},{at_y(lo):.1f}" for x, lo, _ in reversed(edges)]
            parts.append(f'<polygon class="s{i} band" points="{" ".join(around)}"/>')
    if s.dots:
        parts += [
            f'<circle class="s{i} dot" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3"/>'
            for p in placed
        ]
    else:
        parts.append(f'<polyline class="s{i} line" points="{" ".join(placed)}"/>')
    return parts
