"""The tuning trials of a comparison: at most four settings per method, on seeds of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from szpo_simulators.compare.cells import Cell, Place
from szpo_simulators.compare.plan import cell, watch
from szpo_simulators.compare.presets import Asking, Method, Preset
from szpo_simulators.study import Study


def trials(
    preset: Preset, arms: Sequence[tuple[Method, Asking]], start: Mapping[str, Any]
) -> list[tuple[Method, int, Cell]]:
    """(method, trial, cell): each trial on each tuning seed, of methods that have several."""
    methods = list({m.name: m for m, _ in arms if len(preset.tried(m)) > 1}.values())
    return [
        (method, i, cell(preset, method, "batch", seed, start, settings))
        for method in methods
        for i, settings in enumerate(preset.tried(method))
        for seed in preset.tuning
    ]


def tune(
    study: Study,
    place: Place,
    preset: Preset,
    arms: Sequence[tuple[Method, Asking]],
    start: Mapping[str, Any],
    collect: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Run and tell the trials; the mean final gain decides, a run that stopped counts as none."""
    specs = trials(preset, arms, start)
    failures = [] if collect else watch(study, place, [one for _, _, one in specs])
    gains: dict[tuple[str, int], list[float]] = {}
    for method, i, one in specs:
        record = place.found(one)
        if record is not None:
            last = record["course"][-1]["gain"]
            gains.setdefault((method.name, i), []).append(0.0 if record["stopped"] else last)
    methods = {method.name: method for method, _, _ in specs}
    rows = []
    for (name, i), each in gains.items():
        scores = {j: np.mean(gains[name, j]) for n, j in gains if n == name}
        settings = preset.tried(methods[name])[i]
        rows.append(
            {"method": name, "trial": i, "settings": json.dumps(settings),
             "gains": each, "mean": float(np.mean(each)),
             "best": i == max(scores, key=lambda j: scores[j]),
             "chosen": settings == preset.settled(methods[name])}
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
