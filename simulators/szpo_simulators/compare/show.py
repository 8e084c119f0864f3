"""Print and draw a comparison: table, differences, JSON and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.lines import Line2D

from szpo.training.step_report import plain
from szpo_simulators.compare import summary
from szpo_simulators.compare.presets import METHODS, Preset
from szpo_simulators.compare.summary import Records
from szpo_simulators.study import (
    COLOURS,
    MARKS,
    Study,
    describe_machine,
    draw_curve,
    format_interval,
    number,
)

MORE: Final = (*COLOURS, "#666666", "#882255")
SHAPES: Final = (*MARKS, "<", ">")
DASHES: Final[Mapping[str, Any]] = {"batch": "-", "pair": "--"}
AXES: Final[Mapping[str, str]] = {
    "votes": "votes",
    "answers_read": "answers read",
    "tokens": "tokens generated",
    "cpu_seconds": "processor seconds",
    "peak_bytes": "peak memory, MiB",
}
MIB: Final = 2**20
POINTS: Final = 5
"""Largest number of seeds for which each seed is drawn as a point."""


def show_results(study: Study, preset: Preset, records: Records) -> dict[str, Any]:
    """Print the tables and write CSV, figures and JSON; returns the content of the JSON file."""
    rows = summary.summarise(records, {name: METHODS[name].title for name in preset.methods})
    study.table(
        f"{preset.name}: {preset.reward}, {preset.panel}, {preset.votes} batch votes of "
        f"{preset.D} rows; pair: {preset.D} pair votes for each",
        rows, GAINED,
    )  # fmt: skip
    study.table("what it took", rows, SPENT, f"compare-{preset.name}")
    for row in rows:
        for one in row["stopped"]:
            study.console.print(
                f"{row['method']} {row['ask']}, seed {one['seed']}: stopped at "
                f"{one['votes']:.0f} votes: {one['why']}", markup=False,
            )  # fmt: skip
    apart = summary.differences(rows)
    if apart:
        study.table(
            "final gain of each other less that of szpo (batch), paired by seed", apart,
            {"method": "method", "ask": "ask", "seeds": "n", "difference": number("mean", "+.3f"),
             "95 %": lambda row: f"[{row['low']:+.3f}, {row['high']:+.3f}]"},
        )  # fmt: skip
    draw_figures(study, preset, records)
    tables = {"rows": rows, "differences": apart}
    body: dict[str, Any] = plain({"preset": preset.name, **tables, "machine": describe_machine()})
    study.end(f"compare-{preset.name}", body)
    return body


def _format_gain(row: Mapping[str, Any]) -> str:
    if "mean" not in row:
        return "stopped"
    lost = f", {len(row['stopped'])} stopped" if row["stopped"] else ""
    return f"{format_interval(row, 3)}{lost}"


def _format_target(by: str) -> Any:
    def text(row: Mapping[str, Any]) -> str:
        found = row.get(f"{by}_to_target")
        if found is None:
            return "–"
        value = row[f"median_{by}_to_target"]
        reached = sum(one is not None for one in found)
        return f"{'–' if value is None else f'{value:.0f}'} ({reached}/{len(found)})"

    return text


def _format_over_optimisation(row: Mapping[str, Any]) -> str:
    found = row.get("optimised")
    if not found or "true" not in found:
        return ""
    mark = "over-optimised" if found["seen"] else "open"
    return f"{found['true'][0]:+.2f} / {found['learned'][0]:+.2f} {mark}"


NAMES: Final[Mapping[str, Any]] = {"method": "method", "ask": "ask"}
GAINED: Final[Mapping[str, Any]] = {
    **NAMES,
    "seeds": lambda row: len(row["seeds"]),
    "gain": _format_gain,
    "wins": number("win_rate", ".0%"),
    "KL": number("kl", ".1f"),
    "guards": lambda row: f"{row['guards_held']}/{row['n']}" if "n" in row else "–",
    f"votes to +{summary.TARGET:g}": _format_target("votes"),
    "labels": number("agreement", ".0%"),
    "true / learned after its best": _format_over_optimisation,
}
SPENT: Final[Mapping[str, Any]] = {
    **NAMES,
    "votes": number("votes", ".0f"),
    "read": number("answers_read", ".0f"),
    f"read to +{summary.TARGET:g}": _format_target("answers_read"),
    "tokens, k": number("tokens", ".0f", 1000),
    "cpu s": number("cpu_seconds", ".0f"),
    "s": number("seconds", ".0f"),
    "peak MiB": number("peak_bytes", ".0f", MIB),
    "added": number("added_bytes", ".0f", MIB),
    "length": number("length", ".1f"),
    "margin": number("margin", ".1f"),
}


def draw_figures(study: Study, preset: Preset, records: Records) -> None:
    """Draw gain by votes and answers read, by tokens, seconds and memory, and by KL; proxies."""
    drawn = {key: cells for key, cells in records.items()
             if any(not cell["stopped"] for cell in cells)}  # fmt: skip
    if not drawn:
        return
    for part, by in (("votes", ("votes", "answers_read")),
                     ("costs", ("tokens", "cpu_seconds", "peak_bytes"))):  # fmt: skip
        with study.figure(f"compare-{preset.name}-{part}", columns=len(by), height=4.4) as axes:
            for here, cost in zip(axes, by, strict=True):
                for key, cells in drawn.items():
                    _draw_line(here, preset, key, cells, cost)
                here.set(xlabel=AXES[cost], xscale="linear" if cost == "peak_bytes" else "log")
            axes[0].set_ylabel(f"gain in held-out {preset.reward}")
            _draw_legend(axes[0], preset, drawn)
    with study.figure(f"compare-{preset.name}-kl", columns=3, height=4.4) as axes:
        for key, cells in drawn.items():
            _draw_line(axes[0], preset, key, cells, "kl")
        axes[0].set(xlabel="KL to the start, nats per answer",
                    ylabel=f"gain in held-out {preset.reward}")  # fmt: skip
        for at, value, label in (
            (axes[1], "gain", "true gain, held out"),
            (axes[2], "proxy", "learned reward, held out, in spreads"),
        ):
            for key, cells in drawn.items():
                _draw_learned(at, preset, key, cells, value)
            at.set(xlabel="share of the training with a learned reward", ylabel=label)
        _draw_legend(axes[0], preset, drawn)


def _style(preset: Preset, key: summary.MethodKey) -> dict[str, Any]:
    method, ask = key
    i = preset.methods.index(method)
    return {
        "color": MORE[i % len(MORE)], "marker": SHAPES[i % len(SHAPES)], "linestyle": DASHES[ask]
    }  # fmt: skip


def _draw_line(
    axes: Any, preset: Preset, key: summary.MethodKey, cells: Sequence[Mapping[str, Any]], by: str
) -> None:
    """Draw the mean run with its interval or, for few seeds, each seed's end as a point."""
    scale = MIB if by == "peak_bytes" else 1.0
    found = summary.mean_curve(cells, by)
    style = _style(preset, key)
    runs = [cell["course"] for cell in cells if not cell["stopped"]]
    points = [(x / scale, row) for x, row in zip(found["x"], found["rows"], strict=True)
              if x > 0 or by == "kl"]  # fmt: skip
    xs, rows = [x for x, _ in points], [row for _, row in points]
    if by == "peak_bytes":
        xs, rows = xs[-1:], rows[-1:]
    if len(runs) <= POINTS:
        ends = [run[-1] for run in runs]
        x, gains = [end[by] / scale for end in ends], [end["gain"] for end in ends]
        axes.plot(x, gains, ms=4, alpha=0.55, **{**style, "linestyle": ""})
        axes.plot(xs, [row["mean"] for row in rows], **style)
    else:
        draw_curve(axes, xs, rows, "", markevery=[-1], **style)


