"""The operator's page in a browser: what it shows and does, read with eyes, keys and axe."""

from typing import Any

import pytest

from szpo.cli.app import call
from szpo.ledger import orders
from szpo.optim.named_features import Claim
from szpo.runs import samples
from szpo.voting import pauses
from tests.support import yard_run
from tests.support.browser import (
    NARROW,
    ZOOMED,
    cast,
    context,
    in_both_colours,
    misfits,
    play,
    served_run,
    window,
)
from tests.support.operator_page import answer_samples, measure, teach

pytest_plugins = ["tests.support.browser", "tests.support.operator_page"]

READY = "#op-root[data-version]"
SIZES = NARROW, ZOOMED, (1280, 800, 1)


def look(olga: Any) -> Any:
    """A page of the run in a context of Olga's."""
    shown = olga.new_page()
    shown.goto("/operate/")
    shown.wait_for_selector(READY)
    return shown


@pytest.fixture
def page(stage, operator):
    """Two rounds are applied, the third is open; Olga looks at it."""
    play(stage, 2)
    return look(operator())


@pytest.fixture(scope="module")
def seen(tmp_path_factory, chromium):
    """Two rounds are applied, the third is open, and nobody changes that; a context of Olga's."""
    with served_run(tmp_path_factory.mktemp("seen") / "run.db") as made:
        play(made, 2)
        olga = context(chromium, made, "operator", "Olga")
        yield made, olga
        olga.close()


@pytest.fixture
def still(seen):
    """The page of that run, to look at."""
    shown = look(seen[1])
    yield shown
    shown.close()


def press(page: Any, name: str) -> Any:
    """Open the dialog of a control; returns it."""
    page.get_by_role("button", name=name, exact=True).first.click()
    return page.locator("dialog[open]")


def faults(page: Any) -> list[Any]:
    """What axe finds in both colours, and what fits no width."""
    page.wait_for_selector(READY)
    sizes = [(s[0], misfits(page, *s, root="#op-root", bar=".op-top")) for s in SIZES]
    return [*in_both_colours(page), *(each for each in sizes if each[1])]


def test_axe_finds_nothing_and_all_fits_before_during_paused_and_in_every_dialog(stage, operator):
    bad = [["Why?", "It is. It is. It is. It is.", "length", -1.0], ["שלום?", "", "stop", None]]
    stage.ledger.record_event(samples.DRAWN_EVENT, "run", {"samples": bad * 10, "topic": True})
    page = operator().new_page()
    page.goto("/operate/")
    page.wait_for_selector("iframe.op-preview")
    assert page.locator(".op-sample").count() == 20 and page.locator(".op-flag").count() == 3
    assert faults(page) == []
    play(stage, 2)
    order = orders.place_order(stage.ledger, "samples", "Olga", {"prompts": 1})
    answer_samples(stage, order, ["well?"], ["yes"], "length")
    pauses.pause(stage.ledger, "Olga", "lunch")
    page.reload()
    page.wait_for_selector(f"{READY}[data-state=paused]")
    assert faults(page) == []
    assert in_both_colours(page) == []
    pauses.unpause(stage.ledger, "Olga")
    page.reload()
    page.wait_for_selector(f"{READY}[data-state=open]")
    assert faults(page) == []
    for dialog in page.locator("dialog").all():
        name = dialog.get_attribute("id")
        dialog.evaluate("node => node.showModal()")
        assert in_both_colours(page, within="dialog[open]") == [], name
        for size in SIZES:
            with window(page, *size):
                box = dialog.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= size[0], (name, size)
                assert dialog.evaluate("n => n.scrollWidth <= n.clientWidth"), (name, size)
        dialog.evaluate("node => node.close()")


def test_on_a_phone_the_header_leaves_the_screen_to_the_page_and_hides_no_control(still):
    top, more = still.locator(".op-top"), still.locator("#op-rest summary")
    with window(still, *ZOOMED):
        assert top.bounding_box()["height"] <= 120
    with window(still, 360, 740, 2):
        assert top.bounding_box()["height"] <= 120
        assert more.is_visible() and not still.locator("[data-open=op-pause-after]").is_visible()
        assert "0 of 4 votes in" in still.locator(".op-progress").inner_text()[:15]
        more.click()
        named = still.locator(".op-controls :is(button, a)")
        assert all(each.is_visible() for each in named.all())
        assert {"Pause now", "Close round now", "What was voted on", "Invite…"} <= set(
            named.all_inner_texts()
        )
        more.click()


