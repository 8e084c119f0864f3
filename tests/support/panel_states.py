"""Takes the panelist's page through all its states, for tests and for the pictures in the docs.

`walk` yields (name, page) in every state; ``ann`` is a fixture: a page at the first vote.
(PYTEST_DONT_REWRITE: test modules import this module before pytest does.)
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from szpo.ledger import orders
from szpo.runs import services
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import pauses
from tests.support.browser import Stage

PROMPTS = (
    "Explain why the sky is blue to a child of six.",
    "Write a one-line apology for a late parcel.",
    "How do I keep basil alive on a windowsill?",
    "Give me a name for a small bakery by the sea.",
    "Is it safe to wake a sleepwalker?",
    "Describe a rainy Monday in one sentence.",
)
ONE = (
    "Sunlight looks white, but it is made of all the colours of the rainbow. The air bounces the "
    "blue part around the most, so blue comes at us from everywhere in the sky.",
    "We are sorry that your parcel is late; it should reach you by Thursday.",
    "Give it six hours of light, water it from below when the top of the soil feels dry, and "
    "pinch off the flowers as soon as they appear.",
    "Salt & Crumb",
    "Yes. It does not harm them, but they may be confused for a while, so guide them gently back "
    "to bed instead.",
    "The rain drummed on the bus shelter while everyone pretended not to look at the clock.",
)
OTHER = (
    "Sunlight looks white, but it is really made of many colours. The air scatters the blue part "
    "the most, so the whole sky looks blue to us.",
    "We are very sorry that your parcel is late, and we have asked the courier to bring it by "
    "Thursday.",
    "Basil likes light and water. Put it near a window and water it every day so that it does not "
    "dry out at all, even in winter, because",
    "Salt & Crumb",
    "It is dangerous to wake them.",
    "The rain drummed softly on the bus shelter while everyone pretended to look at the clock.",
)
SETS = ("optimizer.D=6", "run.votes=120")
ROWS = (
    "optimizer.D=1", "optimizer.N=19", "optimizer.M=1", "panel.sheet=8",
    "run.votes=160",
)  # fmt: skip
"""A run that asks about rows, eight at once: two sheets a round, as three pairs are equal."""

PHONE = {
    "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2,
    "has_touch": True, "is_mobile": True,
}  # fmt: skip


def text(step: int, i: int, side: str) -> Answer:
    """Answers to six prompts in turn; one pair is equal, one answer is cut at the limit."""
    made = (ONE if side == "plus" else OTHER)[i % len(PROMPTS)]
    return Answer(made, "length" if made.endswith("because") else "stop", len(made.split()))


@contextmanager
def prompts() -> Iterator[None]:
    """Have the stage use this module's prompts, in their order."""
    turn = [Prompt.user(prompt) for prompt in PROMPTS]

    def order(_: Any, settings: Any) -> Callable[[int], list[Prompt]]:
        count = settings.section.K * settings.section.N * settings.section.D
        return lambda step: list(itertools.islice(itertools.cycle(turn), count))

    with patch.object(services, "prompt_order", order):
        yield


def until(page: Any, state: str, **more: str) -> Any:
    """Wait until the page shows a state; returns the page's root element."""
    named = {"state": state, **more}.items()
    wanted = "".join(f"[data-{name}='{value}']" for name, value in named)
    page.wait_for_selector(f"#szpo-root{wanted}")
    return page.locator("#szpo-root")


def visit(context: Any, stage: Stage, path: str = "/panel/") -> Any:
    """Open a panel page whose clock can be put forward; waits for its first screen."""
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.clock.install()
    page.goto(f"{stage.url}{path}")
    page.wait_for_selector("#szpo-root:not([data-state=loading])")
    return page


def agree(stage: Stage, *names: str) -> None:
    """Record the consent of panelists before their first visit."""
    for name in names:
        panelist = stage.site.service.enroll("person", stage.invitation("panelist", name).name)
        stage.ledger.record_event("consent", panelist, {"panelist": panelist})


def open_gate(page: Any) -> None:
    """Pretend that the half minute has passed after which a vote is no longer held back."""
    page.clock.fast_forward(31_000)
    page.wait_for_function(
        "!document.querySelector('#sz-confirm')?.disabled "
        "|| !document.querySelector('.sz-choice[aria-pressed=true]')"
    )


CALLS = re.compile(r"/component_server/$|/api/status\?")
"""The requests of the page's script."""

PROBE = "/api/status?probe"
"""A request of `hold` itself."""


