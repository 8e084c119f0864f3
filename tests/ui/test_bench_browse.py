"""The benchmark of the browser of comparisons, small: its run, its table, its refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from szpo.errors import RunError
from szpo.ledger.database import Ledger
from szpo_ui.bench import browse, panel_load
from szpo_ui.operator import vote_filter, vote_pages
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