def test_the_first_screen_has_one_sentence_and_no_picture(stage, operator):
    play(stage, 3)
    measure(stage, (0, 0.1), (3, 0.9))
    page = look(operator())
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator(".op-helped").bounding_box()["y"] < 250
    assert page.locator("svg").count() == 0, "figures are in the report"
    assert in_both_colours(page, within=".op-column") == []


def test_the_page_follows_the_record_and_keeps_what_is_open(stage, page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#op-rest summary").click()
    assert "0 of 4 votes in" in page.locator(".op-progress").inner_text()
    cast(stage, "Ada")
    page.get_by_text("1 of 4 votes in").wait_for(timeout=8_000)
    assert page.locator("#op-rest").evaluate("node => node.open")
    page.set_viewport_size({"width": 1280, "height": 800})
    press(page, "Pause now").get_by_role("button", name="Pause now").click()
    page.wait_for_selector(f"{READY}[data-state=paused]")
    # The button that was pressed is gone; focus is neither lost nor on the skip link.
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_escape_and_tab_work_in_dialogs_and_focus_comes_back(still):
    page = still
    opener = page.get_by_role("button", name="Pause now")
    opener.focus()
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for()
    for _ in range(6):
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        inside = f"{focused} === document.body || !!{focused}.closest('dialog')"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    assert opener.evaluate("node => node === document.activeElement")


def test_focus_shows_at_every_stop_of_the_tab_key(still):
    page = still
    ring = """() => {
      const n = document.activeElement, style = getComputedStyle(n);
      return {where: n.outerHTML.slice(0, 80), inside: n !== document.body && !!n.closest(".op"),
        drawn: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2};
    }"""
    stops = 0
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(ring)
        if not found["inside"]:
            break
        stops += 1
        assert found["drawn"], found
    assert stops >= 15
    for name in ("op-limits", "op-invite", "op-access"):
        dialog = page.locator(f"#{name}")
        dialog.evaluate("node => node.showModal()")
        for _ in range(dialog.locator("input:visible, button:visible, summary:visible").count()):
            page.keyboard.press("Tab")
            found = page.evaluate(ring)
            assert found["drawn"] or not found["inside"], (name, found)
        dialog.evaluate("node => node.close()")


def test_what_votes_taught_is_read(stage, operator):
    play(stage, 1)
    early = (Claim("i", True, 0.3, 1.0, "i"), Claim("comma", False, 0.6, 0.7, "commas"))
    teach(stage.ledger, 8, early, factor=1.0)
    teach(stage.ledger, 16, [Claim("comma", False, 0.97, 0.73, "commas"), early[0]])
    page = look(operator())
    taught = "16 votes: fewer commas (97 %), most likely more answers without a comma (71 %)."
    page.get_by_text(taught, exact=True).wait_for()
    assert faults(page) == []


def test_a_kept_report_has_no_fault_of_axe_and_fits_320_pixels(chromium, tmp_path):
    run = yard_run.make(tmp_path, "run.votes=40")
    assert call(["report", str(run)]) == 0
    page = chromium.new_page()
    page.set_content(run.with_suffix(".html").read_text(encoding="utf-8"))
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert misfits(page, *NARROW, root="main", bar="nav") == []
    page.set_viewport_size({"width": 360, "height": 740})  # where tables scroll
    assert in_both_colours(page) == []
    page.close()


def test_the_list_of_votes_has_no_fault_of_axe_fits_320_pixels_and_is_left_by_a_link(
    stage, operator
):
    play(stage, 2)
    page = operator().new_page()
    page.goto("/operate/")
    page.wait_for_selector(READY)
    page.get_by_text("What was voted on").click()
    page.wait_for_url("**/operate/votes")
    assert page.locator("h2").count() == 8
    assert in_both_colours(page) == []
    for size in SIZES:
        assert misfits(page, *size, root="main", bar=".op-top") == []
    page.get_by_text("Back to the operator’s page").click()
    page.wait_for_selector(READY)
