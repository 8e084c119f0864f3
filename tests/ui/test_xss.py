"""A corpus of hostile answers: escaped by the renderer, inert and literal in a browser."""

import pytest

from szpo_ui.panel.formatted import TAGS
from tests.support.panel_states import agree, until, visit
from tests.support.xss_corpus import HOST, LONG, MARKER, PAYLOADS

pytest_plugins = ["tests.support.browser"]
PAGES = ("panelist",)


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
SETS = {"text": hostile, "sets": [f"optimizer.rows={ROWS}", "optimizer.comparisons=1"]}


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
    inside = page.evaluate(
        "[...new Set([...document.querySelectorAll('.sz-pair *')].map(n => n.tagName))].sort()"
    )
    assert set(inside) <= {
        "ARTICLE", "BUTTON", "DIV", "FIELDSET", "H2", "INPUT", "KBD", "LABEL", "LEGEND", "P",
        "SPAN", *(tag.upper() for tag in TAGS),
    }  # fmt: skip
    assert page.locator(".sz-text a, .sz-text img, .sz-text script").count() == 0
    assert all(url.startswith((stage.url, "data:", "blob:")) for url in asked), HOST
    # Bidirectional overrides stay inside their own line, and no text widens the page.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
