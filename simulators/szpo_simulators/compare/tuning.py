"""The tuning trials of a comparison: at most four settings per method, on seeds of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from szpo_simulators.compare.cell_store import Cell, CellStore
from szpo_simulators.compare.presets import Asking, Method, Preset
from szpo_simulators.compare.schedule import make_cell, run_with_bar
from szpo_simulators.study import Study


def list_trials(
    preset: Preset, methods: Sequence[tuple[Method, Asking]], setup: Mapping[str, Any]
) -> list[tuple[Method, int, Cell]]:
    """(method, trial, cell): each trial on each tuning seed, of methods that have several."""
    several = {m.name: m for m, _ in methods if len(preset.trials_of(m)) > 1}
    return [
        (method, i, make_cell(preset, method, "batch", seed, setup, settings))
        for method in several.values()
        for i, settings in enumerate(preset.trials_of(method))
        for seed in preset.tuning
    ]


def tune(
    study: Study,
    store: CellStore,
    preset: Preset,
    methods: Sequence[tuple[Method, Asking]],
    setup: Mapping[str, Any],
    collect: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Run the trials and print them; the best mean final gain wins, a stopped run counts as 0."""
    trials = list_trials(preset, methods, setup)
    failures = [] if collect else run_with_bar(study, store, [one for _, _, one in trials])
    gains: dict[tuple[str, int], list[float]] = {}
    for method, i, one in trials:
        record = store.read(one)
        if record is not None:
            last = record["course"][-1]["gain"]
            gains.setdefault((method.name, i), []).append(0.0 if record["stopped"] else last)
    by_name = {method.name: method for method, _, _ in trials}
    rows = []
    for (name, i), each in gains.items():
        scores = {j: np.mean(gains[name, j]) for n, j in gains if n == name}
        settings = preset.trials_of(by_name[name])[i]
        rows.append(
            {"method": name, "trial": i, "settings": json.dumps(settings),
             "gains": each, "mean": float(np.mean(each)),
             "best": i == max(scores, key=lambda j: scores[j]),
             "chosen": settings == preset.reported_settings(by_name[name])}
        )  # fmt: skip
    study.table(
        f"{preset.name}: trials on seeds {', '.join(map(str, preset.tuning))}, batch votes",
        rows,
        {"method": "method", "trial": "trial", "settings": "settings",
         "gains": lambda row: " ".join(f"{gain:+.3f}" for gain in row["gains"]),
         "mean": lambda row: f"{row['mean']:+.3f}",
         "": lambda row: " ".join(word for word in ("best", "chosen") if row[word])},
    )  # fmt: skip
    study.csv(f"trials-{preset.name}", rows)
    return {"preset": preset.name, "trials": rows}, failures
