"""A corpus of hostile answers: escaped by the renderer, inert and literal in a browser."""

import re
import unicodedata
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo_ui.panel.formatted import TAGS
from szpo_ui.web.diff import Piece, compare
from szpo_ui.web.markup import plain, prose
from tests.support.cases import case
from tests.support.panel_states import agree, until, visit
from tests.support.xss_corpus import HOST, LONG, MARKER, PAYLOADS

pytest_plugins = ["tests.support.browser"]
PAGES = ("panelist",)

CLEAN = {"span"}


class Tags(HTMLParser):
    """What a parser makes of a rendered text: its elements, and what a reader sees."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parsed(markup):
    made = Tags()
    made.feed(str(markup))
    made.close()
    return made


def shown(text):
    """The text as the page shows it: hidden characters by their sign."""
    return unescape(re.sub("<[^>]*>", "", str(prose(text))))


def test_the_corpus_is_large_and_without_repeats():
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 100


@pytest.mark.spine
def test_a_payload_becomes_text_and_nothing_else():
    for text in PAYLOADS:
        with case(text):
            for markup in (prose(text), prose(compare(text, text + " more").a)):
                made = parsed(markup)
                assert all(
                    tag == "span" and set(attrs) <= {"class", "title"} for tag, attrs in made.found
                )
                assert not set(str(markup).lower()) & set("\x00\x1b\u202e\u2066")
            if text.isprintable():
                assert parsed(prose(text)).text == text


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_at_all_makes_an_element_of_its_own(a, b):
    for markup in (prose(a), prose(compare(a, b).a), prose([Piece(b, True), Piece(a)])):
        made = parsed(markup)
        assert {tag for tag, _ in made.found} <= CLEAN
        assert {attrs["class"] for _, attrs in made.found} <= {"sz-sign", "sz-diff"}
        hidden = {c for c in made.text if unicodedata.category(c) in ("Cc", "Cs")}
        assert hidden <= {"\n", "\t"}


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_visible_text_comes_through_unchanged(text):
    seen = "".join(
        c for c in plain(text) if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp")
    )
    remaining = "".join(c for c in shown(text) if unicodedata.category(c) not in ("Cc", "Cf"))
    assert without_signs(remaining) == without_signs(seen)


def without_signs(text):
    return re.sub("⟨[0-9A-F]+⟩|[\u2400-\u2421]", "", text)


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
