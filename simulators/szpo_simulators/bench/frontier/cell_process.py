"""Run one cell of a frontier in a process of its own, its spec on stdin."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from szpo.runs import machine_check
from szpo_simulators.bench.frontier import plan
from szpo_simulators.compare.cell_process import answer


def run_cell(
    spec: Mapping[str, Any], folder: Path, name: str, report: Callable[[float], None]
) -> dict[str, Any]:
    """Run a cell and return its record: rows, seconds, machine and commit, as plain JSON values.

    Raises:
        SzpoError: the cell cannot be run, or cannot be run yet.
    """
    from szpo_simulators.bench.frontier import rivals, vote_runs

    began = time.monotonic(), time.process_time()
    if spec["method"] in plan.RULES:
        found = vote_runs.run(spec, folder, name, report)
    elif spec["method"] == plan.BEST_OF:
        found = rivals.run_best_of(spec, folder, report)
    else:
        found = rivals.run_gradient(spec, folder, report)
    return {
        **found,
        "elapsed": time.monotonic() - began[0],
        "cpu_seconds": time.process_time() - began[1],
        "commit": _commit(),
        "machine": {
            "load": machine_check.load_average(),
            "matrix_seconds": machine_check.matrix_seconds(),
        },
    }


def _commit() -> str | None:
    """The commit of the checkout that this file lies in; None where there is none."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=10", "HEAD"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Run a cell of a frontier; see `szpo_simulators.compare.cell_process.answer`."""
    return answer(
        arguments, lambda spec, path, report: run_cell(spec, path.parents[1], path.stem, report)
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
