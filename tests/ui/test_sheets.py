"""Sheets of rows: each verdict one key, one touch or one request, stored by itself at once."""

import json
import re

import httpx
import pytest

from szpo.voting.counting import HARMFUL, missing
from szpo_ui import component, credentials, operator_page, screens
from szpo_ui.ballots import Ballot, extend
from szpo_ui.component import Action, act
from szpo_ui.formatting import TAGS
from szpo_ui.screens import Facts, Progress
from tests.support.browser import CALL, MINUS, PLUS, panel_call
from tests.support.cases import case
from tests.support.operator_page import text as text_of
from tests.support.outline import Outline, html, row, shown
from tests.support.panel_states import (
    CALLS,
    GIVE,
    PHONE,
    agree,
    hold,
    saved,
    until,
    visit,
    wait_held,
)
from tests.support.xss_corpus import PAYLOADS

pytest_plugins = ["tests.support.browser", "tests.support.panel_states"]
PAGES = ("panelist",)
ROWS = (
    "optimizer.D=1", "optimizer.N=16", "optimizer.M=1", "panel.sheet=8",
)  # fmt: skip
of_rows = pytest.mark.parametrize("stage", [{"sets": ROWS}], indirect=True)
HERE = "document.activeElement.dataset.number || document.activeElement.id"
BLIND = re.compile(r"plus|minus|seed|radius|\bmu\b|\"k\"|model|theta|adapter|score", re.IGNORECASE)
TAB, OTHER = "tab-0001", "tab-0002"


def votes(stage):
    return [(vote["choice"], vote["revision"]) for vote in stage.ledger.votes()]


def verdicts(page):
    return page.locator(".sz-row").evaluate_all("rows => rows.map(row => row.dataset.verdict)")


@of_rows
def test_a_sheet_by_keyboard_alone_stores_each_verdict_for_the_right_policy(stage, ann):
    assert ann.evaluate(HERE) == "1" and "Sheet 1 of about" in ann.inner_text(".sz-round")
    for key in ("Control+ArrowLeft", "Shift+ArrowRight", "Tab", "Enter"):
        ann.keyboard.press(key)  # no verdicts; Enter goes to the first row without one
    assert not stage.ledger.votes() and ann.evaluate(HERE) == "1"
    sides = ann.locator(".sz-row:first-child .sz-option").all_inner_texts()
    for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown", "s", "h"), 2):
        ann.clock.fast_forward(20_000)
        ann.keyboard.press(key)
        assert ann.evaluate(HERE) == str(number)
    for _ in range(4):
        ann.keyboard.press("ArrowUp")
    assert ann.evaluate(HERE) == "2"
    ann.keyboard.press("ArrowLeft")  # changed; then on, past what is judged
    assert ann.evaluate(HERE) == "6"
    ann.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true}))")
    ann.keyboard.press("?")
    ann.uncheck("#sz-keys")
    ann.keyboard.press("ArrowLeft")  # a dialog is open
    ann.keyboard.press("Escape")
    ann.keyboard.press("1")  # single keys are off; arrows are none
    for key in ("ArrowDown", "ArrowLeft", "ArrowRight"):
        ann.keyboard.press(key)
    assert ann.evaluate(HERE) == "sz-next"
    saved(ann)
    assert verdicts(ann) == ["A", "A", "tie", "skip", HARMFUL, "tie", "A", "B"]
    assert not ann.locator(".sz-row:nth-child(5) .sz-text").first.is_visible()
    assert votes(stage) == [
        ("A", 0), ("B", 0), ("tie", 0), ("skip", 0), ("skip", 0), ("A", 1), ("tie", 0), ("A", 0),
        ("B", 0),
    ]  # fmt: skip
    # Each of the first five took twenty seconds, counted from the verdict before it.
    assert all(20_000 <= vote["dwell_ms"] < 40_000 for vote in stage.ledger.votes()[:5])
    counted = stage.site.service.counted(0)
    assert len(counted) == 6 and missing(stage.ledger, 0) == 8
    assert counted[0].verdict == ("plus" if PLUS in sides[0] else "minus")
    assert (PLUS in sides[0]) != (MINUS in sides[0])
    ann.keyboard.press("Enter")
    ann.wait_for_selector("[data-do=undo]")
    assert ann.evaluate(HERE) == "1" and verdicts(ann) == [""] * 8
    assert "Sheet 2 of about" in ann.inner_text(".sz-round")
    ann.keyboard.press("ArrowUp")  # the way back over the first row is undo
    until(ann, "sheet", revises="1")
    assert ann.evaluate(HERE) == "8" and verdicts(ann)[-1] == "B"
    ann.keyboard.press("ArrowDown")
    saved(ann)
    assert votes(stage)[-1] == ("tie", 1)
    ann.keyboard.press("Enter")
    until(ann, "sheet", revises="")
    ann.wait_for_selector(".sz-row:focus[data-number='1']")


