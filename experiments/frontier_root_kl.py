"""Gains at equal KL on the frontier, read on lines in the root of KL and not in KL itself.

Run: python experiments/frontier_root_kl.py [FOLDER] [--kl 2 3]. FOLDER is that of `szpo bench
frontier`, `experiments/frontier` by default. The plan interpolates a run's gain in KL between
checkpoints, from (0, 0) on. A small step's gain grows as the root of its KL. So where a run's
first checkpoint stands far off, straight lines in KL count too little before it.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

from szpo_simulators.bench.frontier import plan, summary
from szpo_simulators.bench.frontier.show import PAIRED
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.study import format_cells

EXPERIMENTS = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=EXPERIMENTS / "frontier")
    parser.add_argument("--kl", type=float, nargs="+", default=[2.0, 3.0], metavar="NATS")
    chosen = parser.parse_args()
    frozen = plan.read(EXPERIMENTS / "frozen" / "frontier.toml")
    rows = summary.read_rows(frozen, CellStore(chosen.folder))
    roots = {
        label: [{**row, "kl": math.sqrt(max(row["kl"], 0.0))} for row in found]
        for label, found in rows.items()
    }
    at_kl = [each for each in frozen.comparisons if each.kl is not None]
    for kl in chosen.kl:
        for name, found, where in (("KL", rows, kl), ("root", roots, math.sqrt(kl))):
            asked = replace(frozen, comparisons=tuple(replace(c, kl=where) for c in at_kl))
            for line in summary.judge_comparisons(asked, found):
                here = {**line, "where": f"at {kl:g} nats, lines in {name}"}
                print(*format_cells(here, PAIRED), sep="  ")


if __name__ == "__main__":
    main()
