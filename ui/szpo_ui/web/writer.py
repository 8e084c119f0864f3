"""One thread writes for the API: what arrives together shares a commit.

A vote is acknowledged only after the COMMIT that holds it, so a slow disk makes batches larger and
weakens no guarantee. A request that raises fails alone.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from szpo.errors import StorageError, SzpoError
from szpo.voting.casting import Receipt, VoteRequest
from szpo.voting.service import VoteService

BATCH = 256
"""Most votes and seats in one commit."""

T = TypeVar("T")
_Job = tuple[VoteRequest | Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Writer:
    """Takes votes and other small writes from coroutines; start it, and close it."""

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

    async def cast(self, request: VoteRequest) -> Receipt:
        """`VoteService.cast`, returning once the vote is on disk.

        Raises:
            SzpoError: what `VoteService.cast` raises.
        """
        receipt: Receipt = await self._submit(request)
        return receipt

    async def do(self, act: Callable[[], T]) -> T:
        """Call something that writes a little, in the transaction of its batch.

        Raises:
            Exception: what it raises; only its own part is undone then.
        """
        found: T = await self._submit(act)
        return found

    async def _submit(self, what: VoteRequest | Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._jobs.put((what, loop, done))
        return await done

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            ended = False
            while len(batch) < BATCH and not ended:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                else:
                    batch.append(more)
            # Votes first and by themselves: they never wait for anything but their own commit.
            self._settle([job for job in batch if isinstance(job[0], VoteRequest)], self._votes)
            self._settle([job for job in batch if not isinstance(job[0], VoteRequest)], self._acts)
            if ended:
                return

    def _votes(self, requests: list[Any]) -> list[Any]:
        try:
            return list(self.service.cast_many(requests))
        except SzpoError:  # the file cannot be written
            raise
        except (
            Exception
        ) as error:  # one of them breaks: each for itself, that the others are stored
            if len(requests) == 1:
                return [error]
            return [result for request in requests for result in self._votes([request])]

    def _acts(self, acts: list[Any]) -> list[Any]:
        results: list[Any] = []
        ledger = self.service.ledger
        with ledger.transaction("votes"):
            for act in acts:
                try:
                    with ledger.savepoint():
                        results.append(act())
                except StorageError:  # it may have ended the transaction: nothing goes on in it
                    raise
                except Exception as error:
                    results.append(error)
        return results

    def _settle(self, jobs: list[_Job], store: Callable[[list[Any]], list[Any]]) -> None:
        if not jobs:
            return
        try:
            results = store([what for what, _, _ in jobs])
        except Exception as error:  # the commit failed: nothing of the batch is stored
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
