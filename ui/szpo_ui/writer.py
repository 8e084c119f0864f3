"""One thread writes all votes: those that arrive together share a commit.

An answer is acknowledged strictly after the COMMIT that holds it, so a slow disk makes batches
larger, not promises weaker.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any, Final

from szpo.votes import Ballot, Receipt, VoteService

BATCH = 64
"""Most votes in one commit."""

_Job = tuple[Ballot, asyncio.AbstractEventLoop, "asyncio.Future[Receipt]"]


class Writer:
    """Takes votes from coroutines and stores them in batches; start it, and close it."""

    def __init__(self, service: VoteService):
        self.service: Final = service
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write, name="szpo-votes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting, then end."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    async def cast(self, ballot: Ballot) -> Receipt:
        """`VoteService.cast`, returning once the vote is on disk.

        Raises:
            SzpoError: what `VoteService.cast` raises.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Receipt] = loop.create_future()
        self._jobs.put((ballot, loop, done))
        return await done

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            ended = False
            while len(batch) < BATCH:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                    break
                batch.append(more)
            self._store(batch)
            if ended:
                return

    def _store(self, batch: list[_Job]) -> None:
        try:
            results: list[Receipt | BaseException] = list(
                self.service.cast_many([ballot for ballot, _, _ in batch])
            )
        except Exception as error:  # the commit failed: nobody's vote is stored
            results = [error] * len(batch)
        by_loop: dict[asyncio.AbstractEventLoop, list[Any]] = {}
        for (_, loop, done), result in zip(batch, results, strict=True):
            by_loop.setdefault(loop, []).append((done, result))
        for loop, answered in by_loop.items():
            loop.call_soon_threadsafe(_settle, answered)


def _settle(answered: list[tuple[asyncio.Future[Receipt], Receipt | BaseException]]) -> None:
    for done, result in answered:
        if done.done():  # the client has gone
            continue
        if isinstance(result, BaseException):
            done.set_exception(result)
        else:
            done.set_result(result)
