"""The panelist's page in Chromium: what a person does, what is stored, what never leaves.

Waits are for states of the page; the half minute of the soft gate is put forward on its clock.
"""

import json
import re
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest

from szpo_ui import app
from tests.support.browser import (
    CLOSE,
    MINUS,
    NARROW,
    PLUS,
    SCHEMES,
    ZOOMED,
    context,
    misfits,
    serve,
    violations,
    window,
)
from tests.support.panel_states import (
    PHONE,
    ROWS,
    SETS,
    agree,
    answered,
    final_comparison,
    hold,
    open_gate,
    others_vote,
    prompts,
    text,
    until,
    visit,
    vote,
    wait_held,
    walk,
    walk_rows,
)

pytest_plugins = ["tests.support.browser", "tests.support.panel_states"]
PAGES = ("panelist",)

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
  Object.defineProperty(document, "visibilityState",
    {configurable: true, get: () => hidden ? "hidden" : "visible"});
  document.dispatchEvent(new Event("visibilitychange"));
}"""
STATIC = ("stylesheet", "font", "image")
"""Kinds of response that are the same at each visit: each is read once."""
UNNAMED = """(() => {
  const root = document.getElementById("szpo-root"), found = [];
  const named = n => n.getAttribute("aria-label")
    || document.getElementById(n.getAttribute("aria-labelledby"))?.textContent.trim();
  for (const n of root.querySelectorAll("section, article, dialog, [role=group]"))
    if (!named(n)) found.push(n.outerHTML.slice(0, 80));
  if (root.querySelectorAll("header").length !== 1) found.push("header");
  if (document.documentElement.lang !== "en") found.push("lang");
  return found;
})()"""
"""Parts of the page that a screen reader could not name."""


def votes(stage):
    return [(vote["choice"], vote["revision"], vote["late"]) for vote in stage.ledger.votes()]


@pytest.mark.parametrize(
    ("stage", "walk", "most"),
    [
        ({"text": text, "sets": SETS}, walk, {
            "welcome", "idle", "vote", "saving", "waiting", "closed",
            "paused", "break", "other-tab", "error", "finished", "final",
        }),
        ({"text": text, "sets": ROWS}, walk_rows, {"welcome", "sheet", "waiting"}),
    ],
    indirect=["stage"],
)  # fmt: skip
def test_every_state_is_accessible_and_blind_in_both_colours(stage, panelist, walk, most):
    bodies, errors, states, read = [], [], set(), set()

    def heard(response):
        kind = response.request.resource_type
        if "/assets/" in response.url or kind == "script" or response.url in read:
            return
        if response.status == 401:  # Gradio leaves its text unread, so that it never ends
            return
        if kind in STATIC:
            read.add(response.url)
        bodies.append(response)

    def context(name):
        made = panelist(name)
        made.on("response", heard)
        made.on("weberror", lambda error: errors.append(str(error.error)))
        return made

    found = {}
    texts = []
    for name, page in walk(stage, context):
        states.add(page.get_attribute("#szpo-root", "data-state"))
        texts.append(page.content())
        for response in list(bodies):
            try:
                texts.append(response.text())
            except Exception:  # a redirect, or a request that the walk has cut off
                continue
        bodies.clear()
        for scheme, rules in SCHEMES:
            dark = str(scheme == "dark").lower()
            page.evaluate(f"document.body.classList.toggle('dark', {dark})")
            if worst := violations(page, rules=rules):
                found[name, scheme] = worst
        page.evaluate("document.body.classList.remove('dark')")
        for size in (NARROW, ZOOMED):
            if wrong := misfits(page, *size, root="#szpo-root", bar=".sz-bar"):
                found[name, size] = wrong
        assert page.evaluate("document.querySelectorAll('main, [role=main]').length") == 1, name
        assert page.locator("#szpo-root h1").count() == 1, name
        assert page.evaluate(UNNAMED) == [], name
        assert page.title() not in ("", "Gradio"), name
    assert not found
    assert not errors
    assert states >= most
    spec = json.dumps(stage.ledger.spec)
    assert str(stage.ledger.root_seed) in spec  # the ledger knows them, the browser must not
    secret = re.compile(
        r"\b(plus|minus|plus_side|seed|root_seed|sigma|mu|theta|kl_radius|alpha|adapter|amber)\b"
    )
    assert len(texts) > 4 * len(most)
    for each in texts:
        ours = re.sub(r'"?theme_hash"?|<style.*?</style>|<link[^>]*>', "", each, flags=re.S)
        assert not (leak := secret.search(ours)), ours[leak.start() - 80 : leak.end() + 80]
        assert stage.ledger.comparisons(0)[0].id not in each


def test_a_whole_vote_by_keyboard_is_stored_for_the_right_policy(stage, ann):
    ann.keyboard.press("Enter")  # without a choice
    first = ann.get_attribute("#szpo-root", "data-seat")
    for _ in range(3):
        ann.keyboard.press("j")
    assert ann.evaluate("document.activeElement.closest('.sz-pair').dataset.pair") == "3"
    ann.keyboard.press("k")
    ann.keyboard.press("w")
    side = ann.locator(".sz-answer[aria-label='Answer B to prompt 1'] .sz-text").inner_text()
    ann.keyboard.press("ArrowRight")
    assert ann.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert "B is better" in ann.locator("#sz-voice").inner_text() or ann.wait_for_function(
        "document.querySelector('#sz-voice').textContent.includes('B is better')"
    )
    assert "Press Enter" not in ann.inner_text("#sz-voice"), "nothing is sent before all is read"
    open_gate(ann)
    ann.keyboard.press("Enter")
    ann.wait_for_selector("#szpo-root[data-state=vote][data-number='2']")
    row = stage.ledger.votes()[0]
    assert (row["assignment"], row["choice"]) == (first, "B")
    (counted,) = stage.site.service.counted(0)
    assert counted.verdict == ("plus" if PLUS in side else "minus")
    assert (PLUS in side) != (MINUS in side)
    details = json.loads(row["details"])
    assert list(details["notes"].values()) == ["tie"] and details["device"] == "wide"
    assert row["dwell_ms"] >= 31_000
    assert ann.evaluate("document.activeElement.id") == "sz-h1"
    vote(ann, "2")
    until(ann, "waiting")
    assert [v["choice"] for v in stage.ledger.votes()] == ["B", "tie"]


def test_what_is_no_command_changes_nothing(stage, ann):
    def chosen():
        return ann.locator(".sz-choice[aria-pressed=true]").count()

    open_gate(ann)
    for keys in ("Control+1", "Alt+3", "Meta+2", "Shift+ArrowLeft", "Enter", "ArrowDown", "Space"):
        ann.keyboard.press(keys)
        assert chosen() == 0, keys
    ann.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true}))")
    ann.locator(".sz-note input").first.focus()
    ann.keyboard.press("1")
    ann.keyboard.press("ArrowRight")
    assert chosen() == 0
    ann.keyboard.press("Escape")
    ann.locator("#sz-h1").focus()
    ann.keyboard.press("?")
    ann.keyboard.press("3")  # a dialog is open
    ann.uncheck("#sz-keys")
    ann.keyboard.press("Escape")
    ann.keyboard.press("1")  # shortcuts are off
    assert chosen() == 0
    ann.keyboard.press("Tab")
    ann.locator("[data-choice=A]").focus()
    ann.keyboard.press("Enter")  # the native way still works
    assert chosen() == 1
    ann.click("#sz-clear")
    assert chosen() == 0 and not stage.ledger.votes()
    assert ann.evaluate("JSON.parse(localStorage['szpo.prefs.P-01']).keys") is False


SHIFT = 8  # as the browser's protocol numbers it


def test_keys_of_other_keyboards_act_by_their_place(stage, ann):
    """As the keyboard sends them: AZERTY's digits, Cyrillic, Greek, Arabic; Dvorak has letters."""
    wire = ann.context.new_cdp_session(ann)

    def press(key, code, modifiers=0):
        sent = {"key": key, "code": code, "modifiers": modifiers}
        wire.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **sent})
        wire.send("Input.dispatchKeyEvent", {"type": "keyUp", **sent})

    for key, code, modifiers, choice in (
        ("&", "Digit1", 0, "A"), ("\"", "Digit3", 0, "B"), ("à", "Digit0", 0, "tie"),
        ("1", "Digit1", SHIFT, "A"), ("٣", "Digit3", 0, "B"), ("é", "Digit2", 0, "tie"),
        ("1", "Numpad1", 0, "A"), ("!", "Digit1", SHIFT, None), ("ü", "BracketLeft", 0, None),
    ):  # fmt: skip
        press("Escape", "Escape")
        press(key, code, modifiers)
        pressed = ann.locator(".sz-choice[aria-pressed=true]")
        found = pressed.get_attribute("data-choice") if pressed.count() else None
        assert found == choice, (key, code)
    press("'", "KeyQ")  # Dvorak: its Q is elsewhere
    press("é", "KeyW")  # Bépo
    assert not ann.locator(".sz-note input:checked").count()
    for key, code, note in (("й", "KeyQ", "A"), ("ς", "KeyW", "tie"), ("ث", "KeyE", "B")):
        press(key, code)
        first = ann.locator(".sz-note input:checked").first
        assert first.get_attribute("value") == note, (key, code)
    press("?", "Digit7", SHIFT)  # as on a Cyrillic or German keyboard
    assert ann.locator("dialog[open]").count() == 1


