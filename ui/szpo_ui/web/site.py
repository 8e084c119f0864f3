"""What every handler of the web process works with: one run, its vote service, its clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from szpo.config import settings_file
from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.errors import UsageError
from szpo.ledger.database import Clock, Ledger, now_us
from szpo.voting.service import VoteService


@dataclass(frozen=True)
class Site:
    """One run as the web serves it.

    ``secure`` says that browsers reach the site over TLS: cookies carry Secure and ``__Host-``.
    """

    ledger: Ledger
    service: VoteService
    config: Config
    clock: Clock
    secure: bool = False


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
    return Site(ledger, service, config, ledger.clock, secure)
