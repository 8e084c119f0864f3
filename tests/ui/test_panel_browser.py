"""The panelist's page in Chromium: what a person does, what is stored, what never leaves.

Waits are for states of the page; the half minute of the soft gate is put forward on its clock.
"""

import json
import re
import socket
import threading
import time

import pytest
import uvicorn

from szpo_ui import app
from tests.support.browser import MINUS, NARROW, PLUS, SCHEMES, ZOOMED, misfits, violations
from tests.support.panel_states import (
    SETS,
    agree,
    open_gate,
    others_vote,
    reloaded,
    text,
    until,
    visit,
    vote,
    walk,
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


def votes(stage, page=None):
    return [(vote["choice"], vote["revision"], vote["late"]) for vote in stage.ledger.votes()]


# ---- every state: accessible, blind, without errors ----


@pytest.mark.parametrize("stage", [{"text": text, "sets": SETS}], indirect=True)
def test_every_state_is_accessible_and_blind_in_both_colours(stage, panelist):
    """axe finds nothing serious; nothing that is received names a side, a seed or a radius."""
    bodies, errors, states, read = [], [], set(), set()

    def heard(response):
        kind = response.request.resource_type
        if "/assets/" in response.url or kind == "script" or response.url in read:
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
            page.evaluate(
                f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})"
            )
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
    assert states >= {
        "welcome", "practice", "feedback", "idle", "vote", "saving", "waiting", "calib", "closed",
        "paused", "break", "other-tab", "error", "finished", "final",
    }  # fmt: skip
    spec = json.dumps(stage.ledger.spec)
    assert str(stage.ledger.root_seed) in spec  # the ledger knows them, the browser must not
    secret = re.compile(
        r"\b(plus|minus|plus_side|seed|root_seed|sigma|mu|theta|kl_radius|alpha|adapter|amber)\b"
    )
    assert len(texts) > 60
    for each in texts:
        ours = re.sub(r'"?theme_hash"?|<style.*?</style>|<link[^>]*>', "", each, flags=re.S)
        assert not (leak := secret.search(ours)), ours[leak.start() - 80 : leak.end() + 80]
        assert stage.ledger.comparisons(0)[0].id not in each


# ---- voting ----


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
    open_gate(ann)
    ann.keyboard.press("Enter")
    ann.wait_for_selector("#szpo-root[data-state=vote][data-number='2']")
    row = stage.ledger.votes()[0]
    assert (row["assignment"], row["choice"]) == (first, "B")
    (counted,) = stage.site.service.counted(0)
    assert counted.verdict == ("plus" if PLUS in side else "minus") and (PLUS in side) != (
        MINUS in side
    )
    details = json.loads(row["details"])
    assert list(details["notes"].values()) == ["tie"] and details["device"] == "wide"
    assert details["marks"] is True and row["dwell_ms"] >= 31_000
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


def test_a_double_click_and_a_replay_are_one_vote(stage, ann):
    ann.keyboard.press("ArrowLeft")
    open_gate(ann)
    with ann.expect_request("**/run/predict*") as sent:
        ann.dblclick("#sz-confirm")
    ann.wait_for_selector("#szpo-root[data-number='2']")
    request = sent.value
    replies = [
        ann.request.post(request.url, data=request.post_data, headers={
            "content-type": "application/json", "origin": stage.url})
        for _ in range(2)
    ]  # fmt: skip
    assert [reply.status for reply in replies] == [200, 200]
    assert votes(stage) == [("A", 0, 0)]


def test_a_key_right_after_a_dialog_has_closed_is_not_lost(stage, ann):
    """Until the next frame the focus is still on a field of the closed dialog."""
    ann.keyboard.press("s")
    ann.wait_for_selector("#sz-cannot-dialog[open]")
    where = ann.evaluate(
        """() => {
          document.getElementById("sz-cannot-dialog").close();
          const at = document.activeElement;
          at.dispatchEvent(new KeyboardEvent("keydown", {key: "s", bubbles: true}));
          return at.tagName;
        }"""
    )
    assert where == "INPUT"
    assert ann.locator("#sz-cannot-dialog[open]").count() == 1


# ---- tabs, reloads, connections ----


def test_a_reload_keeps_everything_and_a_second_tab_takes_over_on_request(stage, ann):
    ann.keyboard.press("j")
    ann.keyboard.press("q")
    ann.keyboard.press("ArrowRight")
    prompts = ann.locator("h2.sz-prompt").all_inner_texts()
    answers = ann.locator(".sz-text").all_inner_texts()
    lease_s = float(ann.get_attribute("#szpo-root", "data-lease"))
    ann.reload()
    until(ann, "vote")
    assert ann.locator("h2.sz-prompt").all_inner_texts() == prompts
    assert ann.locator(".sz-text").all_inner_texts() == answers
    assert float(ann.get_attribute("#szpo-root", "data-lease")) < lease_s
    assert ann.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert ann.locator(".sz-note input:checked").count() == 1

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
    assert not stage.site.service.own(panelist, 1)  # no lease runs while nobody looks
    ann.evaluate(HIDE, False)
    until(ann, "vote", step="1")
    assert ann.title().startswith("Round 2")


def test_a_server_that_dies_while_saving_costs_no_vote(stage, panelist):
    """Kill between the press of Enter and the answer, start anew, try again: one row."""
    agree(stage, "P-01")
    stage.advance()
    port = free_port()
    server = Server(stage, port)
    stage.url = f"http://127.0.0.1:{port}"
    page = visit(panelist("P-01"), stage)
    until(page, "vote")
    page.keyboard.press("ArrowRight")
    open_gate(page)
    seat = page.get_attribute("#szpo-root", "data-seat")
    server.stop()
    page.keyboard.press("Enter")
    page.wait_for_selector("#szpo-root[data-problem=not-saved]")
    assert "Not saved" in page.locator("#sz-hint").inner_text()
    assert page.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    assert not stage.ledger.votes()
    server = Server(stage, port)
    reloaded(page)
    until(page, "vote", problem="not-saved", seat=seat)
    assert page.get_attribute("[data-choice=B]", "aria-pressed") == "true"
    page.keyboard.press("Enter")
    page.wait_for_selector("#szpo-root[data-number='2']")
    assert votes(stage) == [("B", 0, 0)]
    server.stop()


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


# ---- a server that can be stopped ----


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """The site on a fixed port, to be stopped and started anew."""

    def __init__(self, stage, port):
        made = uvicorn.Config(
            app.create(stage.site, pages=PAGES), port=port, log_level="error",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(made)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(timeout=10)
