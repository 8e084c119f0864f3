"""How the panelist's page looks and reads: widths, zoom, focus, spacing, forced colours."""

import pytest

from tests.support.browser import MINUS, NARROW, PLUS, ZOOMED, misfits, violations, window
from tests.support.panel_states import until, visit

pytest_plugins = ["tests.support.browser", "tests.support.panel_states"]
PAGES = ("panelist",)
RECT = "n => { const r = n.getBoundingClientRect(); return [r.width, r.height]; }"
SIZE = "parseFloat(getComputedStyle(document.querySelector('.sz-text')).fontSize)"


def alike_first(step, i, side):
    return (
        "The very same." if i % 3 == 0 else f"Answer {i} is {PLUS if side == 'plus' else MINUS}."
    )


@pytest.mark.parametrize("stage", [{"text": alike_first}], indirect=True)
def test_equal_answers_are_folded_away_and_marks_and_size_can_be_set(stage, ann):
    assert ann.locator("[data-pair]").count() == 2
    assert not ann.locator(".sz-same .sz-text").first.is_visible()
    ann.click(".sz-same summary")
    assert ann.locator(".sz-same .sz-text").first.is_visible()
    marked = ann.locator(".sz-diff").first
    line = "n => getComputedStyle(n).textDecorationLine"
    assert marked.evaluate(line) == "underline"
    ann.locator("#sz-h1").focus()
    ann.keyboard.press("d")
    assert marked.evaluate(line) == "none" and not ann.is_checked("#sz-marks")
    before = ann.evaluate(SIZE)
    ann.click("[data-do=larger]")
    assert ann.evaluate(SIZE) > before
    ann.reload()
    until(ann, "vote")
    assert ann.evaluate(SIZE) > before and not ann.is_checked("#sz-marks")


def test_a_phone_shows_all_of_it_within_reach(stage, ann):
    for size in (NARROW, ZOOMED):
        assert misfits(ann, *size, root="#szpo-root", bar=".sz-bar") == []
        with window(ann, *size):
            for target in ann.locator("#szpo-root button:visible").all():
                assert target.evaluate(RECT)[0] >= 43.5, target.inner_text()
            for dialog in ("sz-help", "sz-guideline", "sz-cannot-dialog", "sz-login"):
                shown = ann.locator(f"#{dialog}")
                shown.evaluate("n => n.showModal()")
                box, wide = shown.bounding_box(), size[0]
                assert box["x"] >= 0 and box["x"] + box["width"] <= wide, dialog
                assert shown.evaluate("n => n.scrollWidth <= n.clientWidth"), dialog
                shown.evaluate("n => n.close()")
    for label in ann.locator(".sz-note label, .sz-check:visible").all():
        assert label.evaluate(RECT)[1] >= 43.5
    assert (
        ann.evaluate("parseFloat(getComputedStyle(document.querySelector('.sz-text')).fontSize)")
        >= 16
    )
    boxes = [node.bounding_box() for node in ann.locator("[data-pair='1'] .sz-answer").all()]
    ann.set_viewport_size({"width": 320, "height": 568})
    boxes = [node.bounding_box() for node in ann.locator("[data-pair='1'] .sz-answer").all()]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["y"] < boxes[1]["y"]  # A, then B


def test_focus_shows_wherever_the_tab_key_goes_and_a_dialog_gives_it_back(stage, ann):
    ring = """() => {
      const n = document.activeElement;
      const shown = n.matches(".sz-note input") ? n.nextElementSibling : n;
      const style = getComputedStyle(shown), at = shown.getBoundingClientRect();
      const bar = document.querySelector(".sz-bar"), edge = bar.getBoundingClientRect().top;
      return {where: n.outerHTML.slice(0, 80), inside: !!n.closest("#szpo-root"),
        drawn: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        hidden: !bar.contains(n) && at.bottom > edge + 1 || at.bottom <= 0};
    }"""
    ann.set_viewport_size({"width": 1280, "height": 500})
    stops = 0
    for _ in range(60):
        ann.keyboard.press("Tab")
        found = ann.evaluate(ring)
        if not found["inside"]:
            break
        stops += 1
        assert found["drawn"] and not found["hidden"], found
    assert stops >= 15
    for opener, dialog in (("help", "sz-help"), ("guideline", "sz-guideline"),
                           ("cannot", "sz-cannot-dialog")):  # fmt: skip
        ann.locator(f"[data-do={opener}]").first.focus()
        ann.keyboard.press("Enter")
        ann.wait_for_selector(f"#{dialog}[open]")
        for _ in range(12):
            ann.keyboard.press("Tab")
            assert ann.evaluate(
                "document.activeElement === document.body "
                "|| document.activeElement.closest('dialog[open]') !== null"
            )
        ann.keyboard.press("Escape")
        assert ann.evaluate("document.activeElement.dataset.do") == opener