def long_answers(step, i, side):
    return ("This\n" if side == "plus" else "That\n") * 30


@pytest.mark.parametrize("stage", [{"text": long_answers}], indirect=True)
def test_the_gate_opens_when_all_is_read_or_after_half_a_minute(stage, ann, panelist):
    ann.emulate_media(reduced_motion="reduce")  # J goes there at once
    ann.keyboard.press("1")
    assert ann.is_disabled("#sz-confirm")
    ann.clock.fast_forward(20_000)
    for _ in range(3):
        ann.keyboard.press("j")
        ann.clock.run_for(2_500)
    ann.wait_for_selector("#sz-jump", state="hidden")
    ann.wait_for_selector("#sz-confirm:enabled")  # read, and long enough
    assert ann.locator(".sz-pair[data-seen]").count() == 3
    ann.keyboard.press("Enter")
    ann.wait_for_selector("#szpo-root[data-number='2']")
    assert json.loads(stage.ledger.votes()[0]["details"])["seen"] == 3

    agree(stage, "P-03")
    small = panelist("P-03", viewport={"width": 320, "height": 440})
    page = visit(small, stage)
    until(page, "vote")
    page.click("[data-choice=B]")
    assert page.is_disabled("#sz-confirm") and page.is_visible("#sz-jump")
    page.clock.fast_forward(31_000)
    page.wait_for_selector("#sz-confirm:enabled")  # nobody is held longer
    assert page.is_visible("#sz-jump")
    # Pairs of three windows each: a page that is read by keys counts each as read.
    room = "innerHeight - document.querySelector('.sz-bar').offsetHeight"
    tall = f"[...document.querySelectorAll('[data-pair]')].map(n => n.offsetHeight / ({room}))"
    assert all(2.5 < windows < 3 for windows in page.evaluate(tall))
    for _ in range(3):
        page.keyboard.press("j")  # which scrolls there smoothly
        page.wait_for_function(
            "document.activeElement.closest('.sz-pair').getBoundingClientRect().top < 20"
        )
        page.clock.run_for(2_500)
    assert page.locator(".sz-pair[data-seen]").count() == 3
    assert page.is_hidden("#sz-jump")


