"""The panel under a finger: a phone whose only input is touch votes, to the final comparison."""

import json
from unittest.mock import patch

import pytest

from tests.support.browser import NARROW, misfits
from tests.support.panel_states import (
    SETS,
    agree,
    answered,
    final_comparison,
    open_gate,
    others_vote,
    prompts,
    text,
    until,
    visit,
)

pytest_plugins = ["tests.support.browser", "tests.support.panel_states"]
PHONE = {
    "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2,
    "has_touch": True, "is_mobile": True,
}  # fmt: skip
FINGER = 40
"""CSS pixels that a target of a finger measures at least, in both directions."""
SMALL = """(least) => [...document.querySelectorAll(
    "#szpo-root button, #szpo-root a[href], #szpo-root .sz-choice")]
  .filter(n => n.offsetParent && !n.closest("p, li"))
  .map(n => [n.textContent.trim().slice(0, 30), n.getBoundingClientRect()])
  .filter(([, box]) => box.height < least || box.width < least)
  .map(([name, box]) => `${name}: ${Math.round(box.width)} x ${Math.round(box.height)}`)"""


def tap_a_vote(page, choice):
    """Choose a side and confirm, with a finger; waits for the answer."""
    assert page.evaluate(SMALL, FINGER) == []
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
    tap_a_vote(page, "B")
    tap_a_vote(page, "A")
    until(page, "waiting")
    cast, _ = stage.ledger.votes()
    assert cast["choice"] == "B" and json.loads(cast["details"])["device"] == "stacked"

    others_vote(stage, "P-02", "P-03")
    stage.advance(until_step=1)
    final_comparison(stage)
    with patch("szpo.training.status._spent", return_value=True):
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
