"""Callbacks of a run, and trackers: TensorBoard, Weights & Biases, MLflow.

The command line, the library and trackers use the same protocol. Callbacks are given no prompts or
answers, no name of a person and no address.

``run.tracker`` names a tracker. Other packages register a function ``tracker(place)``, which
returns a `Callback`, at the entry point `szpo.trackers`. szpo's own log only the numbers of
`read_scalars` after a step, and the settings of `SHOWN`.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from szpo import keyed_requests, plugins
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_tables
from szpo.types import Say
from szpo.voting.applied_step import Outcome, StepReport

Value: TypeAlias = str | int | float | bool | None
GivenCallback: TypeAlias = "Callback | Callable[[StepReport], Any]"

SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("seed", "votes"),
    "model": ("dtype", "quantization", "device"),
    "adapter": ("rank", "train"),
    "subspace": ("kind", "dim", "samples", "setup_seed"),
    "optimizer": (),
    "panel": ("kind", "size"),
    "generation": ("max_new_tokens", "temperature", "top_p"),
    "guards": (),
    "evaluation": (),
}
"""Settings that callbacks are given, by table; an empty tuple: the whole table. They are numbers
and names of methods, never prompts, guidelines, contacts, addresses or folders."""

GROUP: Final = "szpo.trackers"
PROJECT: Final = "szpo"
"""W&B's project and MLflow's experiment, unless their own environment variables name one."""
NAMES: Final[Mapping[str, str]] = {
    "votes": "votes/counted", "total_votes": "votes/total", "ties": "votes/ties",
    "skips": "votes/skips", "answers_read": "votes/answers_read",
    "kl": "answers/kl", "length": "answers/length",
    "repetition": "answers/repetition", "identical": "answers/identical",
    "norm": "weights/norm", "moved": "weights/moved", "mu": "optimizer/mu",
    "alpha": "optimizer/alpha",
}  # fmt: skip
"""Figures of a step, by attribute of `StepReport`, with their names in trackers."""
PRIVATE: Final[dict[str, Any]] = {
    "console": "off", "disable_git": True, "disable_code": True, "save_code": False,
    "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
    "silent": True, "host": "local", "username": "szpo",
}  # fmt: skip
"""Settings that keep W&B from recording the machine, the program and its output."""
MLFLOW_FILE: Final = "mlflow.db"
MLFLOW_ID: Final = "szpo.run"
MLFLOW_STATES: Final = {"finished": "FINISHED", "paused": "KILLED", "stopped": "KILLED"}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about a run that a callback is given when the run begins."""

    id: str
    """The run's own id, the same after every restart."""
    name: str
    """The name of its file without the ending."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """By dotted name, such as ``optimizer.D``; those of `SHOWN` only."""


@runtime_checkable
class Callback(Protocol):
    """An object that a run calls. An exception that it raises ends the run.

    A plain function of a `StepReport` is a callback too; it is called after each step.
    """

    def begin(self, run: RunFacts) -> None:
        """Called before the first step of a run, and again when it is resumed."""

    def after_step(self, step: StepReport) -> None:
        """Called once a step's update is recorded and applied."""

    def end(self, outcome: Outcome | None) -> None:
        """Called when the run ends or pauses; ``outcome`` is None where an error ended it."""


@dataclass(frozen=True, slots=True)
class EachStep:
    """A plain function as a `Callback`."""

    function: Callable[[StepReport], Any]

    def begin(self, run: RunFacts) -> None:
        """Nothing to do."""

    def after_step(self, step: StepReport) -> None:
        """Call the function."""
        self.function(step)

    def end(self, outcome: Outcome | None) -> None:
        """Nothing to do."""


def as_callback(given: GivenCallback) -> Callback:
    """A callback from a callback or a function of a `StepReport`."""
    if isinstance(given, Callback):
        return given
    if not callable(given):
        raise TypeError(
            f"callback: {type(given).__name__} has no begin, after_step and end, and cannot be "
            "called with the report of a step"
        )
    return EachStep(given)


def read_facts(ledger: Ledger) -> RunFacts:
    """Read the facts that callbacks are given about a run."""
    config = recorded_tables(ledger.spec)
    shown: dict[str, Value] = {}
    for table, names in SHOWN.items():
        values = config.get(table, {})
        for name in names or tuple(values):
            value = values.get(name)
            if value is None or isinstance(value, (str, int, float, bool)):
                shown[f"{table}.{name}"] = value
    if shown.get("panel.kind") == "people":
        shown["run.seed"] = None  # whoever knows it can work out sides
    if (model := config.get("model", {}).get("name")) is not None:
        shown["model.name"] = Path(model).name if Path(model).is_absolute() else model
    return RunFacts(ledger.run, ledger.path.stem, shown)


@contextlib.contextmanager
def calling(callbacks: Sequence[Callback], facts: RunFacts) -> Iterator[Callable[[Outcome], None]]:
    """Begin the callbacks, and end them after the block with the outcome given to the function."""
    begun: list[Callback] = []
    outcomes: list[Outcome] = []
    try:
        for each in callbacks:
            each.begin(facts)
            begun.append(each)
        yield outcomes.append
    finally:
        for each in reversed(begun):
            each.end(outcomes[-1] if outcomes else None)


