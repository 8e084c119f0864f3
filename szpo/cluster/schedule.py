"""Decides which worker gets which chunk: a queue from which free workers are served.

A slow chunk is also given to a second worker; the chunk of a lost worker returns to the queue.
The network and the clock are passed in, so the rules are tested without a cluster.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from szpo.errors import (
    EngineError,
    IntegrityError,
    LogitsError,
    ResourceError,
    RunError,
    SzpoError,
    UsageError,
)

Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply")

KNOWN_ERRORS: dict[str, type[SzpoError]] = {
    kind.__name__: kind
    for kind in (RunError, LogitsError, UsageError, ResourceError, IntegrityError)
}
"""Errors caused by the request, which any other worker would raise as well."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has shown that it holds the run's model and coordinates; it can take chunks."""

    worker: str


@dataclass(frozen=True, slots=True)
class Answered(Generic[Reply]):
    """A worker's answer to a chunk."""

    worker: str
    chunk: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker raised an error; ``kind`` is the name of the error's class."""

    worker: str
    chunk: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone and will not answer its chunk; it may become ready again.

    ``why``: the reason, if known; it replaces the advice about memory in the run's error.
    """

    worker: str
    why: str = ""


Event: TypeAlias = Ready | Answered[Reply] | Refused | Lost


class Transport(Protocol[Request, Reply]):
    """Carries messages to workers that may die, be slow, or never answer."""

    def send(self, worker: str, chunk: str, request: Request) -> None:
        """Send a chunk to a worker, without waiting for the answer."""

    def poll(self, seconds: float) -> Sequence[Event[Reply]]:
        """Events since the last call; waits at most ``seconds`` for the first one."""

    def replace(self, worker: str) -> None:
        """End a silent worker; its replacement becomes ready later."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Time limits in seconds, and numbers of tries."""

    patience_s: float = 300.0
    """After this time without news from any worker the run stops; see `load_s`."""
    load_s: float = 3600.0
    """The limit until the first worker is ready; then max(patience_s, twice what that took)."""
    silence_s: float = 900.0
    """A worker that takes longer for one chunk is replaced."""
    slow: float = 2.0
    """A chunk that takes this multiple of the median time is sent to a second worker."""
    deaths: int = 3
    """The run stops once this many workers were lost while they worked on one chunk."""
    poll_s: float = 0.1


