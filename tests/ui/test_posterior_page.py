"""The page of a posterior: by hand in a browser, over a run, alone, and behind the operator."""

import re
from typing import Any

import httpx
import numpy as np
import pytest

from szpo.analysis.posterior import BradleyTerry
from szpo.cli.app import call
from szpo_ui import visualize as pictures
from szpo_ui.visualize import CELLS, PARTICLES, scene
from tests.support import browser
from tests.support.browser import play

pytest_plugins = ["tests.support.browser"]
PAGES = ("operator",)
KINDS = ("gaussian", "neighbours", "likelihood", "mean", "pair")


@pytest.fixture(scope="module")
def address():
    with browser.serve(pictures.application(pictures.example)) as found:
        yield found


@pytest.fixture
def page(chromium, address):
    made = chromium.new_page(base_url=address, viewport={"width": 1280, "height": 900})
    made.set_default_timeout(15_000)
    made.goto("/visualize/")
    ready(made)
    yield made
    made.close()


def ready(page: Any) -> None:
    page.wait_for_selector("#vz-root[data-ready=true]")


def figures(page: Any) -> dict[str, str]:
    return {kind: page.locator(f"#vz-{kind}").inner_text() for kind in KINDS}


def particles(page: Any) -> list[list[float]]:
    found: list[list[float]] = page.evaluate("szpoVisualize.scene().frames.at(-1)")
    return found


def test_dragging_a_handle_changes_likelihood_particles_and_entropy(page):
    before, dots = figures(page), particles(page)
    density = page.evaluate("szpoVisualize.scene().log_density")
    box = page.locator('[data-handle="0"]').bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y + 160, steps=4)
    page.mouse.up()
    ready(page)
    after = figures(page)
    assert {kind for kind in KINDS if before[kind] != after[kind]} == set(KINDS)
    assert particles(page) != dots
    assert page.evaluate("szpoVisualize.scene().log_density") != density
    # The picture follows the figures: the last circle drawn stands where the scene says.
    page.wait_for_function(
        """() => { const s = szpoVisualize.scene(), [x] = s.frames.at(-1)[0];
             const c = document.querySelector('#vz-particles circle');
             return Math.abs(c.getAttribute('cx') - (x / 4 + 1) * 280) < 0.06; }"""
    )


def test_page_is_accessible_and_fits_small_windows(page):
    assert browser.in_both_colours(page) == []
    for size in (browser.NARROW, browser.ZOOMED):
        assert browser.misfits(page, *size, root="#vz-root", bar=".vz-top") == []


