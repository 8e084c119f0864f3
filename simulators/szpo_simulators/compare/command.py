"""``szpo compare``: run and show the cells of a plan, or compare runs by their ledgers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from szpo.errors import RunError, UsageError
from szpo.plugins import how_to_install
from szpo_simulators.compare import plan as plans
from szpo_simulators.compare import runs as ledgers
from szpo_simulators.compare import show, start
from szpo_simulators.store import Cell, Store, run_cells
from szpo_simulators.study import Study

command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""
FROZEN: Final = Path("experiments/frozen/frontier.toml")
"""The plan behind the documents' figures; only a checkout has it, not an installed package."""
NEEDED: Final = ("trl", "datasets")
"""Modules of gradient methods, which are installed with an extra."""


@command.command("compare")
def compare(
    runs: list[str] = typer.Argument(
        None, help="Runs to compare by their own files, names or paths."
    ),
    preset: str | None = typer.Option(
        None, "--preset", help="Compare methods instead: tiny, published, smollm2 or quick."
    ),
    plan: Path | None = typer.Option(None, "--plan", help="Compare methods by this plan's file."),
    only: list[str] = typer.Option(
        [], "--only", help="Only these parts or groups of the plan, separated by commas."
    ),
    seeds: str = typer.Option("", "--seeds", help="Only these seeds, such as 1000-1004,1007."),
    jobs: int = typer.Option(1, "--jobs", help="Cells that run at the same time."),
    shown: bool = typer.Option(False, "--show", help="Run nothing; show what is finished."),
    folder: Path | None = typer.Option(
        None,
        "--folder",
        help="Folder of cells, tables and figures; for runs: the folder of the runs.",
    ),
    figures: Path | None = typer.Option(None, "--figures", help="Also copy the figures here."),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON document instead of a table."
    ),
) -> int:
    """Compare runs by their files, or methods by what they cost.

    Methods learn on the same model, prompts and simulated panel, and are compared by votes,
    answers read, tokens, seconds and memory. Each cell runs in its own process; the command may be
    killed and started again at any time, also twice at once. The exit code is 1 if a cell failed.
    """
    if len([each for each in (runs, preset, plan) if each]) > 1:
        raise UsageError("compare: give a preset, a plan or runs, not several")
    if runs:
        return ledgers.compare_runs(runs, folder, figure=figures, as_json=as_json)
    if preset is None and plan is None:
        raise UsageError(
            "compare: give --preset tiny, published or smollm2, a --plan, or two runs or more"
        )
    path = plan or plans.find(preset or "")
    chosen = [part.strip() for text in only for part in text.split(",") if part.strip()]
    study = Study(f"compare-{path.stem}", folder or Path("runs/compare") / path.stem,
                  figures=figures)  # fmt: skip
    study.console.quiet = as_json
    found, failures = run_plan(study, path, chosen, seeds, jobs, shown)
    if as_json:
        print(json.dumps({**found, "failed": failures}, indent=1))
    return 1 if failures else 0


def frontier(
    only: Sequence[str] = (),
    seeds: str = "",
    jobs: int = 1,
    show: bool = False,
    quick: bool = False,
    plan: Path = FROZEN,
    folder: Path = Path("runs/frontier"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Gain against KL, votes and answers read: another name of szpo compare --plan.

    Args:
        only: Letters of parts or labels of groups in the plan; all by default.
        seeds: Only these seeds, for example 2000-2004,2007.
        jobs: Cells that run at the same time.
        show: Run nothing; print and draw what is finished.
        quick: The tiny model and few votes, some minutes; the result is no evidence.
        plan: The file that freezes settings and cells.
        folder: Folder of ledgers, records, tables and figures.
        figures: Folder to which the figure is copied for the documents.
    """
    path, study = plans.find("quick") if quick else plan, Study("frontier", folder, quick, figures)
    found, failures = run_plan(study, path, only, seeds, jobs, show)
    if failures:
        raise RunError(f"frontier: {len(failures)} cells failed; the reasons stand above")
    return found


def run_plan(
    study: Study, path: Path, only: Sequence[str], seeds: str, jobs: int, shown: bool
) -> tuple[dict[str, Any], list[str]]:
    """Run the unfinished cells of a plan unless they are only ``shown``.

    Returns:
        What `show.show_finished` returns, and one line for each cell that failed.
    """
    if jobs < 1:
        raise UsageError(f"compare: --jobs {jobs}; give 1 or more")
    frozen, store = plans.read(path), Store(study.folder)
    wanted = plans.cells(frozen, only, plans.read_seeds(seeds) if seeds else ())
    failures = []
    if not shown:
        require_modules(wanted)
        failures = run_cells(study.console, store, wanted, jobs)
        for one in wanted if frozen.base_answers else ():
            start.draw_many(one.spec, store.folder, frozen.base_answers)
    found = show.show_finished(study, frozen, store, {one.label for one in wanted})
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    return found, failures


def require_modules(wanted: Iterable[Cell]) -> None:
    """Check before the start that all modules of the methods are installed."""
    methods = sorted({one.spec["method"] for one in wanted if one.spec["kind"] == "gradient"})
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if methods and lacking:
        raise UsageError(
            f"compare: {', '.join(methods)} need {' and '.join(lacking)}: "
            f"{how_to_install('baselines')}, or leave them out with --only"
        )
