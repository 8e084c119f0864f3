"""A run's charts as SVG within HTML: no script, colours of the page in light and dark themes.

For assistive technology a chart is an image with its title as name and its ends as description.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from szpo import drawing
from szpo.analysis.improvement import Improvement
from szpo.analysis.taught_taste import Lesson
from szpo.metrics import Share, Z
from szpo.visible_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAIN: Final = "Gain over votes"
LIGHT: Final = {
    "quiet": "#62696f", "rule": "#e3e6e8", "c0": "#2563a8", "c1": "#c2571a", "c2": "#39824e",
    "c3": "#8a2f86", "c4": "#6d5b00",
}  # fmt: skip
"""Colours by the names of the page's variables: texts, grid, series."""
DARK: Final = {
    "quiet": "#9aa2a9", "rule": "#31363b", "c0": "#7db4ec", "c1": "#f0a36b", "c2": "#86cf9b",
    "c3": "#e79ae2", "c4": "#e0cd6a",
}  # fmt: skip
LINES: Final = ("-", (0, (7, 4)), (0, (2, 3)), (0, (8, 4, 2, 4)), (0, (13, 5)))
"""The dashes of series, by which they differ without colour."""
CLEAR: Final = {
    "figure.facecolor": "none", "axes.facecolor": "none", "text.parse_math": False,
    "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip
"""The page shows through, and names with $ are no formulas."""
FONT: Final = "system-ui, sans-serif"
WIDTH, HEIGHT, ENTRY = 6.4, 2.7, 0.2
"""Inches of a chart, and of a line of its legend."""


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
    if not known and helped.share is not None:  # no reward is known: those who compared it blind
        known = [(helped.votes, helped.share)]
    gained = [(votes, wins.value or 0.0, wins.low, wins.high) for votes, wins in known]
    # Before any vote the tuned policy is the base, which wins half of its pairs.
    return Series.of("held out", [(0, 0.5, 0.5, 0.5), *gained]) if gained else None


def draw_gain(helped: Improvement) -> str:
    """The share of held-out pairs won, over votes, as SVG; "" if not measured."""
    series = gain_series(helped)
    return "" if series is None else _draw_shares(GAIN, [series], "pairs won")


def draw_lesson(lesson: Lesson) -> str:
    """The probability of each leading group of features over votes, as SVG with its legend.

    "" before the votes show a taste.
    """
    series = [Series(*line) for line in lesson.lines]
    return _draw_shares("What the votes taught", series, "probability") if series else ""


def draw_mix(lesson: Lesson) -> str:
    """The nats of the adapters that are mixed most, over votes, as SVG with its legend, or ""."""
    series = [Series(*line) for line in lesson.mixed]
    if not series:
        return ""
    return line_chart("The mix of adapters", series, x_label="votes", y_label="nats", reference=0)


def _draw_shares(title: str, series: Sequence[Series], y_label: str) -> str:
    """Draw shares over votes, with a line at ½."""
    return line_chart(
        title, series, x_label="votes", y_label=y_label, reference=0.5, bounds=(0, 1)
    )


def draw_share(share: Share | None) -> str:
    """A share and its interval on a bar from 0 to 100 % with a mark at ½, as SVG.

    "" if there is no share. The numbers are in the picture's name.
    """
    if share is None or share.value is None:
        return ""
    low, at, high = (100 * x for x in (share.low, share.value, share.high))
    said = f"{at:.0f} % [{low:.0f}, {high:.0f}] on a bar from 0 to 100 %"
    with drawing.figure(3.0, 0.4, {**CLEAR, "svg.hashsalt": said}) as drawn:
        axes, ink = drawn.subplots(), LIGHT["quiet"]
        axes.barh(0, 100, color=ink, alpha=0.15)
        axes.barh(0, high - low, left=low, color=ink, alpha=0.5)
        axes.vlines(50, -0.6, 0.6, color=ink)
        axes.plot([at], [0], "o", color=ink)
        axes.set(xlim=(-2, 102), ylim=(-1, 1), yticks=[])
        axes.set_xticks([0, 50, 100], ["0", "½", "100 %"])
        axes.tick_params(labelcolor=ink)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return _inline(drawn, said, kind="share")


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    reference: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Draw a chart as an ``<svg>`` element in the page's colours; several series get a legend.

    ``reference``: level of a dashed line, such as a win rate of one half. ``bounds``: range of y,
    shown in % if it is (0, 1); None: the data's. x counts steps or votes.
    """
    if not any(math.isfinite(y) for each in series for y in each.y):
        return f'<p class="quiet">{escape(title)}: nothing to draw yet.</p>'
    several = len(series) if len(series) > 1 else 0
    with drawing.figure(
        WIDTH, HEIGHT + ENTRY * several, {**CLEAR, "svg.hashsalt": title}
    ) as drawn:
        axes = drawn.subplots()
        lines = [
            draw_series(axes, each, color=LIGHT[f"c{i % 5}"], linestyle=LINES[i % 5])
            for i, each in enumerate(series)
        ]
        if reference is not None:
            axes.axhline(reference, color=LIGHT["quiet"], linestyle=(0, (4, 4)), linewidth=0.9)
        if bounds is not None:
            axes.set_ylim(*bounds)
        _set_axes(axes, percent=bounds == (0, 1))
        axes.set_xlabel(x_label, color=LIGHT["quiet"])
        axes.set_title(y_label, loc="left", color=LIGHT["quiet"], fontsize=9.5)
        if several:
            names = [visible(each.name).lstrip("_") for each in series]
            drawn.legend(
                lines, names, loc="outside lower left", labelcolor=LIGHT["quiet"], handlelength=3
            )
        return _inline(drawn, title, "; ".join(_describe(each, x_label) for each in series))


def draw_series(axes: Axes, series: Series, **style: Any) -> Any:
    """Draw a series: a line with a band, or points with bars; returns the line."""
    mark = "o" if series.dots or len(series.x) == 1 else ""
    if series.dots:
        style["linestyle"] = ""
    (line,) = axes.plot(series.x, series.y, **{"marker": mark, **style})
    if series.low is not None and series.high is not None:
        colour = line.get_color()
        if series.dots:
            axes.vlines(series.x, series.low, series.high, color=colour, alpha=0.35)
        else:
            low, high = series.low, series.high
            axes.fill_between(series.x, low, high, color=colour, alpha=0.18, linewidth=0)
    return line


def standalone(svg: str) -> str:
    """The chart as a separate file that knows the colours of both themes."""
    dark = ";".join(f"--{name}:{colour}" for name, colour in DARK.items())
    head, _, rest = svg.partition(">")
    return f"{head}><style>@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>{rest}\n"


def _set_axes(axes: Axes, *, percent: bool) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=LIGHT["rule"])
    axes.tick_params(labelcolor=LIGHT["quiet"])
    axes.spines[:].set_color(LIGHT["rule"])


def _describe(series: Series, x_label: str) -> str:
    known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    (first, start), (last, end) = known[0], known[-1]
    ends = f"{start:.3g} ({x_label} {first:g}) to {end:.3g} ({x_label} {last:g})"
    return f"{series.name}: {ends}"


def _inline(drawn: Figure, title: str, told: str = "", kind: str = "chart") -> str:
    """The figure as an element for HTML, its colours as the page's variables."""
    text = drawing.svg(drawn).decode()
    (view,) = re.findall(r'<svg[^>]* (viewBox="[^"]*")', text)
    body = text[text.index(">", text.index("<svg ")) + 1 :]
    # Its style sheet would be the whole page's; names of parts that nothing refers to repeat.
    body = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.S)
    used = set(re.findall(r'[("]#([\w.]+)[)"]', body))
    body = re.sub(r' id="([^"]*)"', lambda each: each[0] if each[1] in used else "", body)
    body = re.sub(r"\s*\n\s*", " ", body.replace("'DejaVu Sans'", FONT))
    for name, colour in LIGHT.items():
        body = body.replace(colour, f"var(--{name}, {colour})")
    named, told = escape(visible(title), quote=True), escape(visible(told))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="{kind}" {view} role="img" aria-label="{named}"><title>{named}</title>'
        f"{f'<desc>{told}</desc>' if told else ''}{body.strip()}"
    )
