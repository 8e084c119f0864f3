"""The thread that writes: what one request breaks is its own affair."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from szpo.voting import casting
from szpo_ui.web.writer import Writer
from tests.support.browser import MovableClock, awaited, make

pytest_plugins = ["tests.support.browser"]
PAGES = ()


@pytest.fixture
def quiet(tmp_path):
    """A run without a server, its first round open."""
    made = make(tmp_path / "run.db", clock=MovableClock())
    made.advance()
    yield made
    made.ledger.close()


def at_once(writer: Writer, asked: list[Any]) -> list[Any]:
    """What comes of requests that arrive while the writer is busy, and so share a commit."""
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go.wait()

    async def ask() -> list[Any]:
        held = asyncio.create_task(writer.do(hold))
        await asyncio.to_thread(entered.wait)
        waiting = [asyncio.create_task(one()) for one in asked]
        await asyncio.sleep(0)
        go.set()
        await held
        return await asyncio.gather(*waiting, return_exceptions=True)

    writer.start()
    try:
        return list(awaited(ask()))
    finally:
        writer.close()


def test_an_act_that_breaks_fails_alone(quiet):
    people = [quiet.invitation("panelist", f"P-{i}").panelist or "" for i in range(3)]
    service, writer = quiet.site.service, Writer(quiet.site.service)

    def broken() -> None:
        service.enroll("simulated", "half-done")
        raise ZeroDivisionError("a fault of ours")

    acts = [lambda who=who: service.assign(who) for who in people]
    before = len(list(quiet.ledger.events("rows")))
    found = at_once(
        writer, [lambda act=act: writer.do(act) for act in (acts[0], broken, *acts[1:])]
    )
    assert [type(each).__name__ for each in found] == [
        "Assignment", "ZeroDivisionError", "Assignment", "Assignment",
    ]  # fmt: skip
    stored = quiet.ledger.query("SELECT assignment FROM assignments")
    assert {row["assignment"] for row in stored} == {
        each.id for each in found if hasattr(each, "id")
    }
    assert "half-done" not in {p["pseudonym"] for p in service.panelists()}
    assert len(list(quiet.ledger.events("rows"))) == before + 1, "they shared one commit"


def test_a_vote_that_breaks_fails_alone(quiet, monkeypatch):
    people = [quiet.invitation("panelist", f"P-{i}").panelist or "" for i in range(3)]
    seats = [quiet.site.service.assign(who) for who in people]
    writer, real = Writer(quiet.site.service), casting.store

    def store(ledger: Any, ballot: casting.VoteRequest, **more: Any) -> casting.Receipt:
        receipt = real(ledger, ballot, **more)
        if ballot.panelist == people[1]:
            raise ZeroDivisionError("a fault of ours")
        return receipt

    monkeypatch.setattr(casting, "store", store)
    ballots = [
        casting.VoteRequest(seat.id, "A", f"key-{seat.id}", panelist=who)
        for seat, who in zip(seats, people, strict=True)
        if seat is not None
    ]
    found = at_once(writer, [lambda one=one: writer.cast(one) for one in ballots])
    assert [type(each).__name__ for each in found] == ["Receipt", "ZeroDivisionError", "Receipt"]
    assert [vote["assignment"] for vote in quiet.ledger.votes()] == [
        each.assignment for each in found if isinstance(each, casting.Receipt)
    ]
