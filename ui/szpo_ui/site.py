"""The objects that every handler of the web process needs; one thread writes for all.

Requests that arrive together share a commit. A vote is acknowledged only after its COMMIT, so a
slow disk makes batches larger but weakens no guarantee. Votes come before all that waits, such as
sheets of a round that has just opened. A request that raises an error does not affect the others.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.config.sentences import ENGLISH
from szpo.config.tables import Panel
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.optim.parameters import NO_COORDINATES
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.runs.status import StatusReader
from szpo.types import Comparison
from szpo.voting.service import VoteService
from szpo_ui.credentials import Role

BATCH_S = 0.05
"""Seconds after which a commit takes no further request, so that the first need not wait long."""

T = TypeVar("T")
_Job = tuple[int, int, Callable[[], Any] | None, "asyncio.Future[Any] | None"]
"""Its rank, its number among all, what is to be done (None: end), and who waits for it."""
HOME_PATHS: Final[Mapping[Role, str]] = {"panelist": "/panel", "operator": "/operate"}
"""The path of each role's page, without a final slash."""
POSTERIOR: Final = "/operate-visualize"
"""The path of the operator's page on the votes' posterior over two features."""
SPARE: Final = 1
"""How many people more than needed may answer a comparison at a time, so that nobody waits for
someone who left; only the votes needed are counted."""
TAB_S: Final = 90.0
"""A tab that sent nothing for this many seconds no longer blocks other tabs."""
TEXTS: Final = 256
"""How many comparisons are cached."""


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
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(_answer, answered)


def _answer(answered: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for done, result in answered:
        if done.done():  # the client has gone
            continue
        if isinstance(result, BaseException):
            done.set_exception(result)
        else:
            done.set_result(result)


class Presence:
    """Which tabs have sent a request lately; kept in memory, since a restart may forget it."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self.now_s = now_s
        self._heard: dict[tuple[str, str], float] = {}

    def note(self, panelist: str, tab: str) -> None:
        """Note that a tab has sent a request."""
        now = self.now_s()
        if len(self._heard) > 10_000:
            self._heard = {k: at for k, at in [*self._heard.items()] if now - at < TAB_S}
        self._heard[panelist, tab] = now

    def forget(self, panelist: str, tab: str) -> None:
        """Note that a tab was closed."""
        self._heard.pop((panelist, tab), None)

    def is_alive(self, panelist: str, tab: str) -> bool:
        """Whether the tab has sent a request within `TAB_S` and was not closed."""
        return self.now_s() - self._heard.get((panelist, tab), -TAB_S) < TAB_S


@dataclass(frozen=True, kw_only=True)
class Site:
    """One run in the web process, with the state that is kept between requests."""

    ledger: Ledger
    secure: bool = False
    """Browsers connect by TLS, so cookies are marked Secure and ``__Host-``."""
    service: VoteService
    config: Config
    status: StatusReader
    writer: Writer
    comparison: Callable[[str], Comparison | None]
    """Finds a comparison by id; the last `TEXTS` are cached, since comparisons never change."""
    tabs: Presence = field(default_factory=Presence)
    figures: dict[object, dict[str, Any]] = field(default_factory=dict)
    """A cache of the operator's figures, which take a good part of a second to compute."""

    @property
    def moves(self) -> bool:
        """Votes change the model; else they are only explained."""
        return self.ledger.layout != NO_COORDINATES

    @property
    def rubric(self) -> Panel:
        """The settings, with a default question and default guidelines from the sentences."""
        return ENGLISH.rubric(self.config.panel, rows=self.config.asks_rows)


def open_site(path: str | Path, *, secure: bool = False) -> Site:
    """Open a run's file for the web; close it with ``site.ledger.close()``."""
    ledger = Ledger.open(path)
    try:
        return of_ledger(ledger, secure=secure)
    except BaseException:
        ledger.close()
        raise


def of_ledger(ledger: Ledger, *, secure: bool = False) -> Site:
    """The site of an open ledger, using the ledger's clock."""
    config = recorded_config(ledger)
    if config is None:
        raise UsageError(f"{ledger.path.name} was not made by szpo run; open it from Python")
    service = VoteService(
        ledger,
        ledger.clock,
        spare=SPARE,
        spare_after_us=round(60e6 * config.words_per_vote / WORDS_PER_MINUTE),
        rubric_version=RUBRIC_VERSION,
    )
    return Site(
        ledger=ledger,
        secure=secure,
        service=service,
        config=config,
        status=StatusReader(ledger, service.look),
        writer=Writer(service),
        comparison=lru_cache(maxsize=TEXTS)(ledger.comparison),
    )
