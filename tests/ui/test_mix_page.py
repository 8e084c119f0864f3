"""The page of two mixes: sliders in a browser, wrong requests, a mix as the start of a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo_ui import mix_page
from tests.support import browser

pytest_plugins = ["tests.support.browser"]
NAMES = ("positive tone", "commas")


class Mixer:
    """Says its mix; one with tone costs two nats, others one."""

    blocks = SimpleNamespace(names=NAMES)
    config = settings_file.load(sets=["model.name=tiny", "subspace.adapters=['runs/set']"])
    heldout = (Prompt.user("What is rain?"),)

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.measured = 0

    def encode(self, texts: Any) -> Any:
        if not texts[0].strip():
            raise UsageError("the prompt is empty; give a question")
        return tuple(map(Prompt.user, texts))

    def move_to(self, mix: dict[str, float]) -> None:
        if unknown := mix.keys() - {*NAMES}:
            raise UsageError(f"no adapter is called {unknown}")
        self.at = mix

    def answer(self, asked: Any, *, seed: int) -> list[Answer]:
        said = ", ".join(f"{n} {v:+.1f}" for n, v in self.at.items()) or "the start"
        return [Answer(f"<b>{said}</b>, draw {seed}: {asked[0].text}", tokens=3)]

    def kl(self, asked: Any, *, seed: int) -> tuple[float, float]:
        self.measured += 1
        return 1.0 + ("positive tone" in self.at), float("nan") if "commas" in self.at else 0.25

    def save(self, mix: dict[str, float], folder: Path) -> Path:
        return folder / f"mix-{len(mix)}"


@pytest.fixture
def mixer():
    return Mixer()


@pytest.fixture
def address(mixer):
    made: Any = mixer
    with browser.serve(
        mix_page.application(made, {"commas": -0.5}, "What is rain?", Path("runs"))
    ) as found:
        yield found


def test_sliders_move_two_mixes_and_one_begins_a_run(chromium, address, mixer):
    page = chromium.new_page(base_url=address, viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    page.goto("/mix/")
    page.wait_for_selector("#mx-root[data-ready=true]")
    tone = page.get_by_label("positive tone, second mix, nats")
    tone.focus()
    for _ in range(12):
        tone.press("ArrowRight")
    assert tone.locator("xpath=following-sibling::output").inner_text() == "1.2"
    page.get_by_role("button", name="Answer", exact=True).click()
    page.wait_for_function("document.querySelector('#mx-kl-1').textContent")
    first, second = (page.locator(f"#mx-text-{i}").inner_text() for i in (0, 1))
    assert first == "<b>commas -0.5</b>, draw 0: What is rain?"
    assert second == "<b>positive tone +1.2</b>, draw 0: What is rain?"
    assert page.locator("#mx-kl-0").inner_text() == "1.00 nats from the start, measured"
    assert page.locator("#mx-kl-1").inner_text() == "2.00 ± 0.25 nats from the start, measured"
    page.get_by_role("button", name="Draw other answers").click()
    page.wait_for_function("document.querySelector('#mx-text-1').textContent.includes('draw 1')")
    assert mixer.measured == 2
    page.get_by_role("button", name="Begin a run from this mix").nth(1).click()
    page.wait_for_selector("#mx-command-1:not([hidden])")
    command = (
        "szpo serve --preset people --set model.name=tiny --set model.adapter=runs/mix-1 "
        """--set 'subspace.adapters=["runs/set"]' --set generation.temperature=1.0 """
        "--set generation.max_new_tokens=24 --set generation.whole_sentences=false"
    )
    assert page.locator("#mx-command-1").inner_text() == command
    page.get_by_label("Prompt").fill(" ")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.wait_for_function("document.querySelector('#mx-said').textContent.includes('is empty')")
    page.get_by_role("button", name="All to 0").click()
    assert {each.input_value() for each in page.get_by_role("slider").all()} == {"0"}
    assert browser.in_both_colours(page) == []
    for size in (browser.NARROW, browser.ZOOMED):
        assert browser.misfits(page, *size, root="#mx-root", bar="header") == []
    page.close()


@pytest.mark.full
def test_wrong_requests_are_refused(address):
    def post(what: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{address}/mix-api/{what}", json=body, **more)

    good = {"prompt": "Why?", "mixes": [{}, {"commas": 1.0}]}
    assert post("answer", good).status_code == 200
    for body in ({**good, "mixes": [{}]}, {**good, "mixes": [{}, {"commas": 9.0}]}, {}):
        assert post("answer", body).status_code == 422
    refused = post("answer", {**good, "mixes": [{}, {"comas": 1.0}]})
    assert refused.status_code == 422 and "no adapter is called" in refused.json()["message"]
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert post("begin", {"mix": {}}, headers=elsewhere).status_code == 403
    assert httpx.get(f"{address}/mix/", headers={"Host": "elsewhere"}).status_code == 400
