"""The panelist's screen and its sentences: all from one file; how texts are set."""

import re
from typing import get_args

from szpo.config.sentences import ENGLISH
from szpo.config.tables import Panel
from szpo.ledger.canonical import canonical, sha256
from szpo.types import Choice
from szpo_ui import component
from szpo_ui.credentials import Standing
from szpo_ui.markup import KEYS
from szpo_ui.screens import Facts, Progress, State
from tests.support.cases import case
from tests.support.outline import ASKED, Outline, html, screen, shown, status

pytest_plugins = ["tests.support.browser"]


def test_the_codes_that_python_shows_and_stores_have_sentences():
    assert set(ENGLISH.choices) == set(get_args(Choice))
    assert set(ENGLISH.shortcuts) == {name for keys in KEYS.values() for name in keys}
    for code in (*component._REFUSALS.values(), *component._CLOSED.values()):
        assert code in ENGLISH.notices
    used = set(re.findall(r"\bT\.(\w+)", component.script()))
    assert used <= set(component.spoken()) and len(used) > 20


def test_the_default_rubric_is_of_the_sentences_and_an_operators_own_is_not(staged):
    assert staged("batches").site.rubric == Panel(kind="people")
    asked = staged("rows", sets=["optimizer.D=1", "panel.question=Which is kinder?"]).site.rubric
    assert asked.question == "Which is kinder?"
    assert asked.brief == ENGLISH.page["guideline_default_rows"]
    assert asked.full == ENGLISH.page["guideline_full_default_rows"]
    own = staged("own", sets=["optimizer.D=1"]).site.rubric
    assert own.question == "Which answer do you like better?"


def test_consent_hashes_the_wording_that_was_shown(staged):
    site = staged(begun=False).site
    panelist = site.service.enroll("person", "P-01")
    component.act(site, panelist, "P-01", component.Action(do="agree", tab="tab-0001"))
    (event,) = site.ledger.events("consent")
    told = sha256(canonical(ENGLISH.consent(moves=True)))
    assert event["body"] == {"panelist": panelist, "text": told}


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
        assert pair.a.text == on_a


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
