"""The tracker of TensorBoard: event files in a folder of the run's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from szpo.notices.callbacks import RunFacts
from szpo.notices.scalars import read_scalars
from szpo.training.step_report import Outcome, StepReport


class TensorBoardTracker:
    """Writes scalars over steps; a resumed run adds a file to the same folder.

    Look at them with ``tensorboard --logdir FOLDER``.
    """

    def __init__(self, place: Path):
        self._place: Final = place
        self._writer: Any = None

    def begin(self, run: RunFacts) -> None:
        """Open an event file, and write the settings as a text."""
        self._writer = EventFileWriter(str(self._place / run.name))

    def after_step(self, step: StepReport) -> None:
        """Write the step's figures."""
        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value)
            for tag, value in read_scalars(step).items()
        ]
        event = event_pb2.Event(step=step.step, summary=summary_pb2.Summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def end(self, outcome: Outcome | None) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
