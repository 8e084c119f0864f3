"""The tracker of Weights & Biases: offline by default, so that nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import wandb

from szpo.notices.callbacks import RunFacts
from szpo.notices.scalars import read_scalars
from szpo.training.step_report import Outcome, StepReport


class WandbTracker:
    """Logs figures over steps and the run's numeric settings, under the run's own id.

    Offline runs are files; ``wandb sync FOLDER/wandb/offline-run-…`` sends them. Console output,
    code, the machine's name and its programs are not recorded.
    """

    def __init__(self, place: Path, project: str, *, online: bool = False):
        self._place, self._project, self._online = place, project, online
        self._run: Any = None

    def begin(self, run: RunFacts) -> None:
        """Begin or resume the run of this id."""
        self._place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            name=run.name,
            id=run.id,
            resume="allow" if self._online else None,
            dir=str(self._place),
            mode="online" if self._online else "offline",
            config=dict(run.settings),
            settings=wandb.Settings(**PRIVATE),
        )

    def after_step(self, step: StepReport) -> None:
        """Log the step's figures."""
        self._run.log(read_scalars(step), step=step.step)

    def end(self, outcome: Outcome | None) -> None:
        """Finish the run, with why it ended."""
        if self._run is None:
            return
        if outcome is not None:
            self._run.summary["outcome"] = outcome.status
        self._run.finish()


PRIVATE: Final[dict[str, Any]] = {
    "console": "off", "disable_git": True, "disable_code": True, "save_code": False,
    "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
    "silent": True, "host": "local", "username": "szpo",
}  # fmt: skip
"""What W&B would record of the machine, the program and its output is left out."""
