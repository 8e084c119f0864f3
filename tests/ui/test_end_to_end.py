"""Three panelists and an operator in browsers take a real model from its set-up to the report.

``szpo serve`` as people start it: a web process, a controller process, one ledger. What the record
says must be what the operator saw, and the ledger must verify.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import playwright.sync_api as playwright
import pytest

from szpo.analysis import improvement, overview, vote_rows
from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import samples
from tests.support.panel_states import sends_vote
from tests.support.served import Served, words
from tests.support.waiting import until

pytest_plugins = ["tests.support.browser"]
PEOPLE = 3
SHAPE = (
    "optimizer.K=1", "optimizer.N=2", "optimizer.D=2", "optimizer.M=2",
)  # fmt: skip
TINY = (
    "model.name=tiny", "model.dtype=fp32", "subspace.samples=64",
    "generation.max_new_tokens=8", "evaluation.samples=1",
)  # fmt: skip
BLIND = 7
"""Blind pairs that each panelist judges at the end; a statement on improvement takes 20 in all."""


def come(browser: Any, link: str) -> Any:
    """A browser of its own that opens an invitation."""
    page = browser.new_context(base_url=link.partition("/login")[0]).new_page()
    page.set_default_timeout(120_000)
    page.goto(link)
    return page


def invited(browser: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """The panelists, each in a browser of their own, by the command that people use."""
    capsys.readouterr()
    assert call(["invite", str(run), "--count", str(PEOPLE), "--json"]) == 0
    pages = [come(browser, each["link"]) for each in json.loads(capsys.readouterr().out)]
    for page in pages:
        page.click("[data-do=agree]")
    return pages


def vote_if_ready(page: Any, key: str) -> bool:
    """Judge the row that has the focus, or go on after the last one; True for a verdict.

    A round may close under whoever has a seat that is not needed, in the moment of the key.
    """
    if page.get_attribute("#szpo-root", "data-state") != "sheet":
        return False
    if not page.locator(".sz-row[data-verdict='']").count():
        page.keyboard.press("Enter")
        return False
    try:
        with page.expect_response(sends_vote, timeout=5_000):
            page.keyboard.press(key)
    except playwright.TimeoutError:
        return False
    return True


def vote_until(condition: Callable[[], bool], pages: Sequence[Any], seconds: float = 300) -> int:
    """Let the panelists vote until something holds; returns how many votes they cast."""
    ends, cast = time.monotonic() + seconds, 0
    while not condition():
        states = [page.get_attribute("#szpo-root", "data-state") for page in pages]
        assert time.monotonic() < ends, f"the run stands still: {states}"
        for number, page in enumerate(pages):
            # A, tie, B: three tastes, so that rounds are not unanimous.
            key = ("ArrowLeft", "ArrowDown", "ArrowRight")[(number + cast) % 3]
            cast += vote_if_ready(page, key)
            assert page.get_attribute("#szpo-root", "data-state") not in ("error", "offline")
        pages[0].wait_for_timeout(100)
    return cast


def applied(run: Path) -> int:
    """Rounds that are applied."""
    with Ledger.open(run, readonly=True) as ledger:
        last = ledger.last_applied()
    return 0 if last is None else last + 1


def counted_votes(run: Path) -> int:
    """Votes that its rounds count: two a comparison, none where the answers are the same."""
    with Ledger.open(run, readonly=True) as ledger:
        asked = [c for step in range(applied(run)) for c in ledger.comparisons(step)]
    return 2 * sum(not comparison.identical for comparison in asked)


def check_figures(operator: Any, run: Path, rounds: int) -> None:
    """The operator's page of a finished run shows what its record gives."""
    operator.wait_for_selector("#op-root[data-state=finished]")
    shown, counted = operator.inner_text("#op-root"), counted_votes(run)
    # Votes from spare seats are stored, not counted.
    assert f"{rounds} of {rounds} rounds applied · {counted} votes counted" in shown
    with Ledger.open(run, readonly=True) as ledger:
        again = overview.overview(vote_rows.read_evidence(ledger))
    assert (again["progress"]["applied"], again["progress"]["votes"]) == (rounds, counted)
    for person in again["panelists"]:
        row = operator.locator("#op-root tr", has_text=person["name"]).first
        assert str(person["votes"]) in row.inner_text()


