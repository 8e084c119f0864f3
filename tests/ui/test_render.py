"""The page's HTML for every state, without a browser; and what its source must never hold."""

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from szpo_ui.languages import texts
from szpo_ui.panel import page as panel_page
from szpo_ui.panel import render
from szpo_ui.panel.facts import Facts, Progress
from szpo_ui.panel.screens import Answered, Feedback, State
from szpo_ui.prolific.participants import Standing
from tests.support.cases import case
from tests.support.outline import ASKED, Outline, html, screen, shown, status


def test_every_state_is_well_formed_with_one_heading_and_no_second_main():
    for state in get_args(State):
        with case(state):
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


def test_no_state_names_what_is_behind_a_letter():
    for state in get_args(State):
        with case(state):
            made = html(state)
            for secret in ("plus", "minus", "secret-comparison", "secret-panelist", "seed"):
                assert secret not in made


def test_sides_swap_and_nothing_else_does():
    one, other = (render.page(screen("vote", sheet=shown(side)), ASKED) for side in "AB")
    assert len(one) == len(other) and sorted(one) == sorted(other) and one != other


def test_prompts_stand_in_the_seats_order_and_equal_ones_apart():
    made = shown(order=(2, 1, 0))
    assert [pair.row for pair in made.pairs] == [1, 0] and [p.row for p in made.same] == [2]
    assert made.words == 2 + 2 * 3 + 2 + 2 + 0  # two prompts, two answers, a cut one, an empty one


def test_special_answers_are_reported():
    made = html("vote")
    assert "(empty answer)" in made and made.count("cut at the length limit") == 1
    assert re.search(r"Instruction</b>\s*<div[^>]*>Be &lt;brief&gt;\.</div>", made)
    assert "1 prompt got the same answer twice" in made


def test_what_an_operator_wrote_is_text_too():
    made = html("vote")
    assert "Which &lt;b&gt;set&lt;/b&gt;?" in made and "Be &amp; stay fair." in made
    paused = html(
        "paused", status=status(state="paused", paused_by="x", pause_reason="<u>now</u>")
    )
    assert "&lt;u&gt;now&lt;/u&gt;" in paused


def test_header_and_reading_time():
    made = Outline(html("vote", number=2)).text
    reported = re.sub(r"\s+", " ", made)
    assert (
        "Round 14 of 30" in reported
        and "your comparison 2" in reported
        and "5 of 8 votes in" in reported
    )
    assert "2 of 3 prompts differ · about 1 min to read" in reported


def test_waiting_tells_what_was_saved_and_offers_a_change_only_while_it_is_possible():
    given = (Answered("seat-1", 1, "B", 0), Answered("seat-2", 2, "tie", 0))
    can = html("waiting", answered=given, may_change=True, calibration=True)
    cannot = html("waiting", answered=given, may_change=False, status=status(state="generating"))
    assert can.count('data-do="revise"') == 2 and 'data-do="calibrate"' in can
    assert "about 50 seconds" in can and "B is better" in can
    assert 'data-do="revise"' not in cannot and "your votes stand" in cannot


def test_many_votes_are_a_bar_and_few_are_dots():
    dots = re.compile("<i[ >]")
    assert len(dots.findall(html("waiting"))) == 8
    assert not dots.findall(html("waiting", status=status(votes_needed=40)))


def test_calibration_mentions_a_round_only_if_it_is_new_to_the_panelist():
    assert "Round 14 is ready." in html("calib", fresh=True)
    assert "is ready" not in html("calib", fresh=False)


def test_feedback_shows_what_was_answered_and_expected():
    reported = html("feedback")
    assert "You said: A is better. Expected: B is better." in reported
    assert "That’s how most people see it." in html("feedback", feedback=Feedback("B", "B"))


def test_sentences_have_no_blank_that_nothing_fills():
    spare = re.compile(r"\{(?!\w+\})")
    for text in (*texts.ENGLISH.notices.values(), *texts.ENGLISH.live.values()):
        assert not spare.search(text)
    script = panel_page.head()
    for name in re.findall(r"\bT\.(\w+)", script):
        assert f'"{name}":' in script, name


def test_every_part_of_the_script_is_on_the_page_once():
    folder = Path(panel_page.__file__).parents[1] / "static" / "panel"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(panel_page.SCRIPTS)
    assert panel_page.script().count('"use strict"') == 1
    assert panel_page.head().count(panel_page.script()) == 1


def test_the_source_keeps_to_what_is_safe():
    source = inspect.getsource(panel_page)
    for word in ("gr.State(", "share=True", ".unload", "gr.Timer", "html_template", "js_on_load"):
        assert word not in source
    events = re.findall(
        r"(?:made\.load|button\.click|sent\.failure)\((.*?)\n? *\)\n", source, re.S
    )
    assert len(events) == 3 and all("**quietly" in event for event in events)
    assert '"queue": False, "api_visibility": "private"' in source
    script = panel_page.head()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "new Function", "http://", "https://"):  # fmt: skip
        assert word not in script.replace("http://www.w3.org/2000/svg", ""), word
    templates = render._environment("en").loader.list_templates()
    for name in templates:
        if name.startswith("panel/"):
            body = render._environment("en").loader.get_source(render._environment("en"), name)[0]
            assert "|safe" not in body.replace(" ", "") and "autoescape" not in body


def facts(**changes):
    given = {
        "progress": Progress(0, 40, 240), "people": 6, "vote_s": 95.0, "who": None,
        "contact": None, "pay": None, "ends": None, "privacy_url": None, "consent": None,
    }  # fmt: skip
    return Facts(**{**given, **changes})


def test_the_welcome_page_says_what_decides_whether_people_stay():
    made = html(
        "welcome",
        facts=facts(
            who="Lab <L>", contact="lab@example.org", pay="12 EUR an hour", ends="2026-12-31",
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


def test_what_an_operator_did_not_give_has_no_label_on_the_welcome_page():
    made = html("welcome", facts=facts(people=1))
    assert "200 comparisons are left" in made and made.count("<dt>") == 2
    over = html("welcome", facts=facts(progress=Progress(0, 240, 240)))
    assert "<dt>" not in over and "<time" not in over
    for label in ("fact_pay", "fact_who", "fact_contact", "fact_ends", "fact_privacy"):
        assert f">{texts.ENGLISH.page[label]}<" not in made


@pytest.mark.parametrize("state", ["vote", "closed", "calib", "final", "practice", "waiting"])
def test_screens_of_voting_say_how_much_is_done_and_left(state):
    assert "12 by you · 41 of 240 in all, 199 left" in html(state, progress=Progress(12, 41, 240))


def test_a_round_whose_votes_are_all_in_is_not_waited_for():
    some, all_in = html("waiting"), html("waiting", status=status(votes_in=8))
    assert "Waiting for the others" in some and "5 of 8" in some
    assert "Waiting for the others" not in all_in
    assert "The next round is on its way" in all_in and 'aria-current="step">Update' in all_in


def test_a_participant_without_a_code_is_asked_for_none_when_the_session_ends():
    made = html("vote", study=Standing(votes=1, needed=3, over=False))
    assert "Open the study from Prolific again" in made and "sz-login-form" not in made
    assert "sz-login-form" in html("vote")
