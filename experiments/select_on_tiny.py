"""Votes to a given value on the tiny language model, with selection and with a price of votes.

Whole runs of szpo with the cells of `szpo compare` (one process each, kept and resumable):
python experiments/select_on_tiny.py [FOLDER]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from szpo_simulators.compare import plan, presets, summary
from szpo_simulators.compare.cells import Place
from szpo_simulators.rewards import heldout
from szpo_simulators.study import Study

SEEDS = tuple(range(1000, 1008))
TARGETS = (0.05, 0.10)
WAYS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "8 of 32, by words": ("selection.candidates=32", "selection.by=words"),
    "price .02": ("selection.vote_price=0.02",),
    "N = 4": ("optimizer.comparisons=4",),
}


def main(folder: Path) -> None:
    """Run what is not there yet; a line for each way."""
    gains: dict[str, list[float]] = {}
    for name, sets in WAYS.items():
        study = Study("select", folder / "".join(c if c.isalnum() else "-" for c in name))
        preset = replace(presets.find("tiny"), sets=sets, points=24)
        place = Place(study.folder)
        start = plan.ground(study, place, preset)
        arms = presets.chosen(preset, ("szpo",), ("batch",))
        wanted = plan.order(preset, arms, SEEDS, start)
        for line in plan.watch(study, place, wanted):
            print("failed:", line)
        found = [place.found(cell) for cell in wanted]
        courses = [record["course"] for record in found if record is not None]
        gains[name] = [rows[-1]["gain"] for rows in courses]
        mean, low, high = heldout.student(gains[name])
        print(f"{name}: gain {mean:+.3f} [{low:+.3f}, {high:+.3f}]", end="; ")
        print("votes", sorted({rows[-1]["votes"] for rows in courses}), end="; ")
        for target in TARGETS:
            reached = [summary.reaching(rows, target, "votes") for rows in courses]
            some = sum(value is not None for value in reached)
            print(
                f"to +{target:.2f}: {summary.middle(reached)} ({some} of {len(courses)})", end="; "
            )
        print()
        apart = [b - a for a, b in zip(gains["as it is"], gains[name], strict=True)]
        print("   against as it is, paired:", *(f"{x:+.3f}" for x in heldout.student(apart)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/select-on-tiny"))
