"""The common parts of benches: seeds, resumable cells, tuning, tables, CSV, figures.

A bench is a list of cells. A cell has a spec and a result, both plain JSON values. The result is
stored in the bench's folder under the hash of the spec. So a stopped bench resumes, and quick and
full settings can share a folder.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.special import stdtrit

from szpo import drawing
from szpo.cli import console as to_user
from szpo.memory import load_average
from szpo.runs.doctor import matrix_seconds
from szpo.types import Answer, Floats, Prompt
from szpo_simulators.cell_records import Spec, hash_spec, make_once, read_record, write_record

TABLE_WIDTH = 140
VERSION = 1
"""Raise this when a bench computes something else: older results are then ignored."""

TUNING, REPORTED = 0, 1000
"""First seed for choosing settings; first seed for reported results."""

OPTIONS = """Args:
    quick: Small settings, under a minute.
    folder: Where finished cells, tables and figures go.
    figures: Where the documents' figures go as well.
"""
"""The options of every bench, for its help on the command line."""

Work = Callable[[Spec], Mapping[str, Any]]
"""From the spec of a cell to its result: both plain JSON values."""


def make_console() -> Console:
    """A console; wide enough for the tables if the output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, TABLE_WIDTH))


def seed_range(count: int, first: int = REPORTED) -> list[int]:
    """The seeds first … first + count − 1.

    >>> seed_range(3)
    [1000, 1001, 1002]
    """
    return list(range(first, first + count))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], head: Sequence[str] = ()) -> None:
    """Write rows under the names of their fields, below ``head`` as lines of comment.

    A field that is a mapping is written as JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    heads = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in head)
        writer = csv.DictWriter(file, fieldnames=heads, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in row.items()}
            for row in rows
        )


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds with its 95 % Student interval, as mean, low, high and n.

    >>> interval([1.0, 2.0, 3.0])["mean"]
    2.0
    """
    x = np.asarray(values, float)
    n, mean = len(x), float(x.mean())
    half = float(stdtrit(n - 1, 0.975) * x.std(ddof=1) / np.sqrt(n)) if n > 1 else math.nan
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def by_label(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Rows grouped by ``label``, in order of first appearance."""
    return [
        (label, [row for row in rows if row["label"] == label])
        for label in dict.fromkeys(row["label"] for row in rows)
    ]


def format_interval(row: Mapping[str, Any], digits: int = 2) -> str:
    """A row's mean ± half the width of its interval, as text; for one seed only the mean.

    >>> format_interval({"mean": 7.1264, "low": 7.08, "high": 7.17})
    '7.13 ± 0.04'
    """
    if row.get("n") == 1:
        return f"{row['mean']:.{digits}f}"
    half = (row["high"] - row["low"]) / 2
    return f"{row['mean']:.{digits}f} ± {half:.{digits}f}"


def number(name: str, form: str, scale: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    """A column of `Study.table`: a field divided by ``scale``, formatted; a dash if missing.

    >>> number("kl", ".1f")({"kl": 2}), number("kl", ".1f")({})
    ('2.0', '–')
    """
    return lambda row: "–" if row.get(name) is None else format(row[name] / scale, form)


def measure_machine() -> dict[str, Any]:
    """Load, the time of a fixed matrix product, and the accelerator, to store with timings."""
    from szpo.models import devices  # loads torch, which a bench without a model does not need

    accelerator = devices.hardware(devices.choose().device)
    return {
        "load": load_average(), "matrix_seconds": matrix_seconds(), "accelerator": accelerator,
    }  # fmt: skip


def describe_machine() -> str:
    """Cores, load and the time of a fixed matrix product, to print with timings."""
    load = load_average()
    product = f"1024 × 1024 fp32 matrix product in {1000 * matrix_seconds():.0f} ms"
    return f"{os.cpu_count() or 1} cores, load {load:.1f}, {product}"


@dataclass(frozen=True)
class Study:
    """A run of one bench: its folder, its console, and the folder of the documents' figures."""

    name: str
    folder: Path
    quick: bool = False
    figures: Path | None = None
    console: Console = field(default_factory=make_console)

    def cells(self, label: str, specs: Sequence[Spec], work: Work) -> list[dict[str, Any]]:
        """Each cell's result with its spec, in order; stored results are read back."""
        found, tell = [], to_user.counting(f"{self.name}: {label}", len(specs))
        for i, one in enumerate(specs):
            tell(i, "")
            key = hash_spec({"bench": self.name, "version": VERSION, **one})
            path = self.folder / "cells" / f"{key}.json"
            make_once(path, self.folder, partial(_compute, path, one, work))
            found.append({**one, **read_record(path)["found"]})
        return found

    def tune(
        self,
        label: str,
        rows: Sequence[Spec],
        work: Work,
        grids: Sequence[Sequence[Spec]],
        *,
        trials: int = 10,
        repetitions: int = 40,
    ) -> list[dict[str, Any]]:
        """Choose each row's settings on tuning seeds and report the row with them on other seeds.

        ``grids`` has the settings to try for each row; the best mean counts, the first of equals.
        ``work`` gets the row with settings and ``seeds``, and returns ``values``, one per seed
        (larger is better). A returned row also has mean, low, high, n, ``chosen`` and ``edge``:
        "lowest" or "highest" if only one setting was searched and the chosen value is at an end of
        its grid, else "".
        """
        trial = [
            {**row, **one, "seeds": seed_range(trials, TUNING)}
            for row, grid in zip(rows, grids, strict=True)
            for one in grid
        ]
        found = self.cells(f"{label}, choosing settings", trial, work)
        scores = iter([float(np.mean(row["values"])) for row in found])
        picked = [
            grid[int(np.argmax(np.nan_to_num([next(scores) for _ in grid], nan=-np.inf)))]
            for grid in grids
        ]
        final = [
            {**row, **one, "seeds": seed_range(repetitions)}
            for row, one in zip(rows, picked, strict=True)
        ]
        return [
            {**row, **interval(row["values"]), "chosen": dict(one), "edge": _edge(grid, one)}
            for row, one, grid in zip(self.cells(label, final, work), picked, grids, strict=True)
        ]

    def states(self, pairs: Sequence[tuple[Prompt, str, str]], **how: Any) -> Floats:
        """Hidden states (pairs, width) of each first answer less the second; kept in the folder.

        They are of the default model, loaded as ``how`` says.
        """
        from szpo.models import loading, states

        file = self.folder / "states.npy"
        if not file.exists():
            model = loading.load("smollm2", **how)
            sides = [(prompt, Answer(text)) for prompt, *both in pairs for text in both]
            place = {side: i for i, side in enumerate(dict.fromkeys(sides))}
            layer = states.usual_layer(len(states.layers_of(model.model)))
            self.console.print(f"reading layer {layer} of smollm2 for {len(place)} answers")
            found = states.of_texts(model, [*place], layer)[[place[side] for side in sides]]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(file, found[::2] - found[1::2])
        return np.asarray(np.load(file, allow_pickle=False))

    def table(
        self,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, Any],
        part: str | None = None,
    ) -> None:
        """Print rows with columns as in `format_cells`; with ``part`` also write them as CSV."""
        view = Table(title=escape(title))
        for head in columns:
            view.add_column(escape(head), justify="right", overflow="fold")
        for row in rows:
            view.add_row(*map(escape, format_cells(row, columns)))
        self.console.print(view)
        if part is not None:
            self.csv(part, rows)

    def csv(self, part: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as ``part``.csv, without fields that are lists; returns the path."""
        plain = [
            {name: v for name, v in row.items() if not isinstance(v, (list, tuple))}
            for row in rows
        ]
        path = self.folder / f"{part}.csv"
        write_csv(path, plain)
        return path

    @contextmanager
    def figure(self, part: str, columns: int = 1, *, height: float = 3.2) -> Iterator[Any]:
        """Axes to draw on (one, or an array of ``columns``), then saved as SVG.

        It is saved in the bench's folder and copied to ``figures``. The same drawing gives the
        same bytes.
        """
        from matplotlib.ticker import AutoLocator  # slow to load, and the help needs none of it

        with drawing.figure(1.2 + 3.9 * columns, height) as drawn:
            yield drawn.subplots(1, columns)
            for axes in drawn.axes:
                if isinstance(axes.xaxis.get_major_locator(), AutoLocator):
                    axes.locator_params(axis="x", nbins=5)  # more labels would overlap
            self.folder.mkdir(parents=True, exist_ok=True)
            svg = self.folder / f"{part}.svg"
            svg.write_bytes(drawing.svg(drawn))
            if self.figures is not None:
                self.figures.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(svg, self.figures / svg.name)

    def end(self, part: str = "", body: Mapping[str, Any] | None = None) -> None:
        """Print the folder of the tables and figures, and the machine that made them.

        A ``body`` of plain JSON values is written to ``part``.json in that folder.
        """
        if body is not None:
            text = json.dumps(body, indent=1)
            (self.folder / f"{part}.json").write_text(text, encoding="utf-8")
        self.console.print(f"tables and figures: {escape(str(self.folder))}; {describe_machine()}")


def _compute(path: Path, spec: Spec, work: Work) -> None:
    write_record(path, spec, work(spec))


def bench(name: str) -> Callable[[Callable[[Study], Any]], Callable[..., Any]]:
    """Decorator: make a bench ``name`` with `OPTIONS` from a function of a study."""

    def decorate(work: Callable[[Study], Any]) -> Callable[..., Any]:
        def main(
            quick: bool = False,
            folder: Path = Path(f"runs/bench-{name}"),
            figures: Path | None = None,
        ) -> Any:
            return work(Study(name, folder, quick, figures))

        main.__doc__ = f"{work.__doc__}\n\n{OPTIONS}"
        return main

    return decorate


def draw_curve(
    axes: Any, x: Sequence[float], rows: Sequence[Mapping[str, Any]], label: str, **style: Any
) -> None:
    """Draw a line of means through rows (mean, low, high) with their intervals as a band."""
    means = [row["mean"] for row in rows]
    (line,) = axes.plot(x, means, label=label, **style)
    low, high = ([row[end] for row in rows] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def draw_points(
    axes: Any, x: Sequence[Any], rows: Sequence[Mapping[str, Any]], label: str = "", **style: Any
) -> None:
    """Draw means as separate points with their intervals as bars."""
    means = np.array([row["mean"] for row in rows])
    low, high = (np.array([row[end] for row in rows]) for end in ("low", "high"))
    settings = {"fmt": "o", "capsize": 2.5, "label": label or None, **style}
    axes.errorbar(x, means, yerr=np.stack([means - low, high - means]), **settings)


def draw_course(
    axes: Any, x: Sequence[float], row: Mapping[str, Any], label: str, **style: Any
) -> None:
    """Draw a row's ``curve`` along x with a mark at its end; only a point if x has one value."""
    if len(x) > 1:
        draw_curve(axes, x, row["curve"], label, markevery=[-1], **style)
    else:
        style.pop("linestyle")
        draw_points(axes, x, [row], label, fmt=style.pop("marker"), **style)


def _edge(grid: Sequence[Spec], chosen: Spec) -> str:
    tried = sorted(value for one in grid for value in one.values()) if len(chosen) == 1 else []
    ends = {tried[0]: "lowest", tried[-1]: "highest"} if len(tried) > 1 else {}
    return ends.get(next(iter(chosen.values())), "") if chosen else ""


def format_cells(row: Mapping[str, Any], columns: Mapping[str, Any]) -> list[str]:
    """A row's texts by column: each column is a field's name or a function of the row.

    >>> format_cells({"votes": 8, "gain": None}, {"N": "votes", "": "gain", "D": lambda row: 2})
    ['8', '', '2']
    """
    return [
        str(read(row)) if callable(read) else _text(row.get(read)) for read in columns.values()
    ]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
