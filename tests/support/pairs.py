"""A ledger with votes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from szpo.config.optimizer import make_settings
from szpo.ledger.database import Ledger
from szpo.types import Answer, Choice, Comparison, Prompt, Row
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from tests.support import quadratic

ROWS = (
    Row(Prompt.user("How was the sea?"), Answer("Warm."), Answer("Cold.", "length", 2)),
    Row(Prompt.user("And the bus?"), Answer("Late."), Answer("Late.")),
    Row(Prompt.user("And the soup?"), Answer("Good."), Answer("Salty.")),
)
ASKED = tuple(Comparison(f"c{n}", 0, 0, n, ROWS) for n in range(2))


@contextmanager
def new_ledger(path: Path) -> Iterator[Ledger]:
    """A ledger with one open step of two comparisons with two votes each."""
    settings = make_settings(7, (("z", (2,)),), K=1, N=2, D=3, M=2)
    with quadratic.new_ledger(path, settings) as made:
        made.execute("UPDATE controller SET epoch = 1")
        quadratic.open_step(made, settings, ASKED, mu=1.0, epoch=1)
        yield made


def vote(ledger: Ledger, who: str, comparison: str, wish: str, notes: Any = None) -> None:
    """Cast a vote of ``who``: ``wish`` is plus, minus or tie, and so is each row's note."""
    service = VoteService(ledger)
    panelist = service.enroll("simulated", who)
    seat = service.assign_to(comparison, panelist)
    assert seat is not None
    letter: dict[str, Choice] = {
        "plus": seat.plus_side, "minus": "B" if seat.plus_side == "A" else "A", "tie": "tie",
    }  # fmt: skip
    given = {str(i): letter[w] for i, w in (notes or {}).items()}
    details = {"notes": given, "rows": 2}
    service.cast(
        VoteRequest(seat.id, letter[wish], idem=f"{who}-{comparison}-0123456789", details=details)
    )
