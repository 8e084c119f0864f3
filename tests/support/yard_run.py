"""A complete run of the small yard world through the command line, without torch."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from szpo.cli.app import call
from szpo_simulators.worlds.windy_yard import Yard

SETS = (
    "model.name=tabular", "optimizer.mu=0.4", "panel.reward=walk", "optimizer.D=3",
    "evaluation.samples=1",
)  # fmt: skip
ONCE = TemporaryDirectory(prefix="szpo-tests-")
"""Folder of the run that each test process makes once and of which tests get copies."""


def prompts(folder: Path) -> Path:
    """A prompt file whose first prompt is held out."""
    folder.mkdir(exist_ok=True)
    path = folder / "yard.jsonl"
    lines = [
        json.dumps({"text": prompt.text, "split": "train" if i else "heldout"})
        for i, prompt in enumerate(Yard().prompts())
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def line(folder: Path, sets: Sequence[str]) -> list[str]:
    """``szpo run …`` with its file in ``folder``/runs."""
    return ["run", "--folder", str(folder / "runs"), *(w for s in sets for w in ("--set", s))]


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run's file, in ``folder``/runs."""
    shutil.copytree(run.parent, folder / "runs")
    return folder / "runs" / run.name


def arguments(folder: Path, *sets: str) -> list[str]:
    """``szpo run …`` for the yard, with its file in ``folder``/runs."""
    every = [*SETS, f"prompts.path={prompts(folder)}", "run.votes=24", *sets]
    return line(folder, every)


def make(folder: Path, *sets: str) -> Path:
    """Do a complete run; returns the ledger's file."""
    assert call(arguments(folder, "run.name=yard", *sets)) == 0
    return folder / "runs" / "yard.db"


@cache
def _finished() -> Path:
    return make(Path(ONCE.name, "yard"))


def finished(folder: Path) -> Path:
    """A copy of the finished run that each test process makes once, without its prompts."""
    return copied(_finished(), folder)