def sends_vote(message: Any) -> bool:
    """Whether a request, or a response's request, sends a vote."""
    sent = getattr(message, "request", message).post_data or ""
    return '"do":"vote"' in sent or GIVE in sent


GIVE = '"fn_name":"give"'
"""In requests that send a verdict on a row."""


def hold(page: Any, *what: str) -> list[Any]:
    """Hold requests with one of these texts in URL or body; their routes are added to the list."""
    held: list[Any] = []
    begun: list[str] = []

    def handle(route: Any) -> None:
        sent = f"{route.request.url} {route.request.post_data}"
        if route.request.url.endswith(PROBE):
            begun.append(sent)
            route.fulfill(status=204)
        elif any(each in sent for each in what):
            held.append(route)
        else:
            route.continue_()

    page.route(CALLS, handle)
    while not begun:  # Chromium may send a request past a route that has only just been set
        page.evaluate(f"fetch('{PROBE}')")
    return held


@contextmanager
def answered(page: Any) -> Iterator[None]:
    """At the end of the block, wait for the response to the vote sent in it."""
    with page.expect_response(sends_vote):
        yield
    page.wait_for_selector("#szpo-root:not([data-state=saving])")


def vote(page: Any, key: str = "ArrowRight") -> None:
    """Vote by keyboard and wait for the response."""
    with answered(page):
        page.keyboard.press(key)
        open_gate(page)
        page.keyboard.press("Enter")


def wait_held(page: Any, held: Sequence[Any], count: int) -> None:
    """Wait until ``held`` has ``count`` requests."""
    for _ in range(3000):
        if len(held) == count:
            return
        page.wait_for_timeout(10)
        page.clock.run_for(10)  # the page's timers may be stopped together with its clock
    raise AssertionError(f"{len(held)} of {count} requests were sent")


def others_vote(stage: Stage, *names: str) -> None:
    """Panelists without a browser answer all their comparisons."""
    service = stage.site.service
    for name in names:
        panelist = service.enroll("person", name)
        while (seat := service.assign(panelist, tab="none")) is not None:
            service.cast(seat.id, "tie", idem=f"others-{seat.id}"[:40], tab="none")


def final_comparison(stage: Stage, count: int = 1) -> int:
    """Order blind final comparisons and fulfil the order with fixed texts; returns its number."""
    order = orders.place_order(stage.ledger, "final", "olga", {"comparisons": count})
    texts = zip(PROMPTS[:3], ONE, OTHER, strict=False)
    rows = tuple(Row(Prompt.user(p), Answer(a), Answer(b)) for p, a, b in texts)
    made = [Comparison(f"f{n:031}", -1, 0, n, rows, kind="final") for n in range(count)]
    body = {"comparisons": [each.id for each in made], "rows": 3, "after": 2,
            "tuned_sha256": "0", "base_sha256": "1"}  # fmt: skip
    with stage.ledger.transaction("controller"):
        for comparison in made:
            stage.ledger.append_comparison(comparison)
        orders.settle(stage.ledger, orders.get(stage.ledger, order), body)
    return order