def tap(page, number, option):
    """Touch an answer (A or B), or Same, of a row, once the page has come to rest."""
    page.wait_for_selector(f".sz-row:focus[data-number='{number}']")
    page.clock.run_for(400)  # a touch too soon after the last verdict is not one
    page.locator(f".sz-row[data-number='{number}'] .sz-option:has([value={option}])").tap()


@of_rows
def test_who_leaves_after_five_by_thumb_has_given_five_and_finds_the_other_three(stage, panelist):
    agree(stage, "P-01", "P-02")
    stage.advance()
    context = panelist("P-01", **PHONE, reduced_motion="reduce")
    page = visit(context, stage)
    until(page, "sheet")
    given = ("B", "A", "tie", "B", "A")
    for number, option in enumerate(given, 1):
        tap(page, number, option)
    texts = page.locator(".sz-row .sz-text").all_inner_texts()
    with page.expect_event("close"):  # at once: nothing waits for the last verdict
        page.close(run_before_unload=True)
    page = visit(context, stage)
    until(page, "sheet")
    assert page.locator(".sz-row .sz-text").all_inner_texts() == texts
    assert verdicts(page) == [*given, "", "", ""]
    assert votes(stage) == [(choice, 0) for choice in given]
    box = page.locator(".sz-row:first-child .sz-option").evaluate_all(
        "options => options.map(n => n.getBoundingClientRect()).map(r => [r.left, r.top])"
    )
    assert box[0][0] == box[1][0] and box[0][1] < box[1][1] < box[2][1]  # A, then B, then Same
    for number in (6, 7, 8):
        tap(page, number, "A")
    page.tap("#sz-next")
    page.tap("[data-do=undo]")
    until(page, "sheet", revises="1")
    tap(page, 8, "B")
    saved(page)
    assert len({vote["assignment"] for vote in stage.ledger.votes()}) == 8
    assert votes(stage)[-1] == ("B", 1)


@of_rows
def test_a_verdict_is_kept_through_lost_requests_replies_and_reloads_and_stored_once(stage, ann):
    held = hold(ann, GIVE)
    ann.keyboard.press("ArrowLeft")
    wait_held(ann, held, 1)
    held[0].fetch()  # it is stored, and the reply is lost
    held[0].abort()
    ann.wait_for_selector("#szpo-root[data-problem=not-saved]")
    ann.keyboard.press("ArrowRight")
    ann.keyboard.press("ArrowUp")
    ann.keyboard.press("ArrowDown")  # the second row: B, then changed
    assert "Not saved yet: 3" in ann.inner_text("#sz-hint")
    assert votes(stage) == [("A", 0)]
    ann.reload()
    until(ann, "sheet")
    assert verdicts(ann)[:3] == ["A", "tie", ""]
    ann.unroute(CALLS)
    ann.clock.fast_forward(20_000)
    saved(ann)
    ann.wait_for_selector("#szpo-root:not([data-problem=not-saved])")
    assert votes(stage) == [("A", 0), ("B", 0), ("tie", 1)]
    assert ann.evaluate("sessionStorage['szpo.outbox']") == "[]"


@of_rows
def test_the_end_of_a_round_takes_no_verdict_and_no_focus_shows_a_side(stage, ann):
    ann.keyboard.press("ArrowLeft")
    saved(ann)
    ring = "n => getComputedStyle(n).outlineStyle"
    assert {ann.locator(".sz-option").nth(i).evaluate(ring) for i in range(6)} == {"none"}
    assert ann.locator(".sz-row:focus").evaluate(ring) == "solid"
    others(stage, "P-02")
    stage.clock.forward(601)
    others(stage, "P-02")
    stage.advance()
    ann.clock.fast_forward(4_000)
    ann.wait_for_selector("#szpo-root[data-step='1']")
    assert "your votes on it are saved" in ann.inner_text("#sz-notice")
    assert "Votes in round 1: 16" in ann.inner_text(".sz-intro")
    assert verdicts(ann) == [""] * 8 and ann.locator("[data-do=undo]").count() == 0


def others(stage, name):
    """A panelist without a browser answers all rows that are free."""
    person = stage.panelist(name)
    while sheet := stage.site.service.sheet(person, 8, tab="none"):
        for seat in sheet:
            give(stage, person, seat.id, tab="none")


