"""A run's charts as plain SVG text: without library or script, for light and dark themes.

For assistive technology a chart is an image with its title as name. All texts are escaped; colours
and line widths come from the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeAlias

from szpo.analysis.improvement import Improvement
from szpo.analysis.taught import Lesson
from szpo.metrics import Estimate, Share, Z

GAIN: Final = "Gain over votes"
REACH: Final = 4.0
"""Larger value differences are drawn at the edge: e⁴ is odds of 55 to 1."""
FEWEST: Final = 3
"""Fewest points of a small curve: with two, any noise looks like a trend."""


_Scale: TypeAlias = Callable[[float], float]
"""A function from a value to a coordinate."""


def _scale(low: float, high: float, first: float, last: float) -> _Scale:
    """Map ``low`` … ``high`` to ``first`` … ``last``; values beyond are put at the edge."""
    span = (high - low) or 1.0
    return lambda value: first + (min(max(value, low), high) - low) / span * (last - first)


class _Box(NamedTuple):
    """A chart's size and the margins of its plot, in SVG units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    drop: int
    """Distance from the plot down to the labels of x."""

    def at_x(self, low: float, high: float) -> _Scale:
        return _scale(low, high, self.left, self.width - self.right)

    def at_y(self, low: float, high: float) -> _Scale:
        return _scale(low, high, self.height - self.bottom, self.top)

    def level(self, kind: str, at_y: _Scale, y: float) -> str:
        """A horizontal line across the plot."""
        ends = f'x1="{self.left}" x2="{self.width - self.right}"'
        return f'<line class="{kind}" {ends} y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>'

    def x_label(self, at_x: _Scale, x: float, text: str) -> str:
        place = f'x="{at_x(x):.1f}" y="{self.height - self.bottom + self.drop}"'
        return f'<text {place} text-anchor="middle">{text}</text>'

    def y_label(self, at_y: _Scale, y: float, text: str) -> str:
        place = f'x="{self.left - 8}" y="{at_y(y):.1f}"'
        return f'<text {place} dy=".32em" text-anchor="end">{text}</text>'

    def open(self, kind: str, title: str, more: str = "") -> str:
        named = escape(title, quote=True)
        size = f'viewBox="0 0 {self.width} {self.height}"'
        return f'<svg class="{kind}" {size} role="img" aria-label="{named}"{more}>'


_LINES: Final = _Box(640, 272, 56, 16, 16, 52, 16)
_VALUES: Final = _Box(960, 300, 44, 14, 12, 34, 18)
_SMALL: Final = _Box(220, 56, 4, 6, 4, 4, 0)


def _place(points: Iterable[tuple[float, float]], at_x: _Scale, at_y: _Scale) -> list[str]:
    return [f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points]


