"""Formatted answers in a browser: the switch, its memory, widths, directions, colours."""

import json
from unittest.mock import patch

import pytest

from szpo.runs import services
from szpo.types import Answer, Prompt
from tests.support.browser import NARROW, misfits, violations, window
from tests.support.panel_states import agree, open_gate, until, visit
from tests.support.xss_corpus import HOST, LONG, MARKER, PAYLOADS

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
    with patch.object(services, "prompt_order", lambda *_: lambda step: asked * 2):
        stage.advance()
    shown = visit(panelist("P-01"), stage)
    until(shown, "vote")
    return shown


@pytest.mark.parametrize("stage", [{"text": text}], indirect=True)
def test_formatted_text_can_be_switched_read_anywhere_and_voted_on(stage, page):
    page.keyboard.press("f")  # what the model wrote, marks and all
    body = page.locator(".sz-pair", has=page.locator("pre"))
    assert not page.is_checked("#sz-formatted")
    assert page.locator(".sz-formatted:visible").count() == 0
    assert body.locator(".sz-raw:visible").first.inner_text().startswith("# Plan")
    page.keyboard.press("f")
    assert body.locator(".sz-formatted:visible").count() == 2
    assert body.locator(".sz-raw:visible").count() == 0
    assert page.locator("h3:visible").first.inner_text() == "Plan"
    assert page.locator(".sz-formatted a").count() == 0  # an address is text
    assert "docs (https://a.example)" in body.inner_text()
    assert "\ufffd" not in page.locator(".sz-pairs").inner_text()

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


def hostile(step, i, side):
    """Every payload once on either side, bare and then within Markdown, one long line first."""
    if i == 0:
        return LONG if side == "plus" else "short"
    made = PAYLOADS[(i if side == "plus" else i + 1) % len(PAYLOADS)]
    if i <= len(PAYLOADS):
        return made
    return WITHIN[i % len(WITHIN)].format(made)


WITHIN = ("- **so** {}", "# {}", "> *x* {}", "**x**\n```html\n{}\n```", "|a|b|\n|-|-|\n|**x**|{}|")
ROWS = 2 * len(PAYLOADS) + 1
SETS = {"text": hostile, "sets": [f"optimizer.D={ROWS}", "optimizer.N=1"]}


@pytest.mark.parametrize("stage", [SETS], indirect=True)
def test_as_answers_they_are_shown_literally_and_nothing_runs_or_leaves(stage, panelist):
    agree(stage, "P-01")
    stage.advance()
    context = panelist()
    asked, dialogs = [], []
    context.on("request", lambda request: asked.append(request.url))
    page = visit(context, stage)
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    until(page, "vote")
    page.evaluate("document.querySelectorAll('.sz-pair').forEach(p => p.scrollIntoView())")
    page.locator("#szpo-root").dispatch_event("mouseover")
    texts = set(page.locator(".sz-text").all_inner_texts())
    for payload in PAYLOADS:
        if payload.isprintable() and "  " not in payload:
            assert payload in texts, payload
    assert LONG in texts
    assert page.locator(".sz-formatted:visible").count() > 10  # Markdown among them is formatted
    page.keyboard.press("f")
    assert page.locator(".sz-formatted:visible").count() == 0
    assert page.evaluate(f"window.{MARKER}") is None and not dialogs
    assert page.locator(".sz-pair [style], .sz-pair [href], .sz-pair [src]").count() == 0
    assert page.locator(".sz-text a, .sz-text img, .sz-text script").count() == 0
    assert all(url.startswith((stage.url, "data:", "blob:")) for url in asked), HOST
    # Bidirectional overrides stay inside their own line, and no text widens the page.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
