"""Workers that take a stated time for a chunk, on a clock of their own: no process, no network.

The queue, second asking and the loss of workers are those of `szpo.cluster.schedule`.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from szpo.cluster.schedule import Answered, Bounds, Dispatcher, Event, Lost, Ready
from szpo_simulators.bench.scale.cost_model import (
    Fleet,
    StepShape,
    step_bytes,
    step_price,
    step_seconds,
)
from szpo_simulators.study import make_generator


@dataclass(frozen=True, slots=True)
class Flaws:
    """How workers differ and fail."""

    spread: float = 0.1
    """Standard deviation of the logarithm of a worker's speed."""
    slow_share: float = 0.01
    """Workers that are ten times slower."""
    deaths_per_hour: float = 0.1
    """Of one worker."""
    back_s: float = 300.0
    """Until a worker that died is back with its model loaded."""


@dataclass
class TimedWorkers:
    """A transport whose workers answer after their time, or die on the way."""

    seconds: np.ndarray[Any, np.dtype[np.float64]]
    """Of a chunk, per worker."""
    flaws: Flaws
    chance: np.random.Generator
    chunk_s: float
    """The controller sends and takes one chunk at a time, and needs this for each."""
    now: float = 0.0
    deaths: int = 0
    _due: list[tuple[float, int, Event[int]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for worker in range(len(self.seconds)):
            self._add(0.0, Ready(f"w{worker}"))

    def _add(self, wait: float, event: Event[int]) -> None:
        heapq.heappush(self._due, (self.now + wait, next(self._count), event))

    def send(self, worker: str, chunk: str, request: int) -> None:
        """See `szpo.cluster.schedule.Transport.send`."""
        self.now += self.chunk_s
        takes = float(self.seconds[int(worker[1:])])
        lives = float(self.chance.exponential(3600 / self.flaws.deaths_per_hour))
        if lives < takes:
            self.deaths += 1
            self._add(lives, Lost(worker))
            self._add(lives + self.flaws.back_s, Ready(worker))
        else:
            self._add(takes, Answered(worker, chunk, request))

    def poll(self, seconds: float) -> list[Event[int]]:
        """See `szpo.cluster.schedule.Transport.poll`."""
        end = self.now + seconds
        self.now = max(self.now, min(self._due[0][0], end)) if self._due else end
        found = []
        while self._due and self._due[0][0] <= self.now:
            found.append(heapq.heappop(self._due)[2])
        return found

    def replace(self, worker: str) -> None:
        """See `szpo.cluster.schedule.Transport.replace`."""
        self._add(self.flaws.back_s, Ready(worker))


def simulate(
    shape: StepShape, fleet: Fleet, flaws: Flaws, *, steps: int = 5, key: bytes = bytes(16)
) -> dict[str, float]:
    """Simulate steps on a fleet: seconds a step, beside those of equal workers that never fail.

    Returns ``seconds`` (mean of a step), ``ideal`` (its work spread over all workers by their
    speeds), ``modelled`` (`step_seconds`), ``asked_again`` and ``deaths`` (in all), ``bytes`` and
    ``price`` of a step, and ``queue_s``: real seconds that the queue itself took for a chunk here.
    """
    chance = make_generator(key)
    work = shape.chunk_rows * shape.new_tokens / fleet.tokens_per_second
    seconds = work * np.exp(flaws.spread * chance.normal(size=fleet.workers))
    seconds[: round(flaws.slow_share * fleet.workers)] *= 10
    transport = TimedWorkers(seconds, flaws, chance, fleet.chunk_s)
    queue: Dispatcher[int, int] = Dispatcher(
        transport, lambda: transport.now, bounds=Bounds(poll_s=0.01)
    )
    began = time.process_time()
    for _ in range(steps):
        found = queue.gather(range(shape.chunks))
        assert found == list(range(shape.chunks))
    spent = time.process_time() - began
    each = transport.now / steps + step_bytes(shape) / fleet.bytes_per_second
    return {
        "seconds": each,
        "ideal": shape.chunks / float((1 / seconds).sum()),
        "modelled": step_seconds(shape, fleet),
        "asked_again": float(queue.asked_again),
        "deaths": float(transport.deaths),
        "bytes": step_bytes(shape),
        "price": step_price(each, fleet),
        "queue_s": spent / steps / shape.chunks,
    }


def describe(found: Mapping[str, float]) -> str:
    """One line of a simulation.

    >>> describe({"seconds": 12.3, "ideal": 10.0})
    '12.3 s a step, 1.23 × the ideal'
    """
    return f"{found['seconds']:.1f} s a step, {found['seconds'] / found['ideal']:.2f} × the ideal"
