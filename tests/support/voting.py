"""Panelists' clients that answer until they are killed, then retry unacknowledged answers."""

import math
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting.service import VoteService
from tests.support.quadratic import new_ledger, open_step, settings_of

CHOICES = ("A", "B", "tie")
DOORS = 3
"""Number of threads ("doors") that answer at the same time in one process."""
MOST_N = 4_096
"""Most comparisons of a direction."""
GROUP = 3
"""Answers that the first door sends in one commit."""


def ballot(path: Path, seats: int, *, sync: bool = True) -> list[str]:
    """Make a run whose first step is open; returns ``seats`` seats at it, or a few more."""
    panelists = math.ceil(seats / MOST_N)
    count = math.ceil(seats / panelists)
    settings = settings_of(N=count, D=1, M=panelists)
    with new_ledger(path, settings) as ledger:
        if not sync:
            ledger.execute("PRAGMA synchronous=OFF")
        rows = (Row(Prompt.user("which?"), Answer("left"), Answer("right")),)
        asked = [Comparison(f"comparison-{n:05}", 0, 0, n, rows) for n in range(count)]
        open_step(ledger, settings, asked, mu=optimizer.ask(optimizer.init(settings)).mu)
        service = VoteService(ledger)
        with ledger.transaction("votes"):
            who = [service.enroll("simulated", f"p{i}") for i in range(panelists)]
            made = [service.assign_to(c.id, each) for c in asked for each in who]
        return [seat.id for seat in made if seat is not None]


def request_of(seats: list[str], door: int, number: int) -> dict[str, Any]:
    """Answer ``number`` of a door; it determines seat, choice and key, so a retry is equal."""
    seat = seats[(number * DOORS + door) % len(seats)]
    choice = CHOICES[(number + door) % len(CHOICES)]
    return {"assignment": seat, "choice": choice, "idem": f"door-{door}:{number:012}"}


def cast_many(service: VoteService, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Send answers that share a commit; returns a receipt or an error for each."""
    return service.call_in_one_transaction([partial(service.cast, **each) for each in requests])


def post(service: VoteService, seats: list[str], door: int, number: int) -> Any:
    """Send one answer by itself."""
    return service.cast(**request_of(seats, door, number))


def answer(path: Path, seats: list[str], begin: list[int], acks: Any, rest_s: float = 0.0) -> None:
    """In a child: answer at every door from ``begin`` on, for ever; acknowledge stored answers.

    Each door rests ``rest_s`` after an answer, which keeps the file small.
    """
    with Ledger.open(path) as ledger:
        service, sending, rest = VoteService(ledger), threading.Lock(), threading.Event()

        def stand(door: int) -> None:
            number, at_once = begin[door], GROUP if door == 0 else 1
            while True:
                numbers = range(number, number + at_once)
                receipts: list[Any] = (
                    cast_many(service, [request_of(seats, door, n) for n in numbers])
                    if at_once > 1
                    else [post(service, seats, door, number)]
                )
                with sending:
                    for n, receipt in zip(numbers, receipts, strict=True):
                        acks.send((door, n, receipt.vote))
                number += at_once
                rest.wait(rest_s)

        threads = [threading.Thread(target=stand, args=(door,)) for door in range(DOORS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def stored(ledger: Ledger) -> dict[tuple[int, int], Any]:
    """(door, number) → row of every vote; a duplicate key is an error."""
    found: dict[tuple[int, int], Any] = {}
    for row in ledger.query("SELECT * FROM votes ORDER BY vote"):
        door, number = row["idem"].removeprefix("door-").split(":")
        assert (int(door), int(number)) not in found, f"{row['idem']} stands twice"
        found[int(door), int(number)] = row
    return found


def lost_and_doubled(ledger: Ledger, acknowledged: Mapping[str, str]) -> tuple[int, int]:
    """How many acknowledged votes (seat → key) the ledger lacks, and how many it holds twice."""
    rows = ledger.query("SELECT assignment, idem FROM votes")
    stored = {row["assignment"]: row["idem"] for row in rows}
    lost = sum(stored.get(seat) != key for seat, key in acknowledged.items())
    return lost, len(rows) - len(stored)


def read(acks: Any) -> list[tuple[int, int, int]]:
    """All acknowledgements in the pipe."""
    found = []
    while acks.poll():
        try:
            found.append(acks.recv())
        except EOFError:
            break
    return found
