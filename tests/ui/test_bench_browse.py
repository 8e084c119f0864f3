"""The benchmark of the browser of comparisons, small: its run, its table, its refusal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo_ui.bench import browse, panel_load
from szpo_ui.operator import vote_filter, vote_pages, votes_page
from szpo_ui.operator.vote_index import VoteIndex
from szpo_ui.web import credentials


def test_its_run_has_something_for_every_kind_of_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "COMPARISONS", 100)
    monkeypatch.setattr(browse, "LENGTH", 12)
    session = browse.make_run(tmp_path / "run.db", 700)
    index = VoteIndex(tmp_path / "run.db")
    while index.advance(live=False):
        pass
    assert index.read == 400  # four rounds of a hundred
    of_filter = {
        chosen: vote_pages.read(index, vote_filter.parse([chosen])).votes
        for chosen in (("state", "counted"), ("state", "skipped"), ("note", "1"), ("fast", "1"))
    }
    assert min(of_filter.values()) > 0
    assert of_filter["state", "counted"] + of_filter["state", "skipped"] == 800
    index.close()
    with Ledger.open(tmp_path / "run.db") as ledger:
        identity = credentials.identify(ledger, session)
    assert identity is not None and identity.role == "operator"


def test_a_page_that_is_too_slow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def server(path: Path, page: str) -> Iterator[tuple[int, int]]:
        yield 0, 0

    async def ask(*_: Any) -> tuple[tuple[float, float], dict[str, list[float]]]:
        return (1.0, 2.0), {"newest": [0.01] * 20, "a word": [0.01] * 18 + [0.4, 0.4]}

    def make_run(path: Path, votes: int) -> str:
        path.touch()
        return ""

    monkeypatch.setattr(browse, "make_run", make_run)
    monkeypatch.setattr(panel_load, "server", server)
    monkeypatch.setattr(browse, "_ask", ask)
    with pytest.raises(RunError, match=r"not within 300 ms at p95: a word$"):
        browse.main()
    assert browse.main(strict=False)["slow"] == ["a word"]


@pytest.mark.slow
def test_every_kind_of_page_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "COMPARISONS", 50)
    found = browse.main(votes=200, times=2, strict=False)
    assert set(browse._PAGES) < set(found["pages"])
    assert all(
        0 < page["p50"] <= page["p95"] <= page["slowest"] for page in found["pages"].values()
    )


def test_a_page_waits_for_one_part_of_the_reading_however_many_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browse.make_run(tmp_path / "run.db", 1)
    parts: list[float] = []

    def never_whole(self: Any, index: VoteIndex, seconds: float, *, words: bool = False) -> bool:
        parts.append(seconds)
        return True

    monkeypatch.setattr(votes_page.Reader, "_catch_up", never_whole)
    start, last, go = threading.Event(), threading.Event(), threading.Event()
    with Ledger.open(tmp_path / "run.db") as ledger:
        site: Any = SimpleNamespace(ledger=ledger, clock=ledger.clock)
        reader = votes_page.Reader(site)
        reader.ask(lambda index: start.wait(10), words=False)
        for _ in range(18):
            reader.ask(lambda index: None, words=False)
        reader.ask(lambda index: (last.set(), go.wait(10)), words=False)
        start.set()  # all twenty stand in the queue, and nothing is read between them
        assert last.wait(10)
        before = len(parts)
        asked = reader.ask(lambda index: list(parts), words=False)
        go.set()
        assert asked.result(10)[before:] == [votes_page.GO_ON_S, votes_page.CATCH_UP_S]
        reader.close()
