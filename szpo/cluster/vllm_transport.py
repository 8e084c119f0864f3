"""Sends messages to vLLM servers: one seat per server, one chunk of rows at a time on each.

A seat does one thing at a time: adapters are loaded and unloaded only while the server is
answering none of the run's rows (vllm-project/vllm #47724). HTTP runs on an event loop in its own
thread; replies are checked in the caller's thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from szpo.cluster.schedule import Answered, Event, Lost, Ready, Refused
from szpo.cluster.vllm_messages import Decoding, Row, RowAnswer
from szpo.cluster.vllm_replica import GoneError, Replica, Shown
from szpo.errors import IntegrityError

RETURN_S = 2.0
"""Pause before a server that was gone is checked again, s."""


@dataclass(frozen=True)
class ServedChunk:
    """Rows for one server to answer, and the files of the adapters that they name."""

    rows: tuple[Row, ...]
    adapters: Mapping[str, str]
    """Each adapter's folder as the server sees it, by adapter name."""
    decoding: Decoding


@dataclass(frozen=True)
class ChunkReply:
    """The answers to a chunk, and which server gave them."""

    worker: str
    answers: tuple[RowAnswer, ...]


@dataclass
class _Seat:
    """A server's place; the lock lets one task at a time talk to the server."""

    replica: Replica
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: Any = None
    """The future of the last request; cancelled if the server is silent."""


