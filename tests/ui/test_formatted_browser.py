"""Formatted answers in a browser: the switch, its memory, widths, directions, colours."""

import json
from unittest.mock import patch

import pytest

from szpo.training import comparisons
from szpo.types import Answer, Prompt
from tests.support.browser import NARROW, misfits, violations, window
from tests.support.panel_states import agree, open_gate, until, visit

pytest_plugins = ["tests.support.browser"]
PAGES = ("panelist",)

TALK = Prompt(
    (
        ("system", "Be brief."),
        ("user", "מה השעה?"),
        ("assistant", "**חמש**, *about*."),
        ("user", "ומה עכשיו, at noon?"),
    )
)
PLAN = (
    "# Plan\n\nDo **this** first:\n\n1. open `run.toml`\n2. wait\n\n"
    "```python\nprint('a rather long line of code that a phone has to break somewhere')\n```\n\n"
    "| step | what it does to the whole of the run |\n|---|---|\n| 1 | [docs](https://a.example) |"
)
RIGHT = "שלום **עולם**, this is mixed.\n\n- אחת\n- שתיים"


def text(step, i, side):
    """Markdown; right to left; and one cut in the middle of a character."""
    end = "now" if side == "plus" else "later"
    made = (f"{PLAN}\n\nThat is {end}.", f"{RIGHT}\n\n{end}", f"Plain, {end} \ufffd")[i % 3]
    return Answer(made, "length" if i % 3 == 2 else "stop", 20)


@pytest.fixture
def page(stage, panelist):
    agree(stage, "P-01")
    asked = [Prompt.user("How do I begin?"), TALK, Prompt.user("And then?")]
    with patch.object(comparisons, "prompt_order", lambda *_: lambda step: asked * 2):
        stage.advance()
    shown = visit(panelist("P-01"), stage)
    until(shown, "vote")
    return shown


@pytest.mark.parametrize("stage", [{"text": text, "sets": ["panel.view=plain"]}], indirect=True)
def test_formatted_text_can_be_switched_read_anywhere_and_voted_on(stage, page):
    # The operator's choice is first: what the model wrote, marks and all.
    body = page.locator(".sz-pair", has=page.locator("pre"))
    assert not page.is_checked("#sz-formatted")
    assert page.locator(".sz-formatted:visible").count() == 0
    assert body.locator(".sz-raw:visible").first.inner_text().startswith("# Plan")
    assert set(page.locator(".sz-raw .sz-diff:visible").all_inner_texts()) == {"now", "later"}
    page.keyboard.press("f")
    assert body.locator(".sz-formatted:visible").count() == 2
    assert body.locator(".sz-raw:visible").count() == 0
    assert page.locator("h3:visible").first.inner_text() == "Plan"
    assert page.locator(".sz-formatted a").count() == 0  # an address is text
    assert "docs (https://a.example)" in body.inner_text()
    assert "\ufffd" not in page.locator(".sz-pairs").inner_text()
    marked = page.locator(".sz-formatted .sz-diff:visible").all_inner_texts()
    assert set(marked) == {"now", "later"}

    # Each block takes the direction of its own first letter; code stays left to right.
    way = "n => getComputedStyle(n).direction"
    right = page.locator(".sz-pair", has=page.locator("li", has_text="אחת")).first
    assert right.locator(".sz-prompt-text").evaluate(way) == "rtl"
    assert {n.evaluate(way) for n in right.locator(".sz-formatted > p").all()} == {"rtl", "ltr"}
    assert right.locator(".sz-formatted ul").first.evaluate(way) == "rtl"
    assert page.locator("pre").first.evaluate(way) == "ltr"
    turns = right.locator(".sz-turns > li:visible")
    assert turns.count() == 3  # a short conversation is unfolded
    assert turns.nth(2).locator("strong").inner_text() == "חמש"

    for dark in (False, True):
        page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(dark)})")
        assert violations(page) == []
        with window(page, *NARROW):
            assert violations(page) == []
        assert misfits(page, *NARROW, root="#szpo-root", bar=".sz-bar") == []

    # The switch stays with the panelist, and the vote says which view it was given in.
    page.reload()
    until(page, "vote")
    assert page.is_checked("#sz-formatted") and body.locator(".sz-formatted:visible").count() == 2
    page.uncheck("#sz-formatted")
    assert page.locator(".sz-formatted:visible").count() == 0
    page.locator("#sz-h1").focus()
    page.keyboard.press("2")
    open_gate(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#szpo-root[data-number='2'], #szpo-root[data-state=waiting]")
    assert json.loads(stage.ledger.votes()[0]["details"])["view"] == "plain"