class Dispatcher(Generic[Request, Reply]):
    """Has chunks answered by the workers of a transport.

    The first answer to a chunk counts. If a chunk was sent to two workers and ``same`` is given,
    the second answer must be the same; it may arrive during a later call.
    """

    def __init__(
        self,
        transport: Transport[Request, Reply],
        clock: Callable[[], float],
        *,
        bounds: Bounds | None = None,
        same: Callable[[Reply, Reply], bool] | None = None,
    ):
        self._transport = transport
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._same = same
        self._ready: set[str] = set()
        self._busy: dict[str, tuple[str, float]] = {}
        """The chunk that each worker works on, and its start on the clock, s."""
        self._done: dict[str, Reply] = {}
        """Known answers to chunks that a second worker is still answering."""
        self._calls = 0
        self._began = clock()
        self._first_ready_s: float | None = None
        self.asked_again = 0
        """Chunks that were sent to a second worker because they were slow."""

    def gather(self, requests: Sequence[Request]) -> list[Reply]:
        """Have all chunks answered; replies in the order of the requests."""
        self._calls += 1
        ids = [f"{self._calls}.{i}" for i in range(len(requests))]
        call: _Call[Request, Reply] = _Call(dict(zip(ids, requests, strict=True)))
        heard = self._clock()
        while len(call.found) < len(ids):
            self._hand_out(call)
            events = self._transport.poll(self._bounds.poll_s)
            now = self._clock()
            for event in events:
                heard = now
                self._take(event, call, now)
            self._replace_silent(call, now)
            if now - heard > self._patience_s():
                raise EngineError(
                    f"no worker has answered for {self._patience_s():.0f} s, "
                    f"{len(ids) - len(call.found)} of {len(ids)} chunks are open; look at the "
                    "cluster, then resume the run"
                )
        working = {chunk for chunk, _ in self._busy.values()}
        known = {**self._done, **call.found}
        self._done = {chunk: known[chunk] for chunk in working if chunk in known}
        return [call.found[chunk] for chunk in ids]

    def wait_for_workers(self, count: int) -> None:
        """Wait until ``count`` workers are ready, so that a faulty worker is found early."""
        heard = self._clock()
        nothing: _Call[Request, Reply] = _Call({})
        while len(self._ready) < count:
            for event in self._transport.poll(self._bounds.poll_s):
                heard = self._clock()
                self._take(event, nothing, heard)
            if self._clock() - heard > self._patience_s():
                raise EngineError(
                    f"{len(self._ready)} of {count} workers are ready, and no other has answered "
                    f"for {self._patience_s():.0f} s; look at the cluster, or lower engine.workers"
                )

    def forget_ready(self) -> None:
        """Send no chunk to a worker until it has become ready again."""
        self._ready.clear()

    def _patience_s(self) -> float:
        """Seconds without news that are allowed: enough for a worker to load its model."""
        if self._first_ready_s is None:
            return self._bounds.load_s
        return max(self._bounds.patience_s, 2 * self._first_ready_s)

    def _hand_out(self, call: _Call[Request, Reply]) -> None:
        for worker in sorted(self._ready - set(self._busy)):
            again = not call.pending
            chunk = self._slowest(call) if again else call.pending.popleft()
            if chunk is None:
                return
            self.asked_again += again
            self._busy[worker] = (chunk, self._clock())
            self._transport.send(worker, chunk, call.requests[chunk])

    def _slowest(self, call: _Call[Request, Reply]) -> str | None:
        """The oldest unanswered chunk that only one worker has; None if no chunk is slow."""
        if not call.seconds:
            return None
        askers = Counter(chunk for chunk, _ in self._busy.values())
        limit = self._clock() - self._bounds.slow * statistics.median(call.seconds)
        late = [
            (since, chunk)
            for chunk, since in self._busy.values()
            if chunk in call.requests
            and chunk not in call.found
            and askers[chunk] == 1
            and since < limit
        ]
        return min(late)[1] if late else None

    def _take(self, event: Event[Reply], call: _Call[Request, Reply], now: float) -> None:
        if isinstance(event, Ready):
            self._ready.add(event.worker)
            if self._first_ready_s is None:
                self._first_ready_s = now - self._began
        elif isinstance(event, Lost):
            self._lose(event.worker, call, event.why)
        elif isinstance(event, Refused):
            self._busy.pop(event.worker, None)
            if event.chunk in call.requests and event.chunk not in call.found:
                kind = KNOWN_ERRORS.get(event.kind)
                text = event.text if kind else f"worker {event.worker}: {event.kind}: {event.text}"
                raise (kind or RunError)(text)
        else:
            _, since = self._busy.pop(event.worker, ("", now))
            before = {**self._done, **call.found}.get(event.chunk)
            if before is not None:
                self._compare(event, before)
            elif event.chunk in call.requests:
                call.found[event.chunk] = event.reply
                call.seconds.append(now - since)

    def _compare(self, event: Answered[Reply], before: Reply) -> None:
        if self._same is not None and not self._same(before, event.reply):
            raise IntegrityError(
                f"worker {event.worker} answers chunk {event.chunk} differently from another "
                "worker; fp32 workers must be equal machines with equal libraries and threads"
            )

    def _lose(self, worker: str, call: _Call[Request, Reply], why: str = "") -> None:
        self._ready.discard(worker)
        chunk, _ = self._busy.pop(worker, ("", 0.0))
        if chunk not in call.requests or chunk in call.found:
            return
        call.deaths[chunk] += 1
        if call.deaths[chunk] >= self._bounds.deaths:
            advice = why or "give workers more memory, or lower engine.chunk_rows"
            raise RunError(
                f"{call.deaths[chunk]} workers were lost on one chunk of rows; {advice}"
            )
        if all(chunk != other for other, _ in self._busy.values()):
            call.pending.appendleft(chunk)

    def _replace_silent(self, call: _Call[Request, Reply], now: float) -> None:
        for worker, (_, since) in list(self._busy.items()):
            if now - since > self._bounds.silence_s:
                self._transport.replace(worker)
                self._lose(worker, call)


class _Call(Generic[Request, Reply]):
    """The state of one `Dispatcher.gather`."""

    def __init__(self, requests: Mapping[str, Request]):
        self.requests = requests
        self.pending = deque(requests)
        self.found: dict[str, Reply] = {}
        self.seconds: list[float] = []
        self.deaths: Counter[str] = Counter()
