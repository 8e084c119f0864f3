"""Three panelists and an operator in browsers take a real model through five rounds.

``szpo serve`` as people start it: a web process, a controller process, one ledger. What the export
says must be what the operator saw, and the ledger must verify.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.reports import bundle

pytest_plugins = ["tests.support.browser"]
ROUNDS, PEOPLE, COUNTED = 5, 3, 20
SMALL = (
    "model.name=tiny", "model.dtype=fp32", "subspace.samples=64", "subspace.kl_samples=16",
    "generation.max_new_tokens=12", "panel.poor_samples=open",
)  # fmt: skip
SHAPE = (
    "optimizer.directions=1", "optimizer.comparisons=2", "optimizer.rows=2", "optimizer.votes=2",
    f"run.steps={ROUNDS}", "panel.poll_seconds=0.2", "run.name=panel",
)  # fmt: skip


class Served:
    """``szpo serve`` in a folder, with the links that it printed."""

    def __init__(self, folder: Path, sets: tuple[str, ...]):
        self.path = folder / "panel.db"
        words = [w for each in (*SHAPE, *sets) for w in ("--set", each)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "szpo", "serve", "--preset", "people", *words,
             "--folder", str(folder), "--port", "0"],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.message = ""
        self.url, self.operator = self._links()

    def _links(self) -> tuple[str, str]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.message += line
            if found := re.search(r"operator's link .*: (http\S+)", line):
                return found[1].partition("/login")[0], found[1]
        pytest.fail(f"szpo serve ended: {self.message}")

    def invite(self) -> list[str]:
        """Links for the panelists, made by the command that people use."""
        done = subprocess.run(
            [sys.executable, "-m", "szpo", "invite", str(self.path), "--count", str(PEOPLE),
             "--json", "--url", self.url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [each["link"] for each in json.loads(done.stdout)]

    def end(self) -> int:
        """Ctrl-C, as a person would."""
        self.process.send_signal(signal.SIGINT)
        _, rest = self.process.communicate(timeout=60)
        self.message += rest
        return self.process.returncode


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    made = Served(tmp_path, request.param)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    if made.process.stderr is not None:
        made.process.stderr.close()


def come(browser: Any, link: str) -> Any:
    """A browser of its own that opens an invitation."""
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.goto(link)
    return page


def vote_if_asked(page: Any, choice: str) -> bool:
    """Answer the comparison that is on screen by keyboard, or say that there is none."""
    root = page.locator("#szpo-root")
    if root.get_attribute("data-state") != "vote":
        return False
    ack = root.get_attribute("data-ack")
    differing = page.locator(".pair:not([data-same])").count()
    for _ in range(differing):
        page.keyboard.press("j")
    page.keyboard.press(choice)
    page.wait_for_function("!document.querySelector('#sz-confirm')?.disabled", timeout=60_000)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#szpo-root:not([data-ack='{ack}']):not([data-state=saving])")
    return True


def leave_if_closed(page: Any) -> None:
    """Go on from a comparison whose round closed while it was being read, as its button says.

    With three people and two votes to a comparison one may hold a seat that is not needed: whoever
    reads is not moved, so without this the page would stay there to the end.
    """
    if page.get_attribute("#szpo-root", "data-state") == "closed":
        page.click("[data-do=go]")
        page.wait_for_selector("#szpo-root:not([data-state=closed])")


def until(condition: Callable[[], bool], page: Any, seconds: float = 300) -> None:
    """Let the browsers go on until something holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the run stands still"
        page.wait_for_timeout(100)


@pytest.mark.parametrize(
    "served", [SMALL, pytest.param((), marks=pytest.mark.slow)], indirect=True,
    ids=["tiny", "smollm2"],
)  # fmt: skip
def test_three_panelists_and_an_operator_tune_a_model(
    served: Served, chromium: Any, tmp_path: Path
) -> None:
    pages = [come(chromium, link) for link in served.invite()]
    operator = come(chromium, served.operator)
    operator.wait_for_selector("#op-root[data-version]")
    if operator.locator("[data-open=op-start]").count():
        operator.click("[data-open=op-start]")
        operator.click("#op-start button[type=submit]")
    for page in pages:
        page.click("[data-do=agree]")
    cast = 0

    def finished() -> bool:
        nonlocal cast
        for number, page in enumerate(pages):
            leave_if_closed(page)
            state = page.get_attribute("#szpo-root", "data-state")
            # A, tie, B: three tastes, so that rounds are not unanimous.
            cast += vote_if_asked(page, ("ArrowLeft", "2", "ArrowRight")[(number + cast) % 3])
            assert state not in ("error", "offline")
        with Ledger.open(served.path, readonly=True) as ledger:
            return ledger.last_applied() == ROUNDS - 1

    until(finished, pages[0])
    operator.reload()
    operator.wait_for_selector("#op-root[data-state=finished]")
    shown = operator.inner_text("#op-root")
    # 5 rounds of 2 comparisons with 2 votes each; votes from spare seats are stored, not counted
    assert f"{ROUNDS} of {ROUNDS} rounds applied · {COUNTED} votes counted" in shown
    with operator.expect_download() as download:
        operator.click("text=Export")
    file = tmp_path / "export.zip"
    download.value.save_as(file)
    for page in pages:
        page.wait_for_selector("#szpo-root[data-state=finished], #szpo-root[data-state=closed]")
        leave_if_closed(page)
        page.wait_for_selector("#szpo-root[data-state=finished]")
    assert served.end() == 130, "the documented code of an interrupt"

    again = bundle.recompute(file)
    assert (again.progress.applied, again.progress.votes) == (ROUNDS, COUNTED)
    heading = again.improving.heading
    assert heading.value is not None and heading.low is not None and heading.high is not None
    assert f"{heading.value:.2f}" in shown, "the dashboard's first figure is the export's"
    assert f"[{heading.low:.2f}–{heading.high:.2f}]" in shown
    for person in again.panelists:
        row = operator.locator("#op-root tr", has_text=person.name).first
        assert str(person.votes) in row.inner_text()
    with Ledger.open(served.path, readonly=True) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert len(ledger.votes()) == cast >= COUNTED
