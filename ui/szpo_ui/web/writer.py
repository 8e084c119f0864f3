"""One thread writes for pages and API: requests that arrive together share a commit.

A vote is acknowledged only after its COMMIT, so a slow disk makes batches larger but weakens no
guarantee. Votes come before all that waits, such as sheets of a round that has just opened. A
request that raises an error does not affect the others.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from szpo.voting.service import VoteService

BATCH_S = 0.05
"""Seconds after which a commit takes no further request, so that the first need not wait long."""

T = TypeVar("T")
_Job = tuple[int, int, Callable[[], Any] | None, "asyncio.Future[Any] | None"]
"""Its rank, its number among all, what is to be done (None: end), and who waits for it."""


class Writer:
    """Writes votes and other small changes for coroutines, between `start` and `close`."""

    def __init__(self, service: VoteService):
        self.service: Final = service
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers: Final = itertools.count()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread = threading.Thread(target=self._write, name="szpo-votes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the waiting writes, then end the thread."""
        if self._thread is not None:
            self._jobs.put((2, next(self._numbers), None, None))
            self._thread.join()
            self._thread = None

    async def do(self, act: Callable[[], T], *, first: bool = False) -> T:
        """Call ``act`` in the writing thread; returns once its changes are on disk.

        With ``first`` it is called before all that wait without.

        Raises:
            Exception: any error of ``act``, whose changes alone are undone, or of the commit.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((1 - first, next(self._numbers), act, done))
        return await done

    def _write(self) -> None:
        while (job := self._jobs.get())[2] is not None:
            self._settle(job)

    def _settle(self, job: _Job) -> None:
        waiting: list[asyncio.Future[Any]] = []

        def acts(job: _Job) -> Iterator[Callable[[], Any]]:
            end = time.monotonic() + BATCH_S
            while (act := job[2]) is not None and (done := job[3]) is not None:
                waiting.append(done)
                yield act
                if self._jobs.empty() or time.monotonic() > end:
                    return
                job = self._jobs.get()
            self._jobs.put(job)  # the end, which comes after this commit

        try:
            together: Iterable[Callable[[], Any]] = acts(job)
            if self._jobs.empty():
                together = [next(iter(together))]
            results = self.service.call_in_one_transaction(together)
        except Exception as error:  # the commit failed, so nothing of the batch is stored
            results = [error] * len(waiting)
        by_loop: dict[asyncio.AbstractEventLoop, list[Any]] = {}
        for done, result in zip(waiting, results, strict=True):
            by_loop.setdefault(done.get_loop(), []).append((done, result))
        for loop, answered in by_loop.items():
            loop.call_soon_threadsafe(_answer, answered)


def _answer(answered: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for done, result in answered:
        if done.done():  # the client has gone
            continue
        if isinstance(result, BaseException):
            done.set_exception(result)
        else:
            done.set_result(result)