def test_it_reads_in_order_speaks_seldom_and_bears_other_spacing(stage, ann):
    for pair in ann.locator(".sz-pair[data-pair]").all():
        labels = [a.get_attribute("aria-label") for a in pair.locator("article").all()]
        number = pair.get_attribute("data-pair")
        assert labels == [f"Answer {letter} to prompt {number}" for letter in "AB"]
        assert [p.inner_text()[:1] for p in pair.locator(".sz-letter").all()] == ["A", "B"]
        assert pair.locator("h2").count() == 1
    # What is said answers what was pressed: of many presses within a second only the last is.
    ann.keyboard.press("ArrowLeft")
    ann.clock.run_for(1_100)
    ann.evaluate(
        "window.said = []; const voice = document.getElementById('sz-voice'); "
        "new MutationObserver(() => said.push(voice.textContent)).observe("
        "voice, {childList: true, characterData: true, subtree: true})"
    )
    for key in ("ArrowRight", "2", "ArrowLeft", "ArrowRight"):
        ann.keyboard.press(key)
    ann.clock.run_for(1_100)
    assert ann.get_attribute("#sz-voice", "role") == "status"  # polite
    assert ann.evaluate("said")[-1].startswith("B is better selected.")
    assert len(ann.evaluate("said")) <= 2
    # WCAG 1.4.12
    ann.add_style_tag(
        content="* { line-height: 1.5 !important; letter-spacing: .12em !important; "
        "word-spacing: .16em !important; } p { margin-bottom: 2em !important; }"
    )
    texts = "#szpo-root button, #szpo-root .sz-text"
    clipped = f"""[...document.querySelectorAll("{texts}")].filter(n =>
      n.checkVisibility() && getComputedStyle(n).overflowX !== "visible"
      && (n.scrollWidth > n.clientWidth + 1 || n.scrollHeight > n.clientHeight + 1)
    ).map(n => n.outerHTML.slice(0, 80))"""
    for size in (NARROW, ZOOMED):
        with window(ann, *size):
            assert ann.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert ann.evaluate(clipped) == []


def test_a_language_is_chosen_by_the_browser_and_changed_in_the_menu_without_losing_a_draft(
    stage, ann, panelist
):
    ann.keyboard.press("j")
    ann.keyboard.press("q")
    ann.keyboard.press("3")
    ann.click(".sz-header [data-do=languages]")
    marked = ann.locator("#sz-languages li", has=ann.locator(".sz-quiet"))
    assert marked.evaluate_all("all => all.map(n => n.lang)") == ["de", "es", "zh-Hans"]
    seat = ann.get_attribute("#szpo-root", "data-seat")
    ann.click("#sz-languages [data-to=de]")
    ann.wait_for_selector("#szpo-root[data-language=de]")
    until(ann, "vote", seat=seat)
    assert ann.evaluate("document.documentElement.lang") == "de"
    assert ann.evaluate("document.activeElement.dataset.do") == "languages"
    assert ann.title() == "Runde 1 · szpo" and "nicht gelesen" in ann.inner_text("#sz-hint")
    assert ann.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert ann.locator(".sz-note input:checked").count() == 1
    assert misfits(ann, *NARROW, root="#szpo-root", bar=".sz-bar") == []
    ann.reload()
    until(ann, "vote", language="de")  # the choice of a reader comes before the browser's

    page = visit(panelist("P-09", locale="zh-CN"), stage)
    until(page, "welcome", language="zh")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    assert violations(page) == []
    page.click("[data-to=es]")
    page.wait_for_selector("#szpo-root[data-language=es]")
    assert page.inner_text("h1") == "Le damos la bienvenida al panel"
    assert page.evaluate("document.activeElement.dataset.to") == "es"
    assert misfits(page, *NARROW, root="#szpo-root", bar=".sz-bar") == []
