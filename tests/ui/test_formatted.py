"""Markdown as HTML: what is formatted, that nothing gets through, and that no word is lost."""

import re
import string
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.types import Answer, Assignment, Comparison, Prompt, Row
from szpo.visible_text import HIDDEN, visible
from szpo_ui import formatting
from szpo_ui.formatting import ATTRIBUTES, CLASSES, TAGS
from szpo_ui.markup import plain as visible_signs
from szpo_ui.markup import prose, whole
from szpo_ui.sheets import sheet
from tests.support.cases import case
from tests.support.outline import Outline
from tests.support.xss_corpus import LONG, PAYLOADS


def assert_listed(html):
    """It is well-formed, and its elements, attributes and classes are on their lists."""
    for tag, attrs in Outline(html).found:
        assert tag in TAGS, tag
        assert set(attrs) <= ATTRIBUTES[tag] | ({"class"} if tag in CLASSES else set()), attrs
        assert set(attrs.get("class", "").split()) <= CLASSES.get(tag, set())


def assert_harmless(html):
    assert_listed(html)
    assert all(attrs.get("dir", "auto") in ("auto", "ltr") for _, attrs in Outline(html).found)
    assert not set(html) & set("\x00\x1b\u202e\u2066")


def without_signs(text):
    """A text less the signs that stand for hidden characters."""
    return re.sub("⟨[0-9A-F]+⟩|[\u2400-\u2421]", "", text)


GOLDEN = {
    "**Yes.** And `no`.": '<p dir="auto"><strong>Yes.</strong> And <code>no</code>.</p>\n',
    "# Plan\none\ntwo": '<h3 dir="auto">Plan</h3>\n<p dir="auto">one<br>\ntwo</p>\n',
    "3. a\n4. b": '<ol start="3" dir="auto">\n<li>a</li>\n<li>b</li>\n</ol>\n',
    "```py\nx < 1\n```": '<pre dir="ltr"><span class="sz-code-name">py</span>'
    "<code>x &lt; 1</code></pre>\n",
    # Links and images are text, with their addresses.
    "[here](https://a.example 't')": '<p dir="auto"><span class="sz-label">here</span> '
    '(https://a.example "t")</p>\n',
    "<https://a.example>": '<p dir="auto"><span class="sz-label">https://a.example</span></p>\n',
    "*x* ![y](https://a.example/z.png)": '<p dir="auto"><em>x</em> '
    "![y](https://a.example/z.png)</p>\n",
    "*x* <b>y</b> &lt;": '<p dir="auto"><em>x</em> &lt;b&gt;y&lt;/b&gt; &amp;lt;</p>\n',
    "*x* \u202ey": '<p dir="auto"><em>x</em> '
    '<span class="sz-sign" title="U+202E">⟨202E⟩</span>y</p>\n',
}


@pytest.mark.parametrize("text", GOLDEN)
def test_markdown_looks_as_meant(text):
    assert str(formatting.formatted(text)[0]) == GOLDEN[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Two lines\nand a second paragraph.\n\n    It is indented.",
        "#",  # nothing would be left of it
        "|a|\n|-|\n|b|lost|",  # the parser drops cells that have no column
        "> " * 40 + "lost",  # and what is nested too deeply
        '[x]: https://a.example "lost"\n\n[x] **y** [lost][x] &amp;'.replace("lost", "z" * 20_001),
    ],
)
def test_what_is_not_marked_up_or_would_lose_a_word_stays_as_it_is(text):
    assert formatting.formatted(text) is None
    assert formatting.formatted(text, "Another.") is None


MARKUP = st.sampled_from([*"*_`~#>-+|![]()<>&\\\n\t 0123456789.:=", "\n\n", "    ", "```", "| "])
WORDS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=8)


@given(st.lists(MARKUP | WORDS | st.sampled_from(PAYLOADS), max_size=30).map("".join))
def test_whatever_is_written_nothing_gets_through_and_nothing_is_lost(text):
    if (found := formatting.formatted(text)) is None:
        return
    (made,) = found
    assert_harmless(made)
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # no browser shows half a pair
    # Hidden characters are shown by signs, and numbers of lists by the browser.
    drawn = re.sub("[0-9]", "", without_signs(Outline(made).text))
    hidden = re.sub("[0-9]", "", HIDDEN.sub("", text))
    marks = (*string.punctuation, "\u2400", "\u2421")
    assert count(drawn, marks) == count(hidden, marks)


def count(text, but):
    return Counter(c for c in text if c not in but and not c.isspace())


TAG = st.sampled_from([*sorted(TAGS), "script", "a", "img", "svg", "style", "div", "iframe", "h1"])
ATTRIBUTE = st.sampled_from(["class='sz-sign'", "class='sz-bar'", "style='color:red'", "id=x",
                             "onclick='x()'", "href='https://a.example'", "dir=rtl", "title=t",
                             "src=x", "start=2", "tabindex=0"])  # fmt: skip