def give(stage, person, seat, choice="A", tab=TAB, **more):
    """Send a verdict as the page does."""
    key = f"{seat}-{choice}"
    ballot = Ballot(assignment=seat, choice=choice, idem=key, tab=tab, **more)
    with stage.ledger.transaction("votes"):
        return component.give_verdict(stage.site, person, ballot)


@pytest.fixture
def ada(staged):
    """A run without a server, and the page of a person who has agreed."""
    stage = staged(sets=ROWS)
    person = stage.site.service.enroll("person", "ada")
    stage.ledger.record_event("consent", person, {"panelist": person})

    def do(what, tab=TAB, **more):
        stage.site.tabs.note(person, tab)
        return act(stage.site, person, "ada", Action(do=what, tab=tab, **more))

    return stage, person, do


def test_too_fast_is_said_of_each_row_by_its_own_time_and_seen_of_no_more_than_there_are(ada):
    stage, person, do = ada
    first, second, third, *_ = (pair.seat for pair in do("open").paper().pairs)
    give(stage, person, first, dwell_ms=60_000, details={"seen": 8})  # served this moment
    stage.clock.forward(9)
    give(stage, person, second, dwell_ms=9_000)
    give(stage, person, third, dwell_ms=500)
    details = [json.loads(vote["details"]) for vote in stage.ledger.votes()]
    assert [each["fast"] for each in details] == [True, False, True]
    assert {each["rows"] for each in details} == {1} and details[0]["seen"] == 1


def test_a_seat_that_no_tab_has_yet_is_held_for_any(ada):
    stage, person, _ = ada
    (seat,) = stage.site.service.sheet(person, 1)
    stage.clock.forward(500)
    held = extend(stage.site, person, seat.id, TAB)
    assert held is not None and held - stage.clock() > 590e6


def test_a_sheet_moves_rests_and_stays_as_a_whole(ada):
    stage, person, do = ada
    stage.site.service.spare = 0
    at = do("open")
    seats = [pair.seat for pair in at.paper().pairs]
    for seat in seats[:5]:
        give(stage, person, seat)
    assert do("open", OTHER).state == "other-tab"
    taken = do("use-tab", OTHER)
    assert [pair.seat for pair in taken.paper().pairs] == seats
    assert taken.shows["verdicts"] == dict.fromkeys(seats[:5], "A") and taken.seat == seats[5]
    refused = give(stage, person, seats[6], "B")
    assert refused["elsewhere"] and refused["choice"] is None
    stage.clock.forward(500)
    assert extend(stage.site, person, seats[5], OTHER)
    kept = do("look", OTHER)
    assert kept.lease_s > 590 and [pair.seat for pair in kept.paper().pairs] == seats
    do("break", OTHER, seat=seats[5])
    released = [screens.seat_row(stage.site, person, s)["released_us"] for s in seats]
    assert [each is not None for each in released] == [False] * 5 + [True] * 3
    bob = stage.site.service.enroll("person", "bob")
    assert len(stage.site.service.sheet(bob, 32)) == 11
    assert do("back", OTHER).state == "waiting"  # bob has the others


def test_sheets_are_counted_with_what_is_left_for_this_panelist():
    done = Progress(done=40, planned=160, given=12)
    facts = Facts(done, people=3, vote_s=9.0, sheet=8, before=2)
    assert (facts.share, facts.sheets, facts.share_s) == (40, 2 + 5, 360.0)
    study = Facts(Progress(40, 160), people=3, vote_s=9.0, sheet=8, before=1, asked=4)
    assert (study.share, study.sheets) == (4, 2)


def test_the_operator_is_told_of_harmful_rows_until_somebody_takes_it_back(ada):
    stage, person, do = ada
    first, second, *_ = (pair.seat for pair in do("open").paper().pairs)
    for seat in (first, second):
        give(stage, person, seat, "skip", skip_reason=HARMFUL)
    assert do("look").shows["verdicts"] == {first: HARMFUL, second: HARMFUL}
    told = operator_page.page(stage.site)
    assert "! Pairs called harmful: 2." in text_of(told)
    assert 'href="votes?before=3#v-2"' in told and 'href="votes?before=2#v-1"' in told
    give(stage, person, first, "tie")
    assert "Pairs called harmful: 1." in text_of(operator_page.page(stage.site))
    others(stage, "P-02")
    stage.clock.forward(601)
    others(stage, "P-02")
    stage.advance()
    listed = text_of(operator_page.render_votes(stage.site, 3))
    assert "harmful Could not judge" in listed


