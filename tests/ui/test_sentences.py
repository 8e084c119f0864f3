"""The panelist's screen and its sentences: all from one file; how texts are set."""

import dataclasses
import re
from typing import get_args

from szpo.config import sentences
from szpo.config.tables import Panel
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Choice
from szpo_ui import app, component
from szpo_ui.credentials import Standing
from szpo_ui.markup import ENGLISH, KEYS, Sentences, of_record
from szpo_ui.screens import Facts, Progress, State
from tests.support.browser import context, serve, violations
from tests.support.cases import case
from tests.support.outline import ASKED, Outline, html, screen, shown, status
from tests.support.panel_states import until

pytest_plugins = ["tests.support.browser"]


def quoted(value):
    """Every sentence between quotation marks, with HTML in it: a translation of its own."""
    if isinstance(value, dict):
        return {name: quoted(part) for name, part in value.items()}
    return [quoted(part) for part in value] if isinstance(value, list) else f"«{value}<u>»"


QUOTED = of_record({**quoted(sentences.ENGLISH), "lang": "fr-CA"})


def texts(value):
    """Every sentence of a table."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value
    return set().union(*map(texts, parts))


def test_every_state_says_the_given_sentences_and_none_of_its_own():
    english = texts(ENGLISH.page) | texts(ENGLISH.choices) | texts(ENGLISH.reasons)
    for state in get_args(State):
        with case(state):
            made = Outline(html(state, QUOTED))
            assert made.found[0][1]["lang"] == "fr-CA"
            spoken = {line.strip() for line in made.text.splitlines()}
            labels = {attrs[name] for _, attrs in made.found for name in ("aria-label", "title")
                      if name in attrs}  # fmt: skip
            assert not (spoken | labels) & english
            assert "u" not in {tag for tag, _ in made.found}, "a sentence is text"


def test_the_codes_that_python_shows_and_stores_have_sentences():
    assert set(ENGLISH.choices) == set(get_args(Choice))
    assert set(ENGLISH.shortcuts) == {name for keys in KEYS.values() for name in keys}
    for code in (*component._REFUSALS.values(), *component._CLOSED.values()):
        assert code in ENGLISH.notices
    used = set(re.findall(r"\bT\.(\w+)", component.script(ENGLISH)))
    assert used <= set(component.spoken(ENGLISH)) and len(used) > 20


def test_the_default_rubric_is_of_the_sentences_and_an_operators_own_is_not(staged):
    assert staged("batches").site.rubric == Panel(kind="people")
    rows = staged("rows", sets=["optimizer.D=1", "panel.question=Which is kinder?"])
    mixed = spoken_by(rows, QUOTED).rubric
    assert mixed.question == "Which is kinder?"
    assert mixed.brief == QUOTED.page["guideline_default"]
    assert mixed.full == QUOTED.page["guideline_full_default_rows"]
    assert spoken_by(staged("own", sets=["optimizer.D=1"]), ENGLISH).rubric.question == (
        "Which answer is better?"
    )


def spoken_by(stage, own: Sentences):
    """The stage's site with these sentences."""
    return dataclasses.replace(stage.site, sentences=own)


def test_consent_hashes_the_wording_that_was_shown(staged):
    site = spoken_by(staged(begun=False), QUOTED)
    panelist = site.service.enroll("person", "P-01")
    component.act(site, panelist, "P-01", component.Action(do="agree", tab="tab-0001"))
    (event,) = site.ledger.events("consent")
    told = sha256(canonical(QUOTED.consent(moves=True)))
    assert event["body"] == {"panelist": panelist, "text": told}


def test_a_run_speaks_its_sentences_from_the_login_to_the_vote(staged, chromium):
    stage = staged()
    with serve(app.create(spoken_by(stage, QUOTED), pages=("panelist",))) as stage.url:
        page = context(chromium, stage, "panelist", "P-01", locale="de-DE").new_page()
        page.goto(f"{stage.url}/login")
        assert page.title() == "«Log in<u>» – szpo"
        page.get_by_label("«Name<u>»").fill("P-01")
        page.get_by_role("button", name="«Log in<u>»").click()
        page.get_by_role("alert").filter(has_text="«Give your name and your code.<u>»").wait_for()
        page.goto(f"{stage.url}/panel/")
        until(page, "welcome")
        assert page.evaluate("document.documentElement.lang") == "fr-CA"
        assert page.inner_text("h1") == "«Welcome to the panel<u>»"
        assert violations(page) == []
        page.click("[data-do=agree]")
        until(page, "vote")
        assert page.title() == "«Round 1 · szpo<u>»"
        assert "«3 prompts not read yet<u>»" in page.inner_text("#sz-hint")


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
    one, other = (component.render_page(screen("vote", sheet=shown(side)), ASKED) for side in "AB")
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
    held = status(state="paused", paused_by="x", pause_reason="<u>now</u>")
    paused = html("paused", status=held)
    assert "&lt;u&gt;now&lt;/u&gt;" in paused


def test_the_welcome_page_says_what_decides_whether_people_stay():
    made = html(
        "welcome",
        facts=Facts(Progress(40, 240), people=6, vote_s=95.0),
        asked=Panel(
            consent="Lab <L>, lab@example.org: 12 EUR an hour.\nMy own <b>terms</b>.",
        ),
    )  # fmt: skip
    reported = re.sub(r"\s+", " ", Outline(made).text)
    assert "comparisons for you: about 34, of 200 that are left for 6 people" in reported
    assert "at most about 2 minutes of reading each, about 54 minutes in all" in reported
    for told in ("Lab <L>", "lab@example.org", "12 EUR an hour", "My own <b>terms</b>."):
        assert told in reported


def test_a_participant_without_a_code_is_asked_for_none_when_the_session_ends():
    made = html("vote", study=Standing(votes=1, needed=3, finished=False, code="C1ABCDEF"))
    assert "Open your link again" in made and "sz-login-form" not in made
    assert "C1ABCDEF" not in made, "before they have finished"
    assert "sz-login-form" in html("vote")