def test_a_vote_stays_being_saved_while_older_requests_end(stage, ann):
    """A poll that fails and a screen that arrives after a double click, asked for before it."""
    ann.keyboard.press("ArrowRight")
    open_gate(ann)
    ann.clock.pause_at(ann.evaluate("Date.now()") / 1000 + 1)  # nothing here takes too long
    held = hold(ann, "/api/status", '"do":')
    ann.clock.fast_forward(4_000)
    wait_held(ann, held, 1)
    ann.evaluate(
        "const look = document.createElement('button'); look.dataset.do = 'look'; "
        "document.getElementById('szpo-root').append(look); look.click()"
    )
    wait_held(ann, held, 2)
    ann.evaluate("const b = document.getElementById('sz-confirm'); b.click(); b.click()")
    until(ann, "saving")
    for _ in range(3):
        ann.keyboard.press("Enter")  # impatient
    poll, look = held
    ann.context.set_offline(True)
    poll.abort()
    ann.wait_for_selector("#sz-offline")
    until(ann, "saving")
    ann.context.set_offline(False)
    look.continue_()
    wait_held(ann, held, 3)
    until(ann, "saving")
    held[-1].continue_()
    until(ann, "vote", number="2")
    assert votes(stage) == [("B", 0, 0)]


def test_a_reload_keeps_the_draft_and_a_second_tab_takes_over_on_request(stage, ann):
    for key in ("q", "j", "e"):  # the first row, though none had the focus, then the second
        ann.keyboard.press(key)
    noted = ann.locator(".sz-note input:checked").evaluate_all("all => all.map((x) => x.value)")
    assert noted == ["A", "B"]
    ann.keyboard.press("ArrowRight")
    answers = ann.locator(".sz-text").all_inner_texts()
    ann.reload()
    until(ann, "vote")
    assert ann.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert ann.locator(".sz-note input:checked").count() == 2

    others = [visit(ann.context, stage) for _ in range(7)]  # eight tabs, one browser
    assert {page.get_attribute("#szpo-root", "data-state") for page in others} == {"other-tab"}
    taken = others[0]
    taken.click("[data-do=use-tab]")
    until(taken, "vote")
    assert taken.locator(".sz-text").all_inner_texts() == answers
    ann.clock.fast_forward(4_000)
    until(ann, "other-tab")
    assert ann.locator("#sz-confirm").count() == 0
    vote(taken, "ArrowLeft")
    assert votes(stage) == [("A", 0, 0)]