def test_texts_of_models_and_prompts_stay_text_on_a_sheet():
    plain = {tag for tag, _ in Outline(html("sheet")).found} | {"details", "summary", "ol", "li"}
    for text in PAYLOADS:
        with case(text):
            rows = (row(text, f"{text} **more**", prompt=text, earlier=(("user", text),)),)
            made = Outline(html("sheet", sheet=shown(order=(0,), rows=rows)))
            assert {tag for tag, _ in made.found} <= plain | TAGS
            assert not [name for _, attrs in made.found for name in attrs if name[:2] == "on"]


@of_rows
def test_the_api_serves_a_sheet_blind_and_again_with_what_was_said(stage):
    stage.advance()
    with stage.client("panelist", "P-01") as client, stage.client("panelist", "P-02") as other:
        answer = client.post("/api/sheet", json={"tab": "t1"})
        found = answer.json()
        assert found["question"] == "Which answer do you like better?" and len(found["rows"]) == 8
        assert not BLIND.search(answer.text), "no side, policy or score"
        sides = {
            each["assignment"]: each["plus_side"]
            for each in stage.ledger.query("SELECT assignment, plus_side FROM assignments")
        }
        assert sorted(sides.values()) == ["A"] * 4 + ["B"] * 4
        for each in found["rows"]:
            assert (PLUS in each["a"]) == (sides[each["assignment"]] == "A")
            assert (MINUS in each["a"]) != (PLUS in each["a"]) and each["choice"] is None
        sent = {"assignment": found["rows"][0]["assignment"], "choice": "tie", "idem": "k" * 16}
        for _ in range(2):
            answer = client.post("/api/votes", json={**sent, "tab": "t1"})
            assert answer.json()["counted"] is True and not BLIND.search(answer.text)
        again = client.post("/api/sheet", json={"tab": "t1"}).json()
        assert [r["assignment"] for r in again["rows"]] == [r["assignment"] for r in found["rows"]]
        assert [each["choice"] for each in again["rows"]] == ["tie", *[None] * 7]
        theirs = other.post("/api/sheet", json={"tab": "t1"}).json()["rows"]
        assert not {r["assignment"] for r in theirs} & set(sides)
        stolen = other.post("/api/votes", json={**sent, "tab": "t1"})
        assert stolen.status_code == 404
        said = [{"assignment": r["assignment"], "idem": r["assignment"]} for r in found["rows"]]
        for each in said[1:]:  # a whole sheet at once is no flood
            answer = client.post("/api/votes", json={**each, "choice": "A", "tab": "t1"})
            assert answer.status_code == 200
    assert votes(stage) == [("tie", 0)] + [("A", 0)] * 7


@of_rows
def test_whoever_comes_by_an_open_link_gives_as_many_verdicts_as_it_asks_for(stage):
    stage.advance()
    token = credentials.make_open_link(stage.ledger, 2, 3, None, 1.0)
    secret, _ = credentials.arrive(stage.ledger, token, "")
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=stage.url, headers=headers, timeout=30) as client:
        rows = client.post("/api/sheet", json={"tab": "t1"}).json()["rows"]
        assert len(rows) == 3
        for row in rows:
            given = {"assignment": row["assignment"], "choice": "A", "idem": row["assignment"]}
            assert client.post("/api/votes", json={**given, "tab": "t1"}).status_code == 200
        for door in ("sheet", "assignment"):
            assert client.post(f"/api/{door}", json={"tab": "t1"}).status_code == 204


@of_rows
def test_a_closing_page_hands_over_what_it_kept_in_the_order_in_which_it_was_said(stage):
    stage.advance()
    with stage.client("panelist", "P-01") as client:
        row = client.post("/api/sheet", json={"tab": TAB}).json()["rows"][0]["assignment"]
        said = [{"assignment": row, "choice": c, "idem": c * 16, "tab": TAB} for c in "BA"]
        kept = [said[0], "no ballot", {**said[0], "assignment": "0" * 32}, said[1], *said]
        for ballots in (kept, None, 7):
            call = panel_call(client, "gone", tab=TAB, ballots=ballots)
            assert client.post(CALL, json=call).status_code == 200
    assert votes(stage) == [("B", 0), ("A", 1)]


def test_a_run_of_batches_has_no_sheets(stage):
    stage.advance()
    with stage.client("panelist", "P-01") as client:
        answer = client.post("/api/sheet", json={"tab": "t1"})
    assert (answer.status_code, answer.json()["error"]) == (409, "batches")
