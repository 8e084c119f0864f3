"""The page's HTML for every state, without a browser; and what its source must never hold."""

import re
from typing import get_args

from szpo_ui.panel import render
from szpo_ui.panel.screens import Facts, Progress, State
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


def test_a_participant_without_a_code_is_asked_for_none_when_the_session_ends():
    made = html("vote", study=Standing(votes=1, needed=3, over=False))
    assert "Open the study from Prolific again" in made and "sz-login-form" not in made
    assert "sz-login-form" in html("vote")
