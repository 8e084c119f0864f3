"""`szpo bench frontier`: the earlier name of `szpo compare --plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from szpo.errors import RunError
from szpo_simulators.compare import command
from szpo_simulators.compare import plan as plans
from szpo_simulators.study import Study

FROZEN: Final = Path("experiments/frozen/frontier.toml")
"""The plan behind the documents' figures; only a checkout has it, not an installed package."""


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
    found, failures = command.run_plan(study, path, only, seeds, jobs, show)
    if failures:
        raise RunError(f"frontier: {len(failures)} cells failed; the reasons stand above")
    return found
