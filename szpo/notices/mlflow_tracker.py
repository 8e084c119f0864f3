"""The tracker of MLflow: a local SQLite store, no server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from szpo.notices.callbacks import RunFacts
from szpo.notices.scalars import read_scalars
from szpo.training.step_report import Outcome, StepReport

FILE: Final = "mlflow.db"
OWN_ID: Final = "szpo.run"
STATES: Final = {"finished": "FINISHED", "paused": "KILLED", "stopped": "KILLED"}


class MlflowTracker:
    """Logs figures over steps and the run's numeric settings; a resumed run goes on as one.

    Look at them with ``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``.
    """

    def __init__(self, place: Path, experiment: str):
        self._place, self._experiment = place, experiment
        self._client: Any = None
        self._id = ""

    def begin(self, run: RunFacts) -> None:
        """Begin or find the run of this id in the store."""
        self._place.mkdir(parents=True, exist_ok=True)
        self._client = client = MlflowClient(f"sqlite:///{self._place / FILE}")
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            folder = (self._place / "mlflow-artifacts").absolute().as_uri()
            experiment = client.create_experiment(self._experiment, artifact_location=folder)
        else:
            experiment = found.experiment_id
        known = client.search_runs([experiment], f"tags.`{OWN_ID}` = '{run.id}'")
        if known:
            self._id = known[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        tags = {OWN_ID: run.id, "mlflow.user": ""}
        self._id = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in run.settings.items()]
        client.log_batch(self._id, params=params)

    def after_step(self, step: StepReport) -> None:
        """Log the step's figures."""
        now = int(time.time() * 1000)
        figures = [Metric(name, v, now, step.step) for name, v in read_scalars(step).items()]
        self._client.log_batch(self._id, metrics=figures)

    def end(self, outcome: Outcome | None) -> None:
        """Close the run, with why it ended."""
        if not self._id:
            return
        state = "FAILED" if outcome is None else STATES[outcome.status]
        if outcome is not None:
            self._client.log_batch(self._id, tags=[RunTag("szpo.outcome", outcome.status)])
        self._client.set_terminated(self._id, state)