class VllmTransport:
    """A `szpo.cluster.schedule.Transport` over vLLM servers."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        canary: Callable[[], ServedChunk],
        check: Callable[[Shown, ChunkReply], str | None],
        remove: Callable[[Sequence[str]], None],
        *,
        return_s: float = RETURN_S,
    ):
        """A server gets rows once ``check`` finds nothing wrong with it.

        Args:
            replicas: The servers.
            canary: Makes a canary chunk whose adapters have new names.
            check: Returns what is wrong with a server, from what it reports and its answers to
                the canary chunk, before it gets rows; None if nothing.
            remove: Removes the files of adapters that no server needs any more.
            return_s: See `RETURN_S`.
        """
        self._seats = {f"r{i}": _Seat(replica) for i, replica in enumerate(replicas)}
        self._canary, self._check, self._remove = canary, check, remove
        self._return_s = return_s
        self._versions: dict[str, str] = {}
        self._news: queue.Queue[Event[ChunkReply] | tuple[Shown, ChunkReply] | Exception] = (
            queue.Queue()
        )
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_turn, args=(self._loop,), name="szpo-vllm", daemon=True)
        thread.start()
        clients = {replica.client for replica in replicas}
        self.close = weakref.finalize(self, _end, self._loop, thread, clients)
        for worker in self._seats:
            self._admit(worker, 0.0)

    def address(self, worker: str) -> str:
        """URL of a server."""
        return self._seats[worker].replica.url

    def send(self, worker: str, chunk: str, request: ServedChunk) -> None:
        """See `szpo.cluster.schedule.Transport.send`."""
        self._begin(worker, self._answer(worker, chunk, request))

    def poll(self, seconds: float) -> Sequence[Event[ChunkReply]]:
        """See `szpo.cluster.schedule.Transport.poll`."""
        try:
            news = [self._news.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._news.empty():
            news.append(self._news.get())
        return [self._read(item) for item in news]

    def replace(self, worker: str) -> None:
        """See `szpo.cluster.schedule.Transport.replace`."""
        task = self._seats[worker].task
        if task is not None:
            task.cancel()
        self._admit(worker, self._return_s)

    def retire(self, names: Sequence[str]) -> None:
        """Unload adapters from every server once its rows are done; then remove their files."""
        self._run(self._retire(names))

    def _read(
        self, item: Event[ChunkReply] | tuple[Shown, ChunkReply] | Exception
    ) -> Event[ChunkReply]:
        if isinstance(item, Exception):
            self._news.put(item)  # that server gets no more rows: the next poll raises it again
            raise item
        if isinstance(item, Lost):
            self._admit(item.worker, self._return_s)
        if not isinstance(item, tuple):
            return item
        shown, reply = item
        worker = reply.worker
        where = self.address(worker)
        self._versions.setdefault(worker, shown.version)
        for other, theirs in self._versions.items():
            if theirs != shown.version:
                raise IntegrityError(
                    f"{where} is vLLM {shown.version}, {self.address(other)} is {theirs}; "
                    "start all replicas from one version"
                )
        wrong = self._check(shown, reply)
        if wrong is not None:
            raise IntegrityError(f"{where} is not the run's: {wrong}")
        return Ready(worker)

    # ---- on the event loop ----

    def _run(self, work: Coroutine[Any, Any, None]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _begin(self, worker: str, work: Coroutine[Any, Any, None]) -> None:
        self._seats[worker].task = self._run(work)

    def _admit(self, worker: str, wait_s: float) -> None:
        self._begin(worker, self._show(worker, wait_s))

    async def _show(self, worker: str, wait_s: float) -> None:
        """Check a server, again and again until it answers."""
        seat = self._seats[worker]
        retry = seat.replica.retry
        while True:
            if wait_s:
                await retry.sleep(wait_s)
            adapters: list[str] = []
            try:
                chunk = self._canary()
                adapters += chunk.adapters
                async with seat.lock:
                    shown = await seat.replica.look()
                    for name in seat.replica.registered.intersection(shown.adapters):
                        await seat.replica.unregister(name)
                    seat.replica.registered.clear()
                    reply = await self._rows(worker, chunk)
                    for name in adapters:
                        await seat.replica.unregister(name)
                self._news.put((shown, reply))
                return
            except GoneError:
                wait_s = min(2 * max(wait_s, self._return_s), retry.longest_s)
            except Exception as error:
                self._news.put(error)
                return
            finally:
                self._remove(adapters)

    async def _answer(self, worker: str, name: str, chunk: ServedChunk) -> None:
        seat = self._seats[worker]
        try:
            async with seat.lock:
                reply = await self._rows(worker, chunk)
            self._news.put(Answered(worker, name, reply))
        except GoneError as error:
            logging.getLogger("szpo").warning(f"{error}; its rows go to the other servers")
            self._news.put(Lost(worker, f"the last one: {error}"))
        except Exception as error:
            self._news.put(Refused(worker, name, type(error).__name__, str(error)))

    async def _rows(self, worker: str, chunk: ServedChunk) -> ChunkReply:
        """Load missing adapters, then ask for all rows at once; one failure cancels all others."""
        replica = self._seats[worker].replica
        for name, path in chunk.adapters.items():
            if name not in replica.registered:
                await replica.register(name, path)
        try:
            async with asyncio.TaskGroup() as rows:
                tasks = [
                    rows.create_task(replica.complete(row, chunk.decoding)) for row in chunk.rows
                ]
        except ExceptionGroup as group:  # the first failure cancelled the other rows
            raise group.exceptions[0] from None
        return ChunkReply(worker, tuple(task.result() for task in tasks))

    async def _retire(self, names: Sequence[str]) -> None:
        async def unload(seat: _Seat) -> None:
            async with seat.lock:
                for name in sorted(seat.replica.registered.intersection(names)):
                    await seat.replica.unregister(name)

        seats = self._seats.values()
        # Failures are ignored here: a later request to the server meets them again.
        await asyncio.gather(*(unload(seat) for seat in seats), return_exceptions=True)
        self._remove(names)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, clients: set[httpx.AsyncClient]
) -> None:
    """Cancel all tasks, close connections, end the thread."""

    async def close() -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for client in clients:
            await client.aclose()

    if thread.is_alive() and thread is not threading.current_thread():
        asyncio.run_coroutine_threadsafe(close(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