def finish(pages: Sequence[Any]) -> int:
    """Every panelist reads that the run is over; returns the votes of those who still read."""

    def over() -> bool:
        states = {page.get_attribute("#szpo-root", "data-state") for page in pages}
        return states == {"finished"}

    return vote_until(over, pages)


def final_seat(page: Any) -> str:
    """A seat of the final comparison for whoever is logged in there, once its answers are written.

    By the API, which asks for no reading time; `test_serve.py` does the same without a browser.
    """
    asked = {"tab": "t", "of": "final"}
    post = page.request.post
    reply = until(lambda: (r := post("/api/assignment", data=asked)).status == 200 and r)
    return str(reply.json()["assignment"])


def test_a_run_of_people_from_its_settings_file_to_the_report(chromium, tmp_path, capsys, request):
    """It is set up, looked at, started, voted on, paused and resumed on the operator's page; the
    report's first sentence says whether it helped."""
    rounds, folder = 3, tmp_path / "runs"
    people = (*SHAPE, *TINY, "optimizer.D=1", "panel.sheet=1",
              "subspace.kind=features", "subspace.samples=128",
              "evaluation.prompts=2", f"run.votes={4 * rounds}", "run.name=mine")  # fmt: skip
    settings = str(tmp_path / "people.toml")
    assert call(["init", settings, "--preset", "people", *words(people)]) == 0
    served = Served(settings, "--folder", str(folder), "--accept-samples")
    request.addfinalizer(served.close)
    mine = folder / "mine.db"
    operator = come(chromium, served.link)

    def until_it_is(state: str) -> None:
        """Wait until the page says so; nobody presses or loads anything."""
        operator.wait_for_selector(f"#op-root .op-pill-{state}")

    # Looked at and started.
    until_it_is("paused")
    assert "The run is held" in operator.inner_text(".op-before")
    last = operator.locator(".op-before .op-sample").nth(samples.SAMPLES - 1)
    last.wait_for(state="attached")
    operator.click("[data-open=op-start]")
    operator.click("#op-start button[type=submit]")
    until_it_is("open")

    # Voted on, paused after the first vote, resumed.
    pages = invited(chromium, mine, capsys)
    assert {page.url for page in pages} == {f"{served.url}/panel/"}
    cast = 0

    def voted() -> bool:
        with Ledger.open(mine, readonly=True) as ledger:
            return bool(ledger.votes())

    cast += vote_until(voted, pages)
    operator.bring_to_front()  # a browser hardly draws a page behind another
    operator.click("[data-open=op-pause]")
    operator.click("#op-pause button[type=submit]")
    until_it_is("paused")
    assert "Paused by operator" in operator.inner_text(".op-banner")
    operator.click("[data-do=resume]")
    operator.wait_for_selector("[data-open=op-pause]")
    cast += vote_until(lambda: applied(mine) == rounds, pages)
    cast += finish(pages)

    # The blind final comparison, which nobody had to order, and the sentence that it gives.
    for page in pages:
        for number in range(BLIND):
            seat = final_seat(page)
            body = {"assignment": seat, "choice": "AAB"[number % 3], "idem": seat, "tab": "t"}
            assert page.request.post("/api/votes", data=body).status == 200
    operator.bring_to_front()
    operator.reload()
    operator.click("[data-do=close-final]")
    operator.wait_for_selector(".op-helped:has-text('blind pairs')")
    with Ledger.open(mine, readonly=True) as ledger:
        helped = improvement.read(ledger)
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert len(ledger.votes()) == cast + PEOPLE * BLIND
    assert helped.share is not None and helped.share.of == PEOPLE * BLIND
    assert operator.text_content(".op-helped") == helped.sentence
    assert call(["report", str(mine)]) == 0
    html = (folder / "mine.html").read_text(encoding="utf-8")
    first = re.search(r"</header>\s*<p[^>]*><b>(.*?)</b></p>", html)
    assert first is not None and first[1] == helped.sentence
    check_figures(operator, mine, rounds)
    assert served.end() == 130, "the documented code of an interrupt"
