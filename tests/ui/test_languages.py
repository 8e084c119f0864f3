"""The panelist's screen in several languages: complete and short; how texts are set."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.config.run_sections import Panel
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Choice
from szpo_ui.panel import actions, component, render
from szpo_ui.panel.screens import Facts, Progress, State
from szpo_ui.web import language as texts
from szpo_ui.web.open_link import Standing
from tests.support.cases import case
from tests.support.outline import ASKED, Outline, html, screen, shown, status

pytest_plugins = ["tests.support.browser"]
TRANSLATED = [code for code in texts.LANGUAGES if code != "en"]
TABLES = (
    "choices", "reasons", "signs", "times", "shortcuts", "page", "notices", "live", "entrance",
)  # fmt: skip


def sentences(language):
    """Every sentence by its path: page.help, page.welcome_steps.0.1."""

    def walk(path, value):
        if isinstance(value, str):
            yield path, value
        else:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            for name, part in parts:
                yield from walk(f"{path}.{name}", part)

    return {path: text for table in TABLES for path, text in walk(table, getattr(language, table))}


ENGLISH = sentences(texts.ENGLISH)


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_every_sentence_with_its_blanks_and_none_in_english(code):
    found = sentences(texts.LANGUAGES[code])
    assert found.keys() == ENGLISH.keys()
    blanks = re.compile(r"\{\w*\}")
    for path, text in found.items():
        assert sorted(blanks.findall(text)) == sorted(blanks.findall(ENGLISH[path])), path
        assert text == text.strip() and text, path
    same = {path for path, text in found.items() if text == ENGLISH[path]}
    words = {path for path in same if re.search(r"[a-z]{3}", re.sub(blanks, "", ENGLISH[path]))}
    german = {f"{where}_{what}" for where in ("page.login", "entrance.login")
              for what in ("name", "code")}  # fmt: skip
    assert words <= german, "where the German words are the English ones"


@pytest.mark.full
def test_every_state_is_whole_in_every_language():
    for state in get_args(State):
        for code in texts.LANGUAGES:
            with case(state, code):
                language = texts.LANGUAGES[code]
                made = Outline(html(state, language))
                root = made.found[0][1]
                assert (root["lang"], root["data-language"]) == (language.tag, code)
                if state != "error":
                    assert html(state, language).count('data-do="language"') >= len(
                        texts.LANGUAGES
                    )
                    assert made.text.count(texts.LANGUAGES["de"].page["unread"]) >= 1
                if code != "en":  # what the template itself says is in no other language
                    told = {text for path, text in ENGLISH.items() if path.startswith("page.")}
                    own = {text for text in sentences(language).values()}
                    spoken = {line.strip() for line in made.text.splitlines()}
                    assert not (spoken & told) - own


def test_the_codes_that_python_shows_and_stores_have_sentences():
    for language in texts.LANGUAGES.values():
        assert set(language.choices) == set(get_args(Choice))
        assert set(language.shortcuts) == set(texts.KEYS)
        assert tuple(language.reasons) == tuple(texts.ENGLISH.reasons)
        for code in (*actions._REFUSALS.values(), *actions._CLOSED.values()):
            assert code in language.notices
    for name in set(re.findall(r"\bT\.(\w+)", component.script())):
        assert all(name in spoken for spoken in component.sentences().values()), name


def test_the_default_rubric_is_translated_and_an_operators_own_is_not():
    german = texts.LANGUAGES["de"]
    assert render.rubric(Panel(), texts.ENGLISH) == Panel()
    mixed = render.rubric(Panel(question="Which is kinder?"), german)
    assert mixed.question == "Which is kinder?"
    assert mixed.guideline == german.page["guideline_default"]
    assert mixed.guideline_full == german.page["guideline_full_default"]


@given(st.text(alphabet="dezhns-;q=0.159,* x", max_size=40), st.sampled_from(["", "xx", "es"]))
def test_whatever_a_browser_sends_some_language_is_chosen(header, chosen):
    found = texts.choose_language(chosen, header)
    assert found.code == "es" if chosen == "es" else found in texts.LANGUAGES.values()


ACCEPTED = [
    (None, "en"), ("", "en"), ("fr", "en"), ("de", "de"), ("de-CH, en", "de"),
    ("en;q=0.5, ES-mx", "es"), ("zh-TW;q=0.8,de;q=0", "zh"), ("*", "en"), ("de;q=9,es", "es"),
    ("en-GB, de", "en"),
]  # fmt: skip


def test_the_browsers_first_known_language_is_taken_by_its_weight():
    for header, code in ACCEPTED:
        with case(header, code):
            assert texts.choose_language("", header).code == code


def test_consent_names_the_language_and_hashes_the_wording_that_was_shown(staged):
    stage = staged(begun=False)
    panelist = stage.site.service.enroll("person", "P-01")
    action = actions.Action(do="agree", tab="tab-0001")
    actions.act(stage.site, panelist, "P-01", action, texts.LANGUAGES["de"])
    (event,) = stage.ledger.events("consent")
    wording = texts.LANGUAGES["de"].page["consent"]
    told = {"language": "de", "text": sha256(canonical(wording))}
    assert event["body"] == {"panelist": panelist, **told}


SECRETS = ("plus", "minus", "secret-comparison", "secret-panelist", "seed")


def test_every_state_is_well_formed_with_one_heading_and_names_nothing_behind_a_letter():
    for state in get_args(State):
        with case(state):
            assert not [secret for secret in SECRETS if secret in html(state)]
            made = Outline(html(state))
            assert len(made.all("h1")) == 1 and not made.all("main") and not made.all("script")
            ids = [attrs["id"] for _, attrs in made.found if "id" in attrs]
            assert len(ids) == len(set(ids))
            root = made.found[0][1]
            assert root["id"] == "szpo-root" and root["data-state"] == state
            for tag, attrs in made.found:
                if tag == "button":
                    assert attrs.get("type") in ("button", "submit")
                assert not [name for name in attrs if name.startswith("on")]
                links = {"#sz-verdict", "/panel-api/finish"}
                assert not {"src", "href"} & set(attrs) or attrs.get("href") in links
                labelled = attrs.get("aria-labelledby")
                assert labelled is None or labelled in ids


def test_sides_swap_and_nothing_else_does():
    one, other = (render.page(screen("vote", sheet=shown(side)), ASKED) for side in "AB")
    assert len(one) == len(other) and sorted(one) == sorted(other) and one != other
    for side, on_a in (("A", "One answer here."), ("B", "One reply here.")):
        (pair,) = (pair for pair in shown(side).pairs if pair.row == 0)
        assert "".join(piece.text for piece in pair.a.pieces) == on_a


def test_prompts_stand_in_the_seats_order_and_equal_ones_apart():
    made = shown(order=(2, 1, 0))
    assert [pair.row for pair in made.pairs] == [1, 0] and [p.row for p in made.same] == [2]
    assert made.words == 2 + 2 * 3 + 2 + 2 + 0  # two prompts, two answers, a cut one, an empty one


def test_what_an_operator_wrote_is_text_too():
    made = html("vote")
    assert "Which &lt;b&gt;set&lt;/b&gt;?" in made and "Be &amp; stay fair." in made
    paused = html(
        "paused", status=status(state="paused", paused_by="x", pause_reason="<u>now</u>")
    )
    assert "&lt;u&gt;now&lt;/u&gt;" in paused


def test_the_welcome_page_says_what_decides_whether_people_stay():
    made = html(
        "welcome",
        facts=Facts(Progress(40, 240), people=6, vote_s=95.0),
        asked=Panel(
            operator_name="Lab <L>", contact="lab@example.org", pay="12 EUR an hour",
            ends="2026-12-31",
            privacy_url="https://example.org/privacy?a=1&b=2", consent="My own <b>terms</b>.",
        ),
    )  # fmt: skip
    reported = re.sub(r"\s+", " ", Outline(made).text)
    assert "about 34 comparisons for you, of 200 that are left for 6 people" in reported
    assert "at most about 2 minutes of reading each, about 54 minutes in all" in reported
    for told in ("Lab <L>", "lab@example.org", "12 EUR an hour", "My own <b>terms</b>."):
        assert told in reported
    assert '<time datetime="2026-12-31">' in made
    (link,) = [attrs for attrs in Outline(made).all("a") if attrs["href"] != "#sz-verdict"]
    assert link["href"] == "https://example.org/privacy?a=1&b=2"
    assert link["rel"] == "noopener noreferrer"


def test_a_participant_without_a_code_is_asked_for_none_when_the_session_ends():
    made = html("vote", study=Standing(votes=1, needed=3, finished=False, code="C1ABCDEF"))
    assert "Open your link again" in made and "sz-login-form" not in made
    assert "C1ABCDEF" not in made, "before they have finished"
    assert "sz-login-form" in html("vote")