def test_a_hidden_tab_says_that_a_round_is_ready_and_begins_when_looked_at(stage, ann):
    vote(ann)
    vote(ann)
    until(ann, "waiting")
    ann.evaluate(HIDE, True)
    others_vote(stage, "ben")
    stage.advance()
    ann.clock.fast_forward(16_000)
    ann.wait_for_function("document.title.startsWith('(1) Round 2')")
    panelist = stage.site.service.enroll("person", "P-01")
    seats = "SELECT 1 FROM assignments JOIN comparisons USING (comparison) "
    held = stage.ledger.query(f"{seats} WHERE step = 1 AND panelist = ?", (panelist,))
    assert not held  # no lease runs while nobody looks
    ann.evaluate(HIDE, False)
    until(ann, "vote", step="1")
    assert ann.title().startswith("Round 2")


def test_a_server_that_dies_while_saving_costs_no_vote(staged, chromium):
    stage = staged()
    agree(stage, "P-01")
    with serve(app.create(stage.site, pages=PAGES)) as stage.url:
        page = visit(context(chromium, stage, "panelist", "P-01"), stage)
        until(page, "vote")
        page.keyboard.press("ArrowRight")
        open_gate(page)
        seat = page.get_attribute("#szpo-root", "data-seat")
    page.keyboard.press("Enter")
    page.wait_for_selector("#szpo-root[data-problem=not-saved]")
    assert "Not saved" in page.locator("#sz-hint").inner_text()
    assert page.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert not stage.ledger.votes()
    with serve(app.create(stage.site, pages=PAGES), urlsplit(stage.url).port):
        until(page, "vote", problem="not-saved", seat=seat)
        assert page.get_attribute("[data-choice=B]", "aria-pressed") == "true"
        page.keyboard.press("Enter")
        page.wait_for_selector("#szpo-root[data-number='2']")
        page.context.close()
    assert votes(stage) == [("B", 0, 0)]


def test_a_session_that_ends_is_renewed_in_place_and_the_choice_is_stored(stage, ann):
    ann.keyboard.press("ArrowLeft")
    ann.context.clear_cookies()
    ann.clock.fast_forward(4_000)
    ann.wait_for_selector("#sz-login[open]")
    assert ann.input_value("#sz-login-name") == "P-01"
    ann.fill("#sz-login-code", "not the code")
    ann.click("#sz-login button[type=submit]")
    ann.wait_for_selector("#sz-login-error:not(:empty)")
    ann.fill("#sz-login-code", stage.invitation("panelist", "P-01").code)
    ann.click("#sz-login button[type=submit]")
    ann.wait_for_selector("#sz-login:not([open])", state="attached")
    assert ann.get_attribute("[data-choice=A]", "aria-pressed") == "true"
    open_gate(ann)
    ann.keyboard.press("Enter")
    ann.wait_for_selector("#szpo-root[data-number='2']")
    assert votes(stage) == [("A", 0, 0)]