def walk(stage: Stage, context: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Go through every state with the panelist P-01; the others vote without a browser."""
    ann = context("P-01")
    page = visit(ann, stage)

    def next_round() -> None:
        with prompts():
            stage.advance()
        page.clock.fast_forward(4_000)

    yield "welcome", page
    page.click("[data-do=agree]")
    until(page, "idle")
    yield "idle", page

    next_round()
    until(page, "vote", step="0")
    yield "vote", page
    for key, name in (("i", "guideline"), ("?", "help"), ("s", "cannot-judge")):
        page.keyboard.press(key)
        page.wait_for_selector("dialog[open]")
        yield name, page
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
    page.keyboard.press("j")
    page.keyboard.press("q")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("[data-choice=B][aria-pressed=true]")
    open_gate(page)
    yield "chosen", page
    held = hold(page, '"do":"vote"')
    page.keyboard.press("Enter")
    until(page, "saving")
    yield "saving", page
    wait_held(page, held, 1)  # the page shows "saving" before its request reaches the handler
    held[0].abort()
    page.unroute(CALLS)
    page.wait_for_selector("#szpo-root[data-problem=not-saved]")
    yield "not-saved", page
    page.keyboard.press("Enter")
    page.wait_for_selector("#szpo-root[data-state=vote][data-number='2']")
    ann.set_offline(True)
    page.clock.fast_forward(4_000)
    page.wait_for_selector("#sz-offline")
    yield "offline", page
    ann.set_offline(False)
    page.clock.fast_forward(16_000)
    page.wait_for_selector("#sz-offline", state="detached")
    page.clock.fast_forward(490_000)
    page.wait_for_selector("#sz-lease")
    yield "lease", page
    page.keyboard.press("Shift")
    page.wait_for_selector("#sz-lease", state="detached")
    vote(page)
    until(page, "waiting")
    yield "waiting", page
    page.keyboard.press("u")
    until(page, "vote", revises="1")
    yield "change", page
    page.click("[data-do=keep]")
    until(page, "waiting")

    others_vote(stage, "ben", "cas")
    next_round()
    until(page, "vote", step="1")
    second = visit(ann, stage)
    until(second, "other-tab")
    yield "other-tab", second
    second.close()
    page.keyboard.press("p")
    until(page, "break")
    yield "break", page
    page.click("[data-do=back]")
    until(page, "vote", step="1")
    pauses.pause(stage.ledger, "olga", "Lunch. We go on at two o’clock.")
    page.clock.fast_forward(4_000)
    until(page, "paused")
    yield "paused", page
    pauses.unpause(stage.ledger, "olga")
    page.clock.fast_forward(4_000)
    until(page, "vote", step="1")
    stage.clock.forward(601)
    others_vote(stage, "ben", "cas")
    next_round()
    until(page, "closed")
    yield "closed", page
    page.click("[data-do=go]")
    until(page, "vote", step="2")
    vote(page, "1")
    until(page, "vote", number="2")
    vote(page, "2")
    until(page, "waiting")
    yield "round-done", page
    with patch("szpo_ui.screens.look", side_effect=RuntimeError("drill")):
        page.click("[data-do=revise]")
        until(page, "error")
    yield "error", page
    page.click("[data-do=retry]")
    page.wait_for_selector("#szpo-root[data-state=vote], #szpo-root[data-state=waiting]")
    remaining = ann.cookies()
    ann.clear_cookies()
    page.clock.fast_forward(4_000)
    page.wait_for_selector("#sz-login[open]")
    yield "session-ended", page
    ann.add_cookies(remaining)
    others_vote(stage, "ben", "cas")
    stage.advance(until_step=3)
    final_comparison(stage)
    with patch("szpo.config.schema.Config.is_spent", return_value=True):
        stage.ledger.record_event("look again", "test", {})
        page.goto(f"{stage.url}/panel/")
        until(page, "finished")
        yield "finished", page
        page.click("[data-do=final]")
        until(page, "final")
        yield "final", page


def saved(page: Any) -> None:
    """Wait until every verdict given on the sheet is stored."""
    page.wait_for_function(
        "[...document.querySelectorAll('.sz-row')].every(row => "
        "!row.dataset.verdict || row.hasAttribute('data-saved'))"
    )


def walk_rows(stage: Stage, context: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Go through the states of a run that asks about rows, with the panelist P-01."""
    page = visit(context("P-01"), stage)
    yield "rows-welcome", page
    page.click("[data-do=agree]")
    with prompts():
        stage.advance()
    page.clock.fast_forward(4_000)
    until(page, "sheet")
    yield "sheet", page
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    yield "sheet-help", page
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    saved(page)
    yield "sheet-chosen", page
    for key in ("h", "ArrowDown"):
        page.keyboard.press(key)
    saved(page)
    yield "sheet-judged", page
    held = hold(page, GIVE)
    page.keyboard.press("ArrowRight")
    wait_held(page, held, 1)
    held[0].abort()
    page.wait_for_selector("#szpo-root[data-problem=not-saved]")
    yield "sheet-unsaved", page
    page.unroute(CALLS)
    page.clock.fast_forward(4_000)
    for _ in range(4):
        page.keyboard.press("s")
    saved(page)
    yield "sheet-done", page
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-do=undo]")
    yield "sheet-next", page
    page.keyboard.press("u")
    until(page, "sheet", revises="1")
    yield "sheet-undo", page
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-do=undo]")
    while page.locator(".sz-row[data-verdict='']").count():
        page.keyboard.press("ArrowDown")
    saved(page)
    page.keyboard.press("Enter")
    until(page, "waiting")
    yield "rows-waiting", page
    with prompts():
        stage.advance()
    page.clock.fast_forward(4_000)
    until(page, "sheet")
    yield "sheet-news", page


@pytest.fixture
def ann(stage, panelist):
    """A page of P-01, who has agreed, with round 1 open."""
    agree(stage, "P-01", "P-02")
    stage.advance()
    page = visit(panelist("P-01"), stage)
    page.wait_for_selector("#szpo-root:is([data-state=vote], [data-state=sheet])")
    return page
