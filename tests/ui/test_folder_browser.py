"""A folder of runs in a browser: home page, runs side by side, a panelist below a run's name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from szpo.ledger.database import Ledger
from szpo.voting import pauses
from szpo_ui.folder import access, application
from szpo_ui.folder.controllers import Controllers
from szpo_ui.web import credentials
from szpo_ui.web.address import link
from tests.support import yard_run
from tests.support.browser import NARROW, SCHEMES, cast, make, misfits, serve, violations

pytest_plugins = ["tests.support.browser"]

HOSTILE = '<img src=x onerror="window.pwn=1">'


@dataclass
class Home:
    """A served folder, and its operator's page in a browser."""

    folder: Path
    url: str
    page: Any

    def invited(self, run: str) -> str:
        """A panelist's link, as ``szpo invite`` prints it."""
        with Ledger.open(self.folder / f"{run}.db") as ledger:
            token = credentials.invite(ledger, "panelist").token
        return link(f"{self.url}/r/{run}", token)


@pytest.fixture(scope="module")
def home(tmp_path_factory, chromium):
    """Two measured runs, one that people vote on, a damaged one with a hostile name."""
    made = yard_run.make(tmp_path_factory.mktemp("yard"), "evaluation.along=1", "run.votes=40")
    folder = tmp_path_factory.mktemp("folder")
    for name in ("first", "second"):
        shutil.copy(made, folder / f"{name}.db")
    people = make(folder / "people.db", sets=[f"panel.guideline={HOSTILE}"])
    people.advance()
    for name in ("Ada", "Ada", "Bob", "Bob"):
        cast(people, name)
    people.advance()
    people.ledger.close()
    (folder / "<img src=x onerror=pwn=1>.db").write_text("no ledger", encoding="utf-8")
    ledger = access.open_ledger(folder)
    door = access.FolderDoor(ledger, ledger.clock)
    serving = serve(application.create(folder, door, Controllers(folder, print)))
    url = next(serving)
    context = chromium.new_context(base_url=url)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(link(url, credentials.invite(ledger, "operator", "Olga").token))
    page.wait_for_selector("#rows")
    yield Home(folder, url, page)
    context.close()
    next(serving, None)
    ledger.close()


def test_the_home_page_follows_its_runs_and_leads_to_each(home):
    page = home.page.context.new_page()
    page.clock.install()
    page.goto("/")
    row = page.locator("tr[data-run=people]")
    assert "stopped" in row.inner_text() and "4 of 400" in " ".join(row.inner_text().split())
    page.check("tr[data-run=people] input")
    page.focus("tr[data-run=people] button")
    with Ledger.open(home.folder / "people.db") as ledger:
        pauses.pause(ledger, "Ann", "lunch")
        page.clock.fast_forward(5_000)
        page.wait_for_selector("tr[data-run=people] .pill-paused")  # nobody pressed anything
        assert "by Ann: lunch" in row.inner_text()
        assert page.is_checked("tr[data-run=people] input"), "what was ticked stays"
        assert page.evaluate("document.activeElement.dataset.run") == "people"
        page.click("tr[data-run=people] button[data-do=resume]")
        page.wait_for_selector("tr[data-run=people] .pill-stopped")
    address = page.get_attribute("tr[data-run=people] a", "href")
    page.close()
    page = home.page
    page.goto(address)
    page.wait_for_selector("#op-root[data-version]")
    assert page.url == f"{home.url}/r/people/operate/"
    assert page.get_by_text("All runs").get_attribute("href") == "/"
    page.click("text=What was voted on")
    page.wait_for_url("**/r/people/operate/votes")
    assert page.locator("h1").count() == 1


def test_runs_side_by_side_are_hovered_zoomed_and_read_by_keys(home):
    page = home.page
    page.goto("/")
    assert page.get_attribute("#compare", "aria-disabled") == "true"
    for name in ("first", "second", "people"):
        page.check(f"tr[data-run={name}] input")
    page.click("#compare")
    page.wait_for_selector("body[data-drawn]")
    chart = page.locator(".chart[data-key=length]")
    plot, reading = chart.locator(".plot"), chart.locator(".reading")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()

    def at(share: float) -> tuple[float, float]:
        return box["x"] + box["width"] * share, box["y"] + box["height"] / 2

    page.mouse.move(*at(0.98))
    rows = chart.locator("tbody tr", has_text="first")
    votes, _, value = (rows.last.locator("td").nth(i).text_content() for i in range(3))
    head, *lines = reading.inner_text().splitlines()
    assert head == f"{votes} votes", "the last step is the nearest one"
    assert lines[0].startswith("first: ") and float(lines[0].split()[1]) == pytest.approx(
        float(value), abs=0.06
    )
    assert lines[0].removeprefix("first") == lines[1].removeprefix("second")
    assert len(lines) == 3 and "people: " in lines[2] and "(at 4)" in lines[2]

    def ticks() -> list[str]:
        return chart.locator("svg text[text-anchor=middle]").all_text_contents()

    whole = ticks()
    page.mouse.move(*at(0.5))
    page.mouse.down()
    page.mouse.move(*at(0.8), steps=4)
    page.mouse.up()
    assert chart.get_attribute("data-zoomed") == "1" and ticks() != whole
    assert min(float(tick) for tick in ticks()) > 0
    plot.dblclick()
    assert chart.get_attribute("data-zoomed") == "" and ticks() == whole
    plot.focus()
    for key in ("Escape", "ArrowRight"):
        page.keyboard.press(key)
    assert reading.inner_text().startswith("4 votes"), "the first point of any run"
    page.keyboard.press("+")
    assert chart.get_attribute("data-zoomed") == "1"
    page.keyboard.press("0")
    assert chart.get_attribute("data-zoomed") == ""
    page.check("input[name=axis][value='1']")
    assert "answers read" in chart.locator("svg").text_content()
    assert ticks() != whole


def test_axe_finds_nothing_and_320_pixels_are_enough(home):
    page = home.page
    for address in ("/", "/compare?run=first&run=second&run=people", "/r/nothing/"):
        page.goto(address)
        if address.startswith("/compare"):
            page.wait_for_selector("body[data-drawn]")
        assert misfits(page, *NARROW, root="main", bar=".top") == [], address
        for scheme, rules in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert violations(page, rules=rules) == [], (address, scheme)
    page.goto("/")
    page.click("#new")
    assert violations(page) == []
    page.click("[data-close]")
    assert page.evaluate("window.pwn") is None


def test_a_panelist_votes_below_the_runs_name(home, chromium):
    context = chromium.new_context(base_url=home.url)
    context.set_default_timeout(60_000)
    page = context.new_page()
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url))
    page.goto(home.invited("people"))
    page.wait_for_selector("#szpo-root[data-state=welcome]")
    assert page.url == f"{home.url}/r/people/panel/"
    assert page.evaluate("window.pwn") is None
    outside = [u for u in foreign if not u.startswith((f"{home.url}/r/people/", "data:", "blob:"))]
    assert {u.removeprefix(home.url).split("/")[1] for u in outside} <= {"static"}
    page.goto("/")
    assert page.url == f"{home.url}/login"
    context.close()
