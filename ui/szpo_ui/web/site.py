"""What every handler of the web process works with: one run, its vote service, its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from szpo.config import settings_file
from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.errors import UsageError
from szpo.ledger.database import Clock, Ledger, now_us
from szpo.training.status import StatusReader
from szpo.voting.service import VoteService

TAB_S: Final = 90.0
"""A tab that was silent for this long no longer blocks others, seconds."""

T = TypeVar("T")


class Presence:
    """Which tabs have sent a request lately; in memory, since a restart may forget it."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic):
        self.now_s = now_s
        self._heard: dict[tuple[str, str], float] = {}

    def note(self, panelist: str, tab: str) -> None:
        """A tab has sent something."""
        now = self.now_s()
        if len(self._heard) > 10_000:
            self._heard = {k: at for k, at in [*self._heard.items()] if now - at < TAB_S}
        self._heard[panelist, tab] = now

    def forget(self, panelist: str, tab: str) -> None:
        """A tab was closed."""
        self._heard.pop((panelist, tab), None)

    def is_alive(self, panelist: str, tab: str) -> bool:
        """Whether the tab has sent something within `TAB_S` and was not closed."""
        return self.now_s() - self._heard.get((panelist, tab), -TAB_S) < TAB_S


class Latest:
    """One computed value, with the key that it was computed for."""

    def __init__(self) -> None:
        self._made: tuple[object, Any] | None = None

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value if it was made for an equal key, else a new one."""
        made = self._made
        if made is None or made[0] != key:
            made = self._made = (key, make())
        value: T = made[1]
        return value


@dataclass(frozen=True)
class Site:
    """One run as the web process serves it, with the state between requests.

    ``secure`` says that browsers reach the site over TLS: cookies carry Secure and ``__Host-``.
    """

    ledger: Ledger
    service: VoteService
    config: Config
    clock: Clock
    status: StatusReader
    secure: bool = False
    tabs: Presence = field(default_factory=Presence)
    """The tabs of panelists."""
    figures: Latest = field(default_factory=Latest)
    """The operator's figures, which take a good part of a second."""


def open_site(path: str | Path, *, secure: bool = False, clock: Clock = now_us) -> Site:
    """Open a run's file for the web; close it with ``site.ledger.close()``.

    Raises:
        StorageError: no such file, or not a ledger.
        UsageError: the run was not made by ``szpo run`` or ``szpo serve``.
    """
    ledger = Ledger.open(path, clock=clock)
    try:
        return of_ledger(ledger, secure=secure)
    except BaseException:
        ledger.close()
        raise


def of_ledger(ledger: Ledger, *, secure: bool = False) -> Site:
    """The site of an open ledger, on the ledger's clock.

    Raises:
        UsageError: the run has no settings on record.
    """
    recorded = ledger.spec.get("config")
    if recorded is None:
        raise UsageError(f"{ledger.path.name} was not made by szpo run; open it from Python")
    config = settings_file.check(recorded, where=ledger.path.name)
    service = VoteService(
        ledger,
        ledger.clock,
        seat_ttl_us=round(config.panel.lease_minutes * 60e6),
        spare=config.panel.spare,
        rubric_version=RUBRIC_VERSION,
        calibrates=config.panel.calibration,
    )
    return Site(ledger, service, config, ledger.clock, StatusReader(ledger), secure)