def _draw_learned(
    axes: Any,
    preset: Preset,
    key: summary.MethodKey,
    cells: Sequence[Mapping[str, Any]],
    value: str,
) -> None:
    """Draw the true or the learned reward during the training of a method with a reward model."""
    runs = [
        [row for row in cell["course"] if row["proxy"] is not None]
        for cell in cells
        if not cell["stopped"]
    ]
    if not runs or min(map(len, runs)) < 2 or not summary.follows_one(cells):
        return
    found = summary.mean_curve([{"course": run, "stopped": None} for run in runs], "share", value)
    draw_curve(axes, found["x"], found["rows"], "", markevery=[-1], **_style(preset, key))


def _draw_legend(axes: Any, preset: Preset, drawn: Records) -> None:
    methods = [name for name in preset.methods if any(key[0] == name for key in drawn)]
    handles = [Line2D([], [], label=METHODS[name].title, **_style(preset, (name, "batch")))
               for name in methods]  # fmt: skip
    ask_titles = {"batch": "batch votes", "pair": f"{preset.D} pair votes for each"}
    handles += [
        Line2D([], [], color="#666666", linestyle=DASHES[ask], label=ask_titles[ask])
        for ask in DASHES if any(key[1] == ask for key in drawn)
    ]  # fmt: skip
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5)
