"""Flawed panels in whole runs of a language model: panels × weightings × seeds, by the ledger.

Each cell is a run like those of ``szpo bench demo``, with its ledger and record in a folder.
Finished cells are read back, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

from szpo.errors import UsageError
from szpo_simulators.bench.language import demo
from szpo_simulators.study import Study, draw_points, format_interval, interval

MODELS: Final = ("tiny",)
PANELS: Final[Mapping[str, str]] = {
    "all alike": "bt70",
    "temperatures, spread .7": "bt70+spread=.7",
    "30 % hostile": "bt70+hostile=3",
}
WEIGHTINGS: Final = ("equal", "skill", "rationality")
"""Those that the rule `bayes` allows, the default in few coordinates."""
SIZE: Final = 10
VOTES: Final = 120


def run_cells(study: Study, model: str, used: Sequence[int]) -> list[dict[str, Any]]:
    """Run all cells: a row for each panel and weighting, with the held-out gain by seed.

    Raises:
        UsageError: no such model.
    """
    if model not in MODELS:
        raise UsageError(f"bench panels: no runs of {model!r}; there are {', '.join(MODELS)}")
    votes = 40 if study.quick else VOTES
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for seed, label, weighting in product(used, PANELS, WEIGHTINGS):
        study.console.print(f"{model}, seed {seed}, {label}, {weighting}")
        series = demo.SeedRuns(
            study.folder / f"{model}-{votes}",
            sets=[
                f"panel.kind={PANELS[label]}",
                f"panel.size={SIZE}",
                f"run.votes={votes}",
                "optimizer.rule=bayes",  # auto would have another rule under some weightings
                f"optimizer.weighting={weighting}",
            ],
            preset=model,
            tag=f"{list(PANELS).index(label)}-{weighting}",
        )
        record = demo.run_seed(seed, series, say=lambda text: None)
        gc.collect()  # a model lies in reference cycles: else one more would stay each time
        found.setdefault((label, weighting), []).append(record)
    return [
        {
            "label": label, "panel": PANELS[label], "weighting": weighting, "seeds": list(used),
            "gains": [record["gain"] for record in records],
            "votes": records[0]["votes"], "answers": records[0]["answers_read"],
            **interval([record["gain"] for record in records]),
        }
        for (label, weighting), records in found.items()
    ]  # fmt: skip


def show_runs(study: Study, model: str, used: Sequence[int]) -> dict[str, Any]:
    """Run all cells and show their table and figure; differences to equal weights are by seed."""
    if len(used) < 2:
        raise UsageError("bench panels: an interval needs two seeds; give more --points")
    rows = run_cells(study, model, used)
    for row in rows:
        (equal,) = (r for r in rows if (r["label"], r["weighting"]) == (row["label"], "equal"))
        over = [a - b for a, b in zip(row["gains"], equal["gains"], strict=True)]
        row["over_equal"] = interval(over)
    study.table(
        f"{model}: held-out gain after {rows[0]['votes']} votes of {SIZE}, {len(used)} seeds",
        rows,
        {"panel": "label", "weighting": "weighting", "gain": lambda row: format_interval(row, 3),
         "over equal": lambda row: format_interval(row["over_equal"], 3),
         "answers read": "answers"},
    )  # fmt: skip
    study.csv(model, rows)
    with study.figure(f"panels-{model}", height=3.4) as axes:
        for i, weighting in enumerate(WEIGHTINGS):
            some = [row for row in rows if row["weighting"] == weighting]
            at = [j + 0.22 * (i - 1) for j in range(len(some))]
            draw_points(axes, at, some, weighting)
            for x, row in zip(at, some, strict=True):
                axes.plot([x] * len(used), row["gains"], ls="", color="#999999", ms=3, marker=".")
        axes.axhline(0.0, color="#888888", lw=0.8)
        axes.set_xticks(range(len(PANELS)), list(PANELS), fontsize=8)
        axes.set(ylabel="held-out gain in sentiment")
        axes.legend(fontsize=8)
    study.end()
    return {model: rows}
