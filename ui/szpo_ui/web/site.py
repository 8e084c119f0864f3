"""The objects that every handler of the web process needs: one run and its vote service."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from szpo.config import sentences
from szpo.config.run_sections import Panel
from szpo.config.schema import RUBRIC_VERSION, Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.optim.parameters import NO_COORDINATES
from szpo.training.budget import WORDS_PER_MINUTE
from szpo.training.status import StatusReader
from szpo.types import Comparison
from szpo.voting.service import VoteService
from szpo_ui.web.credentials import Role
from szpo_ui.web.sentences import ENGLISH, Sentences, of_record
from szpo_ui.web.writer import Writer

HOME_PATHS: Final[Mapping[Role, str]] = {"panelist": "/panel", "operator": "/operate"}
"""The path of each role's page, without a final slash."""
POSTERIOR: Final = "/operate-visualize"
"""The path of the operator's page on the votes' posterior over two features."""
VOTES: Final = "/operate/votes"
"""The path of the operator's list of votes: plain HTML, without Gradio."""
SPARE: Final = 1
"""How many people more than needed may answer a comparison at a time, so that nobody waits for
someone who left; only the votes needed are counted."""
TAB_S: Final = 90.0
"""A tab that sent nothing for this many seconds no longer blocks other tabs."""

TEXTS: Final = 256
"""How many comparisons are cached."""


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
    sentences: Sentences = ENGLISH
    comparison: Callable[[str], Comparison | None]
    """Finds a comparison by id; the last `TEXTS` are cached, since comparisons never change."""
    tabs: Presence = field(default_factory=Presence)
    """The tabs of panelists."""
    figures: dict[object, dict[str, Any]] = field(default_factory=dict)
    """A cache of the operator's figures, which take a good part of a second to compute."""

    @property
    def moves(self) -> bool:
        """Votes change the model; else they are only explained."""
        return self.ledger.layout != NO_COORDINATES

    @property
    def rubric(self) -> Panel:
        """The settings, with a default question and default guidelines from the sentences."""
        config = self.config
        return sentences.rubric(config.panel, self.sentences.page, rows=config.asks_rows)


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
        calibrates=config.panel.calibration,
    )
    return Site(
        ledger=ledger,
        secure=secure,
        service=service,
        config=config,
        status=StatusReader(ledger, service.look),
        writer=Writer(service),
        sentences=of_record(ledger.spec.get("sentences")),
        comparison=lru_cache(maxsize=TEXTS)(ledger.comparison),
    )
