"""One thread writes for pages and API: requests that arrive together share a commit.

A vote is acknowledged only after its COMMIT, so a slow disk makes batches larger but weakens no
guarantee. A request that raises an error does not affect the others.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from szpo.voting.service import VoteService

BATCH = 256
"""Most requests in one commit."""

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Writer:
    """Writes votes and other small changes for coroutines, between `start` and `close`."""

    def __init__(self, service: VoteService):
        self.service: Final = service
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread = threading.Thread(target=self._write, name="szpo-votes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the waiting writes, then end the thread."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    async def do(self, act: Callable[[], T]) -> T:
        """Call ``act`` in the writing thread; returns once its changes are on disk.

        Raises:
            Exception: any error of ``act``, whose changes alone are undone, or of the commit.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((act, loop, done))
        return await done

    def _write(self) -> None:
        job = self._jobs.get()
        while job is not None:
            batch = [job]
            while len(batch) < BATCH and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    break
                batch.append(job)
            self._settle(batch)
            job = job and self._jobs.get()

    def _settle(self, jobs: list[_Job]) -> None:
        try:
            results = self.service.call_in_one_transaction([act for act, _, _ in jobs])
        except Exception as error:  # the commit failed, so nothing of the batch is stored
            results = [error] * len(jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[Any]] = {}
        for (_, loop, done), result in zip(jobs, results, strict=True):
            by_loop.setdefault(loop, []).append((done, result))
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
