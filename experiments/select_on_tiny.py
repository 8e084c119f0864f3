"""Votes to a given value on the tiny language model, with selection and with a price of votes.

Whole runs of szpo as cells of `szpo compare` (one process each, recorded and resumable):
python experiments/select_on_tiny.py [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from szpo_simulators.compare import presets, schedule, summary
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.rewards import heldout
from szpo_simulators.study import Study

SEEDS = tuple(range(1000, 1008))
TARGETS = (0.05, 0.10)
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "8 of 32, by words": ("selection.candidates=32", "selection.by=words"),
    "price .02": ("selection.vote_price=0.02",),
    "N = 4": ("optimizer.comparisons=4",),
}


def main(folder: Path) -> None:
    """Run what is not finished yet; print a line for each variant."""
    gains: dict[str, list[float]] = {}
    for name, sets in VARIANTS.items():
        study = Study("select", folder / "".join(c if c.isalnum() else "-" for c in name))
        preset = replace(presets.find_preset("tiny"), sets=sets, points=24)
        store = CellStore(study.folder)
        setup = schedule.prepare_shared_setup(study, store, preset)
        methods = presets.select_methods(preset, ("szpo",), ("batch",))
        wanted = schedule.order_cells(preset, methods, SEEDS, setup)
        for line in schedule.run_with_bar(study, store, wanted):
            print("failed:", line)
        found = [store.read(cell) for cell in wanted]
        runs = [record["course"] for record in found if record is not None]
        gains[name] = [rows[-1]["gain"] for rows in runs]
        mean, low, high = heldout.student(gains[name])
        print(f"{name}: gain {mean:+.3f} [{low:+.3f}, {high:+.3f}]", end="; ")
        print("votes", sorted({rows[-1]["votes"] for rows in runs}), end="; ")
        for target in TARGETS:
            reached = [summary.cost_to_reach(rows, target, "votes") for rows in runs]
            some = sum(value is not None for value in reached)
            print(
                f"to +{target:.2f}: {summary.median_reached(reached)} ({some} of {len(runs)})",
                end="; ",
            )
        print()
        apart = [b - a for a, b in zip(gains["as it is"], gains[name], strict=True)]
        print("   against as it is, paired:", *(f"{x:+.3f}" for x in heldout.student(apart)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/select-on-tiny"))