def read_scalars(step: StepReport) -> dict[str, float]:
    """The finite numbers of a step, by name in trackers; everything else is left out."""
    found: dict[str, object] = {name: getattr(step, own) for own, name in NAMES.items()}
    found |= {f"answers/{name}": v for name, v in step.figures.items() if name not in NAMES}
    found |= {f"rule/{name}": v for name, v in step.extra.items() if name not in NAMES}
    found |= {f"seconds/{name.removesuffix('_s')}": v for name, v in step.seconds.items()}
    found["optimizer/capped"] = float(step.capped)
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and math.isfinite(value)  # no text, nothing nested
    }


@dataclass
class NeverFatal:
    """A tracker whose failures end no run: the first is reported, and no more calls follow."""

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
        except Exception as error:  # another library's, or the network's
            self.broken = True
            first = keyed_requests.hide_keys((str(error).splitlines() or [""])[0])
            self.say(
                f"warning: the tracker {self.name} stopped ({type(error).__name__}: {first}); "
                "the run goes on without it"
            )


def open_tracker(kind: str | None, folder: Path, say: Say) -> tuple[Callback, ...]:
    """Open the tracker ``kind``, which writes to ``tracking`` in the folder; None: no tracker."""
    if kind is None:
        return ()
    found = _find(kind)(folder / "tracking")
    if not isinstance(found, Callback):
        raise UsageError(
            f'tracker "{kind}" gave {type(found).__name__}; it must have begin, after_step and end'
        )
    return (NeverFatal(found, kind, say),)


def check_tracker(kind: str | None) -> None:
    """Check that a tracker exists, before a model is loaded."""
    if kind is not None:
        _find(kind)


def _find(kind: str) -> Callable[[Path], object]:
    own: Mapping[str, tuple[Callable[[Path], Callback], tuple[str, ...]]] = {
        "tensorboard": (TensorBoardTracker, ("tensorboard",)),
        "wandb": (WandbTracker, ("wandb",)),
        "mlflow": (MlflowTracker, ("mlflow", "sqlalchemy", "alembic")),
    }
    if kind not in own:
        make: Callable[[Path], object] = plugins.load(GROUP, kind, "tracker", builtin=tuple(own))
        return make
    tracker, modules = own[kind]
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(f"run.tracker {kind} needs {module}: {plugins.how_to_install(kind)}")
    return tracker


# ---- szpo's own trackers ----


class TensorBoardTracker:
    """Writes scalars over steps; a resumed run adds a file to the same folder.

    Look at them with ``tensorboard --logdir FOLDER``.
    """

    def __init__(self, place: Path):
        self._place: Final = place
        self._writer: Any = None

    def begin(self, run: RunFacts) -> None:
        """Open an event file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self._place / run.name))

    def after_step(self, step: StepReport) -> None:
        """Write the step's figures."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

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


class WandbTracker:
    """Logs figures over steps and the run's settings, under the run's own id.

    Offline runs are files; ``wandb sync FOLDER/wandb/offline-run-…`` sends them, and with
    ``WANDB_MODE=online`` they are sent at once. Console output, code, the machine's name and its
    programs are not recorded.
    """

    def __init__(self, place: Path):
        self._place: Final = place
        self._run: Any = None

    def begin(self, run: RunFacts) -> None:
        """Begin or resume the run of this id."""
        import wandb

        self._place.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode == "online":
            keyed_requests.avoid_proxies()  # before W&B starts a process
            url = os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url
            keyed_requests.require_private(
                url, "WANDB_BASE_URL: your key", "or set WANDB_MODE=offline"
            )
            keyed_requests.avoid_proxies(url)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow" if mode == "online" else None,
            dir=str(self._place),
            mode=mode,
            config=dict(run.settings),
            settings=wandb.Settings(**PRIVATE),
        )

    def after_step(self, step: StepReport) -> None:
        """Log the step's figures."""
        self._run.log(read_scalars(step), step=step.step)

    def end(self, outcome: Outcome | None) -> None:
        """Finish the run and log why it ended."""
        if self._run is None:
            return
        if outcome is not None:
            self._run.summary["outcome"] = outcome.status
        self._run.finish()


class MlflowTracker:
    """Logs figures over steps and the run's settings; a resumed run goes on as one.

    Look at them with ``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``.
    """

    def __init__(self, place: Path):
        self._place: Final = place
        self._client: Any = None
        self._id = ""

    def begin(self, run: RunFacts) -> None:
        """Begin or find the run of this id in the store."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._place.mkdir(parents=True, exist_ok=True)
        self._client = client = MlflowClient(f"sqlite:///{self._place / MLFLOW_FILE}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = (self._place / "mlflow-artifacts").absolute().as_uri()
            experiment = client.create_experiment(name, artifact_location=folder)
        else:
            experiment = found.experiment_id
        known = client.search_runs([experiment], f"tags.`{MLFLOW_ID}` = '{run.id}'")
        if known:
            self._id = known[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        tags = {MLFLOW_ID: run.id, "mlflow.user": ""}
        self._id = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in run.settings.items()]
        client.log_batch(self._id, params=params)

    def after_step(self, step: StepReport) -> None:
        """Log the step's figures."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        figures = [Metric(name, v, now, step.step) for name, v in read_scalars(step).items()]
        self._client.log_batch(self._id, metrics=figures)

    def end(self, outcome: Outcome | None) -> None:
        """Close the run and log why it ended."""
        if not self._id:
            return
        state = "FAILED" if outcome is None else MLFLOW_STATES[outcome.status]
        if outcome is not None:
            self._client.set_tag(self._id, "szpo.outcome", outcome.status)
        self._client.set_terminated(self._id, state)