def tap_a_vote(page, choice):
    """Choose a side and confirm, with a finger; waits for the answer."""
    with answered(page):
        page.tap(f"[data-choice={choice}]")
        open_gate(page)
        page.tap("#sz-confirm")


@pytest.mark.parametrize("stage", [{"text": text, "sets": SETS}], indirect=True)
def test_a_finger_votes_and_answers_the_final_comparison(stage, panelist):
    agree(stage, "P-01", "P-02")
    with prompts():
        stage.advance()
    page = visit(panelist("P-01", **PHONE), stage)
    until(page, "vote")
    page.locator("[data-do=help]").tap()
    words = page.locator("#sz-help").inner_text()
    assert "Tap A, Same or B, then Confirm" in words
    assert "Enter" not in words and "key" not in words
    page.keyboard.press("Escape")
    tap_a_vote(page, "B")
    tap_a_vote(page, "A")
    until(page, "waiting")
    cast, _ = stage.ledger.votes()
    assert cast["choice"] == "B" and json.loads(cast["details"])["device"] == "stacked"

    others_vote(stage, "P-02", "P-03")
    stage.advance(until_step=1)
    final_comparison(stage)
    with patch("szpo.config.schema.Config.is_spent", return_value=True):
        stage.ledger.record_event("look again", "test", {})
        page.reload()
        until(page, "finished")
        page.tap("[data-do=final]")
        until(page, "final")
        assert not misfits(page, *NARROW, root="#szpo-root", bar=".sz-bar")
        tap_a_vote(page, "A")
        until(page, "finished")
        assert "Thank you" in page.inner_text("#szpo-root")
        assert page.locator("[data-do=final]").count() == 0
    last = stage.ledger.votes()[-1]
    assert (last["kind"], last["choice"]) == ("final", "A")


RECT = "n => { const r = n.getBoundingClientRect(); return [r.width, r.height]; }"
SIZE = "parseFloat(getComputedStyle(document.querySelector('.sz-text')).fontSize)"


def alike_first(step, i, side):
    word = PLUS if side == "plus" else MINUS
    return "The very same." if i % 3 == 0 else f"Answer {i} is {word}."


@pytest.mark.parametrize("stage", [{"text": alike_first}], indirect=True)
def test_equal_answers_are_folded_away_and_the_size_can_be_set(stage, ann):
    assert ann.locator("[data-pair]").count() == 2
    assert not ann.locator(".sz-same .sz-text").first.is_visible()
    ann.click(".sz-same summary")
    assert ann.locator(".sz-same .sz-text").first.is_visible()
    before = ann.evaluate(SIZE)
    ann.click("[data-do=larger]")
    assert ann.evaluate(SIZE) > before
    ann.reload()
    until(ann, "vote")
    assert ann.evaluate(SIZE) > before


SPACED = """#szpo-root, #szpo-root * {
  letter-spacing: .12em !important; word-spacing: .16em !important;
  line-height: 1.5 !important }
#szpo-root p { margin-bottom: 2em !important }"""
"""The text spacing of WCAG 1.4.12: about as wide as the widest font of any system."""
CLIPPED = """[...document.querySelectorAll("#szpo-root button, #szpo-root .sz-text")].filter(n =>
  n.checkVisibility() && getComputedStyle(n).overflowX !== "visible"
  && (n.scrollWidth > n.clientWidth + 1 || n.scrollHeight > n.clientHeight + 1)
).map(n => n.outerHTML.slice(0, 80))"""