@pytest.mark.full
def test_wrong_requests_are_refused_by_name(address):
    def post(body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{address}/visualize-api/scene", json=body, **more)

    assert post({"deltas": [[1.0, 2.0]]}).status_code == 200
    for body in ({"deltas": [[1.0]]}, {"deltas": [[9.0, 0.0]]}, {}, {"deltas": [[0, 0]] * 201}):
        refused = post(body)
        assert refused.status_code == 422
        assert refused.json()["field"].startswith("deltas")
    assert post({"deltas": []}, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert httpx.get(f"{address}/visualize/", headers={"Host": "elsewhere"}).status_code == 400
    assert "frame-ancestors 'none'" in httpx.get(f"{address}/visualize/").headers[
        "content-security-policy"
    ]  # fmt: skip


def differing(step: int, i: int, side: str) -> str:
    """Plus is longer; how glad it is differs from row to row."""
    return "A wonderful, happy day. " * (1 + (side == "plus")) + "It rains. " * ((i + step) % 3)


@pytest.mark.parametrize("stage", [{"text": differing}], indirect=True)
def test_operator_sees_the_votes_of_the_run(stage, operator):
    shown = operator().new_page()
    shown.goto("/operate-visualize/")
    ready(shown)
    assert "This run: " in shown.locator("#vz-about").inner_text()
    play(stage, 1)
    shown.goto("/operate/")
    shown.get_by_role("link", name="What votes say about two features").click()
    ready(shown)
    assert re.match(r"The last \d+ of 4 votes of run", shown.locator("#vz-about").inner_text())
    assert shown.locator(".vz-name-first").first.text_content() == "length"
    begun = pictures.of_run(stage.ledger)
    assert len(begun.deltas) == shown.locator("[data-handle]").count() > 0
    # All voted for plus, which is always the longer one.
    assert (begun.deltas[:, 0] > 0).all()
    texts = [
        shown.locator(f"#vz-{place}").inner_text()
        for place in ("prompt", "text-first", "text-second")
    ]
    assert tuple(texts) in begun.texts
    assert texts[0].startswith("Question ") and len(texts[1]) > len(texts[2])
    said = shown.locator("#vz-more").inner_text()
    assert re.match(r"By these answers: more length is preferred with \d+ %, (more|less) ", said)
    votes = len(stage.ledger.votes())
    shown.get_by_role("button", name="The first").click()
    ready(shown)
    assert shown.locator("[data-handle]").count() == len(begun.deltas) + 1
    assert "no vote is cast, and nothing is stored" in shown.locator("#vz-next").inner_text()
    assert len(stage.ledger.votes()) == votes
    assert browser.violations(shown) == []
    shown.get_by_role("link", name="Back to the operator's page").click()
    shown.wait_for_selector("#op-root")


@pytest.mark.full
def test_command_writes_pictures_and_names_what_it_cannot_write(tmp_path, capsys):
    out = tmp_path / "posterior.svg"
    assert call(["visualize", "--svg", str(out)]) == 0
    assert out.read_bytes().startswith(b"<?xml")
    assert call(["visualize", "--svg", str(tmp_path / "no" / "where.svg")]) != 0
    assert "cannot be written" in capsys.readouterr().err
    assert call(["visualize", "nowhere", "--folder", str(tmp_path)]) == 2


ANSWERS = ((1.5, 0.5), (0.5, 1.8), (-0.6, 1.2))


def test_the_map_has_the_posterior_where_the_page_draws_it():
    # One answer δ = (0, 2): weights with a large second coordinate are likelier, and these are
    # drawn at the top; nothing is known of the first, so the map is its own mirror image.
    shown = scene([(0.0, 2.0)])
    top, bottom = shown.log_density[: CELLS // 2], shown.log_density[CELLS // 2 + 1 :]
    assert top.mean() > bottom.mean()
    np.testing.assert_allclose(shown.log_density, shown.log_density[:, ::-1], atol=1e-9)
    assert shown.mean[1] > 0.3
    # What has not been asked yet teaches most: a difference along the first weight.
    assert shown.suggested is not None
    assert abs(shown.suggested[0]) > abs(shown.suggested[1])
    assert 0 < shown.information < np.log(2)


def test_particles_move_from_the_prior_to_the_posterior_a_round_for_each_answer():
    shown = scene(ANSWERS)
    assert shown.frames.shape[1:] == (PARTICLES, 2)
    np.testing.assert_array_equal(shown.frames[0], scene([]).frames[0])
    mode, covariance = BradleyTerry(np.array(ANSWERS), np.ones(3), 1.5).laplace()
    first, last = (np.linalg.norm(shown.frames[i].mean(0) - mode) for i in (0, -1))
    # The posterior leans away from its mode, to where all answers are near certain.
    assert last < 0.5 < first
    spread = np.linalg.slogdet(np.cov(shown.frames[-1].T))[1]
    assert abs(spread - np.linalg.slogdet(covariance)[1]) < 0.5
    np.testing.assert_allclose(shown.mean, shown.frames[-1].mean(0))
    assert len(shown.rounds) == len(ANSWERS) + 1
    for kind in ("gaussian", "neighbours"):
        values = [each[kind] for each in shown.rounds]
        assert values == sorted(values, reverse=True)
    # A longer list begins with the rounds of the shorter one: the same particles, the same seed.
    assert scene(ANSWERS[:2]).rounds == shown.rounds[:3]
