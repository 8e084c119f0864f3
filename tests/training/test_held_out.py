"""The record of a held-out measurement: written, read back, and read where it is older."""

from __future__ import annotations

from szpo.policies.text_guards import TOPIC, Guard
from szpo.reports import html_report
from szpo.training import held_out
from szpo.training.held_out import HeldOut
from tests.support.quadratic import new_ledger, settings_of

ROW = {"name": "mean sentiment", "before": "0.181", "after": "0.528", "change": "+0.347"}


def test_a_measurement_is_read_back_and_shown(tmp_path):
    topic = Guard(TOPIC, 0.52, "at least 0.75", False)
    found = HeldOut((ROW,), (Guard("length", 1.0, "0.80 to 1.20", True), topic), None, "ab" * 32)
    with new_ledger(tmp_path / "x.db", settings_of()) as ledger:
        assert held_out.read(ledger) is None
        held_out.record(ledger, "szpo demo", found)
        assert held_out.read(ledger) == found
        page = html_report.render(ledger)
    assert found.verdict == f"1 of 2 fail: {TOPIC}"
    assert f"<h2>Guards: 1 of 2 fail: {TOPIC}</h2>" in page
    assert '<td class="bad">fails</td>' in page and '<td class="good">ok</td>' in page


def test_a_measurement_without_guards_is_still_a_table(tmp_path):
    """As runs recorded it before guards were part of the event."""
    with new_ledger(tmp_path / "x.db", settings_of()) as ledger:
        ledger.record_event("evaluation", "szpo demo", {"rows": [ROW]})
        found = held_out.read(ledger)
        page = html_report.render(ledger)
    assert found == HeldOut((ROW,)) and "mean sentiment" in page and "Guards:" not in page
