"""The part of `szpo bench active` about runs: votes to a value with selection and stopping."""

from __future__ import annotations

from typing import Any

import numpy as np

from szpo.optim.settings import Selection
from szpo_simulators.study import Spec, Study, format_interval, interval, seed_range
from szpo_simulators.worlds import choosing, repetitions
from szpo_simulators.worlds.gridworld import DENSE

STEPS, TARGET = 30, 3.5
ALPHA = 1.0
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as ever", {"rule": "known"}),
    ("16 of 64, by words", {"rule": "known", "candidates": 64, "by": "words"}),
    ("16 of 64, uniform", {"rule": "known", "candidates": 64, "by": "uniform"}),
)


def run(spec: Spec) -> dict[str, Any]:
    """Value and votes along runs on the dense grid, N = 16, M = D = 1, common random numbers."""
    selection = None
    if spec.get("candidates"):
        selection = Selection(spec["candidates"], spec["by"])
    chosen = repetitions.settings_for(
        DENSE, rule=spec["rule"], N=16, alpha=spec["alpha"], selection=selection
    )
    found = choosing.train(DENSE, chosen, spec["seeds"], spec["steps"])
    reached = found.curve >= spec["target"]
    first = np.where(reached.any(1), reached.argmax(1), spec["steps"] - 1)
    return {
        "values": found.curve[:, -1].tolist(),
        "votes": found.spent[:, -1].tolist(),
        "needed": np.take_along_axis(found.spent, first[:, None], 1)[:, 0].tolist(),
        "reached": float(reached.any(1).mean()),
        "path": found.curve.mean(0).tolist(),
        "spent": found.spent.mean(0).tolist(),
    }


def run_cases(study: Study) -> list[dict[str, Any]]:
    """Votes until the value is reached first, and the value at the end, by case."""
    specs = [
        {**case, "alpha": ALPHA, "steps": STEPS, "target": TARGET,
         "seeds": seed_range(20 if study.quick else 200)}
        for _, case in CASES
    ]  # fmt: skip
    found = study.cells("runs", specs, run)
    rows = []
    for (label, _), row in zip(CASES, found, strict=True):
        named = {f"{name}_{k}": v for name in ("needed", "votes") if (part := interval(row[name]))
                 for k, v in part.items()}  # fmt: skip
        rows.append(
            {**row, "label": f"{row['rule']}: {label}", **named, **interval(row["values"])}
        )
    study.table(
        f"grid, {STEPS} steps; votes until the value is {TARGET:g}", rows,
        {"run": "label", "value at the end": format_interval,
         "votes": lambda r: f"{r['votes_mean']:.0f}",
         f"votes to {TARGET:g}": lambda r: _format_interval(r, "needed"),
         "reached": lambda r: f"{r['reached']:.0%}"},
    )  # fmt: skip
    study.csv("runs", rows)
    return rows


def _format_interval(row: dict[str, Any], name: str) -> str:
    return format_interval({k: row[f"{name}_{k}"] for k in ("mean", "low", "high")}, 0)
