"""`szpo bench frontier`: run the cells of a frozen plan, and show what is finished at any time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from szpo.errors import RunError, UsageError
from szpo_simulators.bench.frontier import base
from szpo_simulators.bench.frontier import plan as plans
from szpo_simulators.bench.frontier import show as shown
from szpo_simulators.compare import cell_store
from szpo_simulators.compare.cell_store import Cell, CellStore, Progress
from szpo_simulators.study import Study

FROZEN: Final = Path("experiments/frozen/frontier.toml")
"""The plan of the documents; a checkout has it, an installed package does not."""
QUICK: Final = Path(__file__).with_name("quick.toml")
CHILD: Final = (sys.executable, "-m", "szpo_simulators.bench.frontier.cell_process")


def main(
    only: Sequence[str] = (),
    seeds: str = "",
    jobs: int = 1,
    show: bool = False,
    quick: bool = False,
    plan: Path = FROZEN,
    folder: Path = Path("runs/frontier"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Gain against KL, votes and answers read: szpo's rules, gradient methods, best-of-n.

    Each cell is a process with a ledger of its own. The command may be killed at any time and
    started again, twice at once too: what is finished is never run again.

    Args:
        only: Letters of parts, or labels of groups, as the plan has them; all by default.
        seeds: Only these, such as 2000-2004,2007.
        jobs: Cells that run at the same time.
        show: Run nothing; print and draw what is finished.
        quick: The tiny model and few votes, some minutes; no evidence of anything.
        plan: The file that freezes settings and cells.
        folder: Where ledgers, records, tables and figures go.
        figures: Where the documents' figure goes as well.
    """
    if jobs < 1:
        raise UsageError(f"frontier: --jobs {jobs}; give 1 or more")
    frozen = plans.read(QUICK if quick else plan)
    study = Study("frontier", folder, quick, figures)
    store = CellStore(folder, CHILD)
    wanted = plans.cells(frozen, only, plans.read_seeds(seeds) if seeds else ())
    wanted = [one for one in wanted if one.spec["method"] not in plans.GONE_RULES]
    failures = [] if show else run_jobs(study, store, wanted, jobs)
    if not show and frozen.base_answers:
        for one in wanted:
            base.draw_many(one.spec, folder, frozen.base_answers)
    found = shown.show(study, frozen, store)
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    if failures:
        raise RunError(f"frontier: {len(failures)} cells failed; the reasons stand above")
    return found


def run_jobs(study: Study, store: CellStore, wanted: Sequence[Cell], jobs: int) -> list[str]:
    """Run cells in several threads, each waiting for processes; one line for each that failed.

    A cell's process ends by itself soon after this one was killed.
    """
    failures: list[str] = []
    began: set[str] = set()

    def report(step: Progress) -> None:
        if step.done == (step.cell.name in began) and not step.done:
            began.add(step.cell.name)
            study.console.print(f"{step.cell.name} began", markup=False)
        if step.done and step.cell.name in began:
            began.discard(step.cell.name)
            left = cell_store.guess_seconds(store, wanted)
            rest = cell_store.format_duration(sum(left.values()) / jobs)
            state = "failed" if step.failed else "done"
            study.console.print(
                f"{len(wanted) - len(left)}/{len(wanted)} {step.cell.name} {state}, about "
                f"{rest} left",
                markup=False,
            )

    def work() -> None:
        failures.extend(cell_store.run_cells(store, wanted, on_progress=report))

    left = cell_store.guess_seconds(store, wanted)
    study.console.print(
        f"{len(wanted)} cells, {len(wanted) - len(left)} finished; about "
        f"{cell_store.format_duration(sum(left.values()) / jobs)} in {jobs} processes"
    )
    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(set(failures))
