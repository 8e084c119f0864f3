"""The report of a finished step, and the outcome of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np

from szpo.optim.rules.measured_kl import KlMeasurement
from szpo.types import Comparison, Floats, Layout, Theta, Vote

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepReport:
    """The figures of a finished step; the algorithm reads back only ``reach``.

    ``seconds`` has generation (the policy's rollout), evaluation (asking and waiting) and other.
    ``kl`` is in nats per completion, ``norm`` is |θ|, ``length`` is in tokens (else words).
    """

    step: int
    delta: tuple[float, ...]
    stderr: tuple[float | None, ...]
    win_rate: float
    votes: int
    ties: int
    skips: int
    automatic_ties: int
    answers_read: int
    total_votes: int
    total_answers_read: int
    kl: float | None
    length: float
    repetition: float
    identical: float
    norm: float
    moved: float
    """|θ after − θ before|."""
    mu: float
    alpha: float | None
    """Step size of this step; None in a warm-up and under ``regression``."""
    flip_share: float | None
    """Smallest share of voters that would have reversed the step by always voting against it."""
    capped: bool
    warmup: bool
    closed_by: str
    theta_sha256: str
    votes_sha256: str
    figures: dict[str, float]
    seconds: dict[str, float]
    extra: dict[str, Any]
    reach: KlMeasurement | None = None
    """The KL measurement of the recommended point before it was recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why `run` returned, and the run's applied steps and counted votes."""

    status: Literal["finished", "paused", "stopped"]
    reason: str
    steps: int
    votes: int


class Stopwatch:
    """Measures the seconds of one step: generation, evaluation (asking and waiting), and other."""

    def __init__(self, timer: Callable[[], float]):
        self._timer: Final = timer
        self._started: Final = timer()
        self._spent = {"generation_s": 0.0, "evaluation_s": 0.0}

    def time(
        self, part: Literal["generation_s", "evaluation_s"], act: Callable[[], T]
    ) -> tuple[T, float]:
        """Call ``act`` and add its seconds to a part; returns its result and the seconds."""
        started = self._timer()
        found = act()
        seconds = self._timer() - started
        self._spent[part] += seconds
        return found, seconds

    def seconds(self) -> dict[str, float]:
        """Seconds so far, by part."""
        total = self._timer() - self._started
        return {**self._spent, "other_s": max(0.0, total - sum(self._spent.values()))}


def flatten(theta: Theta, layout: Layout) -> Floats:
    """θ as one float64 vector, in layout order."""
    return np.concatenate([np.asarray(theta[name], np.float64).ravel() for name, _ in layout])


def plain(value: Any) -> Any:
    """The value for JSON: arrays become lists, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def answers_read(standing: Iterable[Vote], comparisons: Iterable[Comparison]) -> int:
    """Count the answers read for a step's standing votes, skips included."""
    shown = {c.id: 2 * sum(not row.identical for row in c.rows) for c in comparisons}
    return sum(shown[vote.comparison] for vote in standing)
