"""Callbacks of a run: called when it begins, after each step, and when it ends.

The command line, the library and trackers use the same protocol. Callbacks are given no prompts or
answers, no name of a person and no address.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_tables
from szpo.voting.step_report import Outcome, StepReport

Value: TypeAlias = str | int | float | bool | None

SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "run": ("seed", "votes", "steps", "lag"),
    "model": ("dtype", "quantization", "device"),
    "adapter": ("rank", "train"),
    "subspace": ("kind", "dim", "samples", "redraws", "setup_seed"),
    "optimizer": (),
    "panel": ("kind", "size"),
    "generation": ("max_new_tokens", "temperature", "top_p", "top_k", "common_random_numbers"),
    "guards": (),
    "evaluation": (),
}
"""Settings that callbacks are given, by table; an empty tuple: the whole table. They are numbers
and names of methods, never prompts, guidelines, contacts, addresses or folders."""


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


GivenCallback: TypeAlias = Callback | Callable[[StepReport], Any]


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
