"""The rules of the queue, over a stand-in transport with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from szpo.cluster.schedule import Answered, Bounds, Dispatcher, Event, Lost, Ready, Refused
from szpo.errors import IntegrityError, LogitsError, ResourceError, RunError

FOREVER = 1e9


@dataclass
class Pretend:
    """Workers that answer ``chunk * 2`` after some seconds, or do not."""

    seconds: dict[str, float]
    fails: Callable[[str, int, int], str | None] = lambda worker, chunk, time: None
    """What the n-th asking of a chunk leads to: "die", "garbled", "hang", "lie", "refuse", or else
    an answer."""
    now: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    back_s: float = 3.0
    _due: list[tuple[float, int, Event[int]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for worker in self.seconds:
            self._at(0.0, Ready(worker))

    def _at(self, wait: float, event: Event[int]) -> None:
        heapq.heappush(self._due, (self.now + wait, next(self._count), event))

    def send(self, worker: str, chunk: str, request: int) -> None:
        self.asked.append((worker, request))
        how = self.fails(worker, request, sum(r == request for _, r in self.asked))
        wait = self.seconds[worker]
        if how in ("die", "garbled"):
            why = "" if how == "die" else "no answer could be read"
            self._at(wait / 2, Lost(worker, why))
            self._at(wait / 2 + self.back_s, Ready(worker))
        elif how == "refuse":
            self._at(wait, Refused(worker, chunk, "LogitsError", "not finite"))
        elif how != "hang":
            self._at(wait, Answered(worker, chunk, request * 2 + (how == "lie")))

    def replace(self, worker: str) -> None:
        self.replaced.append(worker)
        self._at(self.back_s, Ready(worker))

    def poll(self, seconds: float) -> list[Event[int]]:
        end = self.now + seconds
        if self._due and self._due[0][0] <= end:
            self.now = max(self.now, self._due[0][0])
        else:
            self.now = end
        found = []
        while self._due and self._due[0][0] <= self.now:
            found.append(heapq.heappop(self._due)[2])
        return found


def dispatcher(
    transport: Pretend, bounds: Bounds | None = None, exact: bool = True
) -> Dispatcher[int, int]:
    same = (lambda a, b: a == b) if exact else None
    return Dispatcher(transport, lambda: transport.now, bounds=bounds, same=same)


def equal_workers(count: int, seconds: float = 1.0) -> dict[str, float]:
    return {f"w{i:02d}": seconds for i in range(count)}


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_chunk_is_answered_once_in_order(workers: int) -> None:
    transport = Pretend(equal_workers(workers))
    work = dispatcher(transport)
    for _ in range(2):  # the second call begins with workers that are ready
        assert work.gather(range(12)) == [2 * i for i in range(12)]
    assert len(transport.asked) == 24
    assert work.gather([]) == []


def test_one_slow_worker_of_sixteen_costs_less_than_a_third_more() -> None:
    speeds = {**equal_workers(16), "w00": 10.0}
    transport = Pretend(speeds)
    work = dispatcher(transport, Bounds(poll_s=0.01))
    assert work.gather(range(64)) == [2 * i for i in range(64)]
    ideal = 64 / sum(1 / seconds for seconds in speeds.values())
    assert transport.now <= 1.3 * ideal
    assert work.asked_again == 1
    # Its late answer belongs to nobody's call, and is compared all the same.
    assert work.gather(range(8)) == [2 * i for i in range(8)]


@pytest.mark.parametrize("seed", range(20))
def test_workers_that_die_cost_no_chunk_and_no_second_count(seed: int) -> None:
    chance = random.Random(seed)

    def fails(worker: str, chunk: int, time: int) -> str | None:
        return "die" if time < 3 and chance.random() < 0.3 else None

    transport = Pretend(equal_workers(chance.choice([1, 2, 3, 7])), fails)
    assert dispatcher(transport).gather(range(20)) == [2 * i for i in range(20)]


@pytest.mark.parametrize(
    ("workers", "fault", "words"),
    [
        (4, "die", "3 workers were lost on one chunk of rows; give workers"),
        (1, "garbled", r"lost on one chunk of rows; no answer could be read$"),
    ],
)
def test_a_chunk_that_ends_every_worker_is_refused(workers: int, fault: str, words: str) -> None:
    transport = Pretend(
        equal_workers(workers), lambda worker, chunk, time: fault if chunk == 5 else None
    )
    with pytest.raises(RunError, match=words):
        dispatcher(transport).gather(range(8))


def test_a_silent_worker_is_replaced_and_its_chunk_asked_again() -> None:
    transport = Pretend(
        equal_workers(1), lambda worker, chunk, time: "hang" if (chunk, time) == (2, 1) else None
    )
    bounds = Bounds(silence_s=20, patience_s=60)
    assert dispatcher(transport, bounds).gather(range(4)) == [0, 2, 4, 6]
    assert transport.replaced == ["w00"]


@pytest.mark.parametrize(("workers", "patience"), [(0, 3600), (1, 300)])
def test_nobody_there_is_an_end_and_not_a_wait(workers: int, patience: int) -> None:
    transport = Pretend(equal_workers(workers), lambda worker, chunk, time: "hang")
    words = f"no worker has answered for {patience} s, 3 of 3 chunks"
    with pytest.raises(ResourceError, match=words):
        dispatcher(transport).gather(range(3))
    assert patience < transport.now < patience + 2


def test_a_model_that_takes_long_to_load_is_waited_for_again_after_a_death() -> None:
    transport = Pretend({}, lambda worker, chunk, time: "die" if (chunk, time) == (1, 1) else None)
    transport.seconds["w00"] = 1.0
    transport.back_s = 900.0
    transport._at(800.0, Ready("w00"))
    assert dispatcher(transport).gather(range(3)) == [0, 2, 4]
    assert transport.now > 1700


def test_two_answers_that_differ_are_an_error_where_they_must_be_equal() -> None:
    def fails(worker: str, chunk: int, time: int) -> str | None:
        return "lie" if worker == "w00" else None

    speeds = {"w00": 10.0, "w01": 1.0, "w02": 1.0}
    work = dispatcher(Pretend(speeds, fails))
    assert work.gather(range(9)) == [2 * i for i in range(9)]  # the liar's answer came too late
    with pytest.raises(IntegrityError, match=r"worker w00 answers chunk 1\.0 differently"):
        work.gather(range(40))
    loose = dispatcher(Pretend(speeds, fails), exact=False)
    for _ in range(3):
        loose.gather(range(20))


def test_an_error_of_the_request_is_raised_as_what_it_is() -> None:
    transport = Pretend(
        equal_workers(2), lambda worker, chunk, time: "refuse" if chunk == 3 else None
    )
    work = dispatcher(transport)
    with pytest.raises(LogitsError, match="not finite"):
        work.gather(range(6))
    transport.fails = lambda worker, chunk, time: None
    assert work.gather(range(6)) == [2 * i for i in range(6)]  # what was under way is let go


def test_the_end_waits_for_no_duplicate() -> None:
    transport = Pretend({"w00": FOREVER, "w01": 1.0})
    assert dispatcher(transport).gather(range(3)) == [0, 2, 4]
    assert transport.now < 10