def test_a_phone_shows_all_of_it_within_reach(stage, ann):
    for size in (NARROW, ZOOMED, CLOSE):
        assert misfits(ann, *size, root="#szpo-root", bar=".sz-bar") == []
        with window(ann, *size):
            for target in ann.locator("#szpo-root button:visible").all():
                assert target.evaluate(RECT)[0] >= 43.5, target.inner_text()
            for dialog in ("sz-help", "sz-guideline", "sz-cannot-dialog", "sz-login"):
                shown = ann.locator(f"#{dialog}")
                shown.evaluate("n => n.showModal()")
                box, wide = shown.bounding_box(), size[0]
                assert box["x"] >= 0 and box["x"] + box["width"] <= wide, dialog
                assert shown.evaluate("n => n.scrollWidth <= n.clientWidth"), dialog
                shown.evaluate("n => n.close()")
    for label in ann.locator(".sz-note label, .sz-check:visible").all():
        assert label.evaluate(RECT)[1] >= 43.5
    assert ann.evaluate(SIZE) >= 16
    ann.set_viewport_size({"width": 320, "height": 568})
    boxes = [node.bounding_box() for node in ann.locator("[data-pair='1'] .sz-answer").all()]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["y"] < boxes[1]["y"]  # A, then B
    ann.add_style_tag(content=SPACED)
    for size in (NARROW, ZOOMED, CLOSE):
        assert misfits(ann, *size, root="#szpo-root", bar=".sz-bar") == []
        with window(ann, *size):
            assert ann.evaluate(CLIPPED) == []


def test_focus_shows_wherever_the_tab_key_goes_and_a_dialog_gives_it_back(stage, ann):
    ring = """() => {
      const n = document.activeElement;
      const shown = n.matches(".sz-note input") ? n.nextElementSibling : n;
      const style = getComputedStyle(shown), at = shown.getBoundingClientRect();
      const bar = document.querySelector(".sz-bar"), edge = bar.getBoundingClientRect().top;
      return {where: n.outerHTML.slice(0, 80), inside: !!n.closest("#szpo-root"),
        drawn: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        hidden: !bar.contains(n) && at.bottom > edge + 1 || at.bottom <= 0};
    }"""
    ann.set_viewport_size({"width": 1280, "height": 500})
    stops = 0
    for _ in range(60):
        ann.keyboard.press("Tab")
        found = ann.evaluate(ring)
        if not found["inside"]:
            break
        stops += 1
        assert found["drawn"] and not found["hidden"], found
    assert stops >= 14
    for opener, dialog in (("help", "sz-help"), ("guideline", "sz-guideline"),
                           ("cannot", "sz-cannot-dialog")):  # fmt: skip
        ann.locator(f"[data-do={opener}]").first.focus()
        ann.keyboard.press("Enter")
        ann.wait_for_selector(f"#{dialog}[open]")
        for _ in range(12):
            ann.keyboard.press("Tab")
            assert ann.evaluate(
                "document.activeElement === document.body "
                "|| document.activeElement.closest('dialog[open]') !== null"
            )
        ann.keyboard.press("Escape")
        assert ann.evaluate("document.activeElement.dataset.do") == opener


def test_it_reads_in_order_and_speaks_seldom(stage, ann):
    for pair in ann.locator(".sz-pair[data-pair]").all():
        labels = [a.get_attribute("aria-label") for a in pair.locator("article").all()]
        number = pair.get_attribute("data-pair")
        assert labels == [f"Answer {letter} to prompt {number}" for letter in "AB"]
        assert [p.inner_text()[:1] for p in pair.locator(".sz-letter").all()] == ["A", "B"]
        assert pair.locator("h2").count() == 1
    # What is said answers what was pressed: of many presses within a second only the last is.
    ann.keyboard.press("ArrowLeft")
    ann.clock.run_for(1_100)
    ann.evaluate(
        "window.said = []; const voice = document.getElementById('sz-voice'); "
        "new MutationObserver(() => said.push(voice.textContent)).observe("
        "voice, {childList: true, characterData: true, subtree: true})"
    )
    for key in ("ArrowRight", "2", "ArrowLeft", "ArrowRight"):
        ann.keyboard.press(key)
    ann.clock.run_for(1_100)
    assert ann.get_attribute("#sz-voice", "role") == "status"  # polite
    assert ann.evaluate("said")[-1].startswith("You chose: B is better. 1 prompt not read")
    assert len(ann.evaluate("said")) <= 2