@dataclass(frozen=True)
class Series:
    """Values over x, with intervals if ``low`` and ``high`` are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dots: bool = False
    """Draw points instead of a line."""

    @classmethod
    def of(cls, name: str, rows: Iterable[Sequence[float]], *, dots: bool = False) -> Series:
        """Make a series from rows of x, value, low and high."""
        x, y, low, high = list(zip(*rows, strict=True)) or [()] * 4
        return cls(name, x, y, low, high, dots)


def estimate_series(steps: Iterable[tuple[int, float | None, float | None]]) -> Series:
    """The value difference Δ̂ over steps with its 95 % interval, in units of the link.

    ``steps`` are (step, Δ̂, standard error); steps without Δ̂ are left out.
    """
    rows = [(step, value, Z * (error or 0.0)) for step, value, error in steps if value is not None]
    return Series.of("Δ̂", [(x, y, y - half, y + half) for x, y, half in rows], dots=True)


def gain_series(helped: Improvement) -> Series | None:
    """The share of held-out pairs won, over votes, with intervals; None if not measured."""
    known = [(p.votes, p.wins) for p in helped.points if p.wins is not None]
    gained = [(votes, wins.value or 0.0, wins.low, wins.high) for votes, wins in known]
    # Before any vote the tuned policy is the base, which wins half of its pairs.
    return Series.of("held out", [(0, 0.5, 0.5, 0.5), *gained]) if gained else None


def draw_gain(helped: Improvement) -> str:
    """The share of held-out pairs won, over votes, as SVG; "" if not measured."""
    series = gain_series(helped)
    return "" if series is None else _draw_shares(GAIN, [series], "pairs won")


def draw_path(steps: Sequence[dict[str, Any]]) -> str:
    """The share of votes for the way that a run moves, over votes; "" for under two points.

    ``steps`` are the ``values`` of `szpo.analysis.overview`, pooled over ten steps; a share p is a
    value difference of log p / (1 − p).
    """
    counted = accumulate(step["votes"] for step in steps)
    known = [
        (votes, *(1 / (1 + math.exp(-x)) for x in ends))
        for votes, step in zip(counted, steps, strict=True)
        if (ends := _ends(step["pooled"]))
    ]
    if len(known) < 2:
        return ""
    series = Series.of("votes for going on", known)
    return _draw_shares("Votes for going on, over votes", [series], "share of votes")


def draw_lesson(lesson: Lesson) -> str:
    """The probability of each leading group of features over votes, as SVG with its legend.

    "" before the votes show a taste.
    """
    if not lesson.lines:
        return ""
    series = [Series(*line) for line in lesson.lines]
    return _draw_shares("What the votes taught", series, "probability") + legend(series)


def draw_mix(lesson: Lesson) -> str:
    """The nats of the adapters that are mixed most, over votes, as SVG with its legend, or ""."""
    if not lesson.mixed:
        return ""
    series = [Series(*line) for line in lesson.mixed]
    drawn = line_chart(
        "The mix of adapters", series, x_label="votes", y_label="nats", reference=0.0
    )
    return drawn + legend(series)


def _draw_shares(title: str, series: Sequence[Series], y_label: str) -> str:
    """Draw shares over votes, with a line at ½."""
    return line_chart(
        title, series, x_label="votes", y_label=y_label, reference=0.5, bounds=(0, 1)
    )


def _ends(x: Estimate) -> tuple[float, float, float] | None:
    """Value, low and high; None unless all are known."""
    known = x.value is not None and x.low is not None and x.high is not None
    return (x.value, x.low, x.high) if known else None  # type: ignore[return-value]


def draw_share(share: Share | None) -> str:
    """A share and its interval on a bar from 0 to 100 % with a mark at ½, as SVG in one colour.

    "" if there is no share. The numbers are in the picture's name.
    """
    if share is None or share.value is None:
        return ""
    low, at, high = (100 * x for x in (share.low, share.value, share.high))
    said = f"{at:.0f} % [{low:.0f}, {high:.0f}] on a bar from 0 to 100 %"
    return (
        f'<svg class="share" viewBox="-3 0 106 15" width="212" height="30" role="img" '
        f'aria-label="{said}" fill="currentColor"><rect y="3" width="100" height="3" '
        f'opacity=".15"/><rect x="{low:.1f}" y="3" width="{high - low:.1f}" height="3" '
        f'opacity=".5"/><rect x="49.75" y="1" width=".5" height="7"/><circle cx="{at:.1f}" '
        'cy="4.5" r="2"/><g font-size="7" text-anchor="middle"><text x="1" y="15">0</text>'
        '<text x="50" y="15">½</text><text x="103" y="15" text-anchor="end">100 %</text></g></svg>'
    )


def draw_interval(share: Share, at: float | None = None) -> str:
    """A share on a line from 0 to 1: interval as a bar, value as a tick, ``at`` as a dashed line.

    It is decoration: the numbers are text beside it. "" if there is no share.
    """
    if share.value is None:
        return ""
    low, high, value = (1 + 98 * x for x in (share.low, share.high, share.value))
    dashed = ""
    if at is not None:
        x = f"{1 + 98 * at:.1f}"
        dashed = f'<line class="zero" x1="{x}" x2="{x}" y1="0" y2="14"/>'
    return (
        '<svg class="op-line" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="rail" x1="1" x2="99" y1="7" y2="7"/>{dashed}'
        f'<rect class="bar" x="{low:.1f}" y="4" width="{max(1.0, high - low):.1f}" height="6"/>'
        f'<line class="tick" x1="{value:.1f}" x2="{value:.1f}" y1="1" y2="13"/></svg>'
    )


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
    """Draw a chart as an ``<svg>`` element; colours come from the page's classes s0, s1, ….

    ``reference``: level of a dashed line, such as a win rate of one half. ``bounds``: range of y,
    shown in % if it is (0, 1); None: the data's.
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
    # x counts steps or votes, so ticks are whole numbers.
    x_ticks = [t for t in ticks(min(xs), max(xs), 8) if min(xs) <= t <= max(xs) and t % 1 == 0]
    box, at_y = _LINES, _LINES.at_y(y_ticks[0], y_ticks[-1])
    at_x = box.at_x(min(xs), max(xs))
    parts = [box.open("chart", title), f"<title>{escape(title)}</title>"]
    for t in y_ticks:
        said = f"{100 * t:g} %" if bounds == (0, 1) else f"{t:g}"
        parts += [box.level("grid", at_y, t), box.y_label(at_y, t, said)]
    parts += [box.x_label(at_x, t, f"{t:g}") for t in x_ticks]
    parts.append(
        f'<text class="label" x="{(box.left + box.width - box.right) / 2}" y="{box.height - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" x="{box.left}" y="{box.top - 5}">{escape(y_label)}</text>'
    )
    if reference is not None:
        parts.append(box.level("reference", at_y, reference))
    for i, each in enumerate(series):
        parts += _draw_series(each, i, at_x, at_y)
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """The names of a chart's series with their lines, as an HTML list with the same classes."""
    items = (
        f'<li><svg viewBox="0 0 28 10" aria-hidden="true"><path class="s{i} line" d="M0 5H28"/>'
        f"</svg> {escape(s.name)}</li>"
        for i, s in enumerate(series)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def standalone(svg: str) -> str:
    """The chart as a separate file that contains its colours for both themes.

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


def _draw_series(s: Series, i: int, at_x: _Scale, at_y: _Scale) -> list[str]:
    points = [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
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
            parts.append(_area(f"s{i} band", edges, at_x, at_y))
    if not s.dots:
        line = " ".join(_place(points, at_x, at_y))
        return [*parts, f'<polyline class="s{i} line" points="{line}"/>']
    return parts + [
        f'<circle class="s{i} dot" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3"/>'
        for x, y in points
    ]


def _area(
    kind: str, edges: Sequence[tuple[float, float, float]], at_x: _Scale, at_y: _Scale
) -> str:
    """The area between low and high of (x, low, high), as a polygon."""
    around = _place([(x, high) for x, _, high in edges], at_x, at_y)
    around += _place([(x, low) for x, low, _ in reversed(edges)], at_x, at_y)
    return f'<polygon class="{kind}" points="{" ".join(around)}"/>'


# ---- the operator's page ----


def draw_values(steps: Sequence[dict[str, Any]], title: str) -> str:
    """Draw value differences per step with intervals, and a band for ten steps pooled.

    ``steps`` are the ``values`` of `szpo.analysis.overview`. A hollow dot is a step with unanimous
    votes, whose number limits its estimate. The first steps, which have no path behind them yet,
    are drawn as crosses, with plus against minus.
    """
    shown = [(s, s["heading"] if s["heading"].n else s["raw"]) for s in steps]
    if not shown:
        return '<p class="op-empty">Nothing to draw yet: no round has closed.</p>'
    edges = [abs(e) for _, x in shown for e in (x.low, x.high) if e is not None]
    reach = min(REACH, max(edges, default=1.0))
    marks = ticks(-reach, reach, 6)
    box, at_y = _VALUES, _VALUES.at_y(marks[0], marks[-1])
    first, last = steps[0]["step"], max(steps[-1]["step"], steps[0]["step"] + 9)
    left, right = first - 0.5, last + 0.5
    at_x = box.at_x(left, right)
    parts = [box.open("op-chart", title)]
    for mark in marks:
        said = f"{mark:+g}".replace("-", "−") if mark else "0"
        kind = "grid" if mark else "zero"
        parts += [box.level(kind, at_y, mark), box.y_label(at_y, mark, said)]
    for mark in ticks(first, last, 10):
        if mark % 1 == 0 and left <= mark <= right:
            parts.append(box.x_label(at_x, mark, f"{mark + 1:g}"))
    pooled = [(s["step"], *ends) for s in steps if (ends := _ends(s["pooled"]))]
    if pooled:
        line = " ".join(_place([(x, value) for x, value, *_ in pooled], at_x, at_y))
        parts.append(_area("band", [(x, low, high) for x, _, low, high in pooled], at_x, at_y))
        parts.append(f'<polyline class="pooled" points="{line}"/>')
    parts += [_draw_value(s, x, at_x(s["step"]), at_y) for s, x in shown]
    return "".join([*parts, "</svg>"])


def _draw_value(step: dict[str, Any], x: Estimate, px: float, at_y: _Scale) -> str:
    if (ends := _ends(x)) is None:
        return ""
    value, low, high = ends
    y, unanimous = at_y(value), step["unanimous"]
    caption = (
        f"round {step['step'] + 1}: {value:+.2f} [{low:+.2f} to {high:+.2f}], "
        f"{step['votes']} vote{'s' * (step['votes'] != 1)}{', unanimous' if unanimous else ''}"
    )
    if step["heading"].n:
        kind = "dot hollow" if unanimous else "dot"
        mark = f'<circle class="{kind}" cx="{px:.1f}" cy="{y:.1f}" r="4.5"/>'
    else:
        mark = f'<path class="cross" d="M{px - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    place = f'x1="{px:.1f}" x2="{px:.1f}" y1="{at_y(low):.1f}" y2="{at_y(high):.1f}"'
    return f'<g class="step"><title>{caption}</title><line class="whisker" {place}/>{mark}</g>'


def draw_spark(
    points: Sequence[tuple[int, float]],
    band: tuple[float | None, float | None] = (None, None),
    title: str = "",
) -> str:
    """A small curve, shaded outside its guard band; "" for fewer points than `FEWEST`.

    Its height covers at least a tenth of the figure's size, so that noise looks small.
    """
    if len(points) < FEWEST:
        return ""
    ys = [y for _, y in points] + [edge for edge in band if edge is not None]
    low, high = min(ys), max(ys)
    level = max(abs(low), abs(high))
    pad = max((high - low) * 0.12, (level * 0.1 - (high - low)) / 2) or 1.0
    box, at_y = _SMALL, _SMALL.at_y(low - pad, high + pad)
    at_x = box.at_x(points[0][0], max(points[-1][0], points[0][0] + 1))
    below, above = band
    shaded = []
    if below is not None:
        shaded.append((at_y(below), max(0.0, box.height - at_y(below))))
    if above is not None:
        shaded.append((0, max(0.0, at_y(above))))
    parts = [box.open("op-spark", title, ' preserveAspectRatio="none"')]
    for y, height in shaded:
        top = f"{y:.1f}" if y else "0"
        size = f'width="{box.width}" height="{height:.1f}"'
        parts.append(f'<rect class="outside" x="0" y="{top}" {size}/>')
    line = " ".join(_place(points, at_x, at_y))
    return "".join([*parts, f'<polyline class="pooled" points="{line}"/></svg>'])