@given(st.lists(st.tuples(TAG, st.lists(ATTRIBUTE, max_size=3), st.booleans()), max_size=12))
def test_the_second_filter_lets_nothing_through_but_its_list(tags):
    each = (f"</{tag}>" if close else f"<{tag} {' '.join(attrs)}>x" for tag, attrs, close in tags)
    html = "".join(each)
    assert_listed(formatting.clean_html(html))


@pytest.mark.spine
def test_an_attack_stays_text_plain_and_formatted():
    for text in PAYLOADS:
        with case(text):
            assert {tag for tag, _ in Outline(prose(text)).found} <= {"span"}
            assert_harmless(prose(text))
            if text.isprintable():
                assert Outline(prose(text)).text == text
            for marked in (
                f"**so** {text}",
                f"- {text}\n- **x**",
                f"```\n{text}\n```",
                f"# {text}",
            ):
                for html in formatting.formatted(marked, "**so**") or ():
                    assert_harmless(html)


def test_both_sides_or_neither_and_nothing_but_the_texts_decides():
    assert formatting.formatted("*a*", "b")[1] == '<p dir="auto">b</p>\n'
    assert formatting.formatted("*a*", LONG) is None  # one cannot be, so neither is
    texts = "*a* c", "**b** c"
    one, other = (formatting.formatted(*each) for each in (texts, texts[::-1]))
    assert one == (other[1], other[0])


def shown(plus, minus, *, ends=("stop", "stop"), earlier=(), side="A"):
    asked = Prompt((*earlier, ("user", "Why?")))
    row = Row(asked, Answer(plus, ends[0]), Answer(minus, ends[1]))
    seat = Assignment("s", "c", "p", side, (0,), 0)
    return sheet([(Comparison("c", 0, 0, 0, (row,)), seat)])


def test_half_a_character_at_the_cut_is_not_shown():
    assert whole("so \ufffd\ufffd", cut=True) == "so " and whole("\ufffd", cut=False) == "\ufffd"
    made = shown("It is \ufffd", "It was \ufffd", ends=("length", "stop")).pairs[0]
    assert (made.a.text, made.b.text) == ("It is ", "It was \ufffd")
    assert not made.same  # the texts on record differ


def test_a_short_conversation_is_unfolded_and_counted_and_only_the_model_is_formatted():
    talk = (("system", "*Be* brief."), ("user", "*Who?*"), ("assistant", "*Me.*"))
    made = shown("So.", "Or so.", earlier=talk)
    turns = made.pairs[0].earlier
    assert [turn.formatted is None for _, turn in turns] == [True, True, False]
    assert made.pairs[0].unfolded and made.words == 2 + 1 + 1 + 1 + 1 + 2 and made.formatted
    long = shown("So.", "Or so.", earlier=(*talk, ("user", "word " * 150)))
    assert not long.pairs[0].unfolded and long.words == 1 + 1 + 2
    assert not shown("So.", "Or so.", earlier=talk[:1]).pairs[0].unfolded


@pytest.mark.parametrize(
    "sign", ["![", "[", "|a\n|-\n", "a|b\n", "*a ", "_a_ ", "`a``b", "1. a\n", "> "]
)
def test_what_a_text_costs_grows_with_its_letters_alone(sign):
    def calls(letters):
        made = [0]

        def count(*_):
            made[0] += 1

        sys.setprofile(count)
        try:
            formatting.formatted.__wrapped__((sign * letters)[:letters])
        finally:
            sys.setprofile(None)
        return made[0]

    calls(10)
    short, long = calls(400), calls(1600)
    assert long < 4.4 * short


@given(st.text(max_size=80))
def test_any_text_comes_through_without_an_element_of_its_own(text):
    made = Outline(prose(text))
    assert {(tag, attrs["class"]) for tag, attrs in made.found} <= {("span", "sz-sign")}
    hidden = {c for c in made.text if unicodedata.category(c) in ("Cc", "Cs")}
    assert hidden <= {"\n", "\t"}

    def seen(shown):
        kept = [c for c in HIDDEN.sub("", shown) if unicodedata.category(c) not in ("Cc", "Cf")]
        return without_signs("".join(kept))

    text = re.sub("[\ud800-\udfff]", "", text)
    assert seen(Outline(prose(text)).text) == seen(visible_signs(text))


UNSEEN = "\u3164\u115f\u2800\uffa0\u034f\u180b\ufe01\U000e0100\U000e01ef\U0001d173"
NEEDED = ("👩\u200d🔬", "❤\ufe0f", "1\ufe0f\u20e3", "می\u200cخواهم", "PDF\u200cها", "क्\u200dष")


def test_texts_that_differ_in_what_nobody_sees_differ_on_the_page():
    for char in UNSEEN:
        with case(char):
            assert f"⟨{ord(char):04X}⟩" in prose(f"to{char}day")
            assert f"⟨{ord(char):04X}⟩" in visible(f"to{char}day")
    for char in "\u200c\u200d":
        assert visible(f"to{char}day {char}") == f"to⟨{ord(char):04X}⟩day ⟨{ord(char):04X}⟩"
    assert visible("to\ufe0fday 1\ufe0e") == "to⟨FE0F⟩day 1⟨FE0E⟩"
    for text in NEEDED:
        with case(text):
            assert visible(text) == text == Outline(prose(text)).text
