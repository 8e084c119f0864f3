"""Trackers: callbacks that send a run's figures to TensorBoard, Weights & Biases or MLflow.

``tracking.kind`` names one; others register at the entry point `szpo.trackers` a function
``tracker(settings, place)`` that returns a `Callback`. `szpo.notices.scalars` lists
all that trackers send of a step: numbers only. Of the settings they send those of
`szpo.notices.callbacks.SHOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from szpo import plugins
from szpo.config.run_sections import Tracking
from szpo.errors import UsageError
from szpo.notices.callbacks import Callback, RunFacts
from szpo.training.step_report import Outcome, StepReport

GROUP: Final = "szpo.trackers"
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "tensorboard": ("tensorboard",), "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}  # fmt: skip
"""The trackers that szpo has itself, with the modules that each needs."""
Say = Callable[[str], None]


@dataclass
class NeverFatal:
    """A tracker whose failures end no run: the first is reported, and it is called no more."""

    tracker: Callback
    name: str
    say: Say
    broken: bool = field(default=False, init=False)

    def begin(self, run: RunFacts) -> None:
        """Begin the tracker."""
        self._attempt(lambda: self.tracker.begin(run))

    def after_step(self, step: StepReport) -> None:
        """Send a step."""
        self._attempt(lambda: self.tracker.after_step(step))

    def end(self, outcome: Outcome | None) -> None:
        """End the tracker."""
        self._attempt(lambda: self.tracker.end(outcome))

    def _attempt(self, act: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            act()
        except Exception as error:  # of another library, or of its network
            self.broken = True
            first = (str(error).splitlines() or [""])[0]
            self.say(
                f"warning: the tracker {self.name} stopped ({type(error).__name__}: {first}); "
                "the run goes on without it"
            )


def open_tracker(settings: Tracking, folder: Path, say: Say) -> tuple[Callback, ...]:
    """The tracker that the settings name, writing to ``folder``; none where they name none.

    Raises:
        UsageError: nothing has this name, or its library is not installed.
    """
    kind = settings.kind
    if kind is None:
        return ()
    place = folder / "tracking" if settings.folder is None else Path(settings.folder)
    check(settings)
    return (NeverFatal(_make(kind, settings, place), kind, say),)


def check(settings: Tracking) -> None:
    """Refuse a tracker that is not there, before a model is loaded.

    Raises:
        UsageError: nothing has this name, or its library is not installed.
    """
    kind = settings.kind
    if kind is None:
        return
    if kind in NEEDS:
        for module in NEEDS[kind]:
            if find_spec(module) is None:
                raise UsageError(
                    f"tracking.kind {kind} needs {module}: {plugins.how_to_install(kind)}"
                )
    else:
        plugins.load(GROUP, kind, "tracker", builtin=tuple(NEEDS))


def _make(kind: str, settings: Tracking, place: Path) -> Callback:
    if kind == "tensorboard":
        from szpo.notices.tensorboard_tracker import TensorBoardTracker

        return TensorBoardTracker(place)
    if kind == "wandb":
        from szpo.notices.wandb_tracker import WandbTracker

        return WandbTracker(place, settings.project, online=settings.online)
    if kind == "mlflow":
        from szpo.notices.mlflow_tracker import MlflowTracker

        return MlflowTracker(place, settings.project)
    found: Callback = plugins.load(GROUP, kind, "tracker", builtin=tuple(NEEDS))(settings, place)
    if not isinstance(found, Callback):
        raise UsageError(
            f'tracker "{kind}" gave {type(found).__name__}; it must have begin, after_step and end'
        )
    return found
