"""Guards: what they measure on held-out prompts, and the start's answers that they take."""

import dataclasses
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from szpo.analysis import html_report
from szpo.analysis.exported_weights import LAST
from szpo.ledger.theta import recommended_digest
from szpo.policies.text_guards import TOPIC, Guard
from szpo.runs import driver, guards
from szpo.runs.guards import Bands, HeldOut, read_held_out, record_held_out
from szpo.types import Answer, Comparison, Row
from tests.support.policies import SHORT_PROMPTS as PROMPTS
from tests.support.quadratic import new_ledger, settings_of


def test_shares_of_a_steps_texts_are_of_the_answers_of_both_sides():
    cut, whole, prompt = Answer("It rains. And", "length"), Answer("It rains."), PROMPTS[0]
    rows = (Row(prompt, cut, whole), Row(prompt, whole, whole))
    found = guards.figures([Comparison("c", 0, 0, 0, rows)])
    assert (found["truncated"], found["identical"]) == (1 / 4, 1 / 2)


def test_the_estimate_of_kl_counts_in_units_of_the_coordinates_scale():
    # |Δ|²/2 in units of ½: |(3, 4)|² · 4 / 2 = 50 nats.
    language = SimpleNamespace(start=lambda: {"w": np.array([1.0, -1.0])})
    parts = SimpleNamespace(base=language, language=language, settings=settings_of(scale=0.5))
    assert driver._quadratic_kl(parts)({"w": np.array([4.0, 3.0])}) == 50


NAMES = [field.name for field in dataclasses.fields(Bands)]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_above_or_below_its_band_or_not_finite_breaks_it(name):
    bands = Bands(**{name: (1.0, 2.0)})
    for value in (1.0, 1.5, 2.0, None):
        assert bands.broken({name: value}) is None
    for value in (0.9, 2.1, -math.inf, math.inf, math.nan):
        found = bands.broken({name: value})
        assert found is not None and found[0] == name
    assert bands.broken({other: 9.0 for other in NAMES if other != name}) is None


ROW = {"name": "mean sentiment", "before": "0.181", "after": "0.528", "change": "+0.347"}


def test_a_measurement_is_read_back_and_shown(tmp_path):
    topic = Guard(TOPIC, 0.52, "at least 0.75", False)
    with new_ledger(tmp_path / "x.db", settings_of()) as ledger:
        guards = (Guard("length", 1.0, "0.80 to 1.20", True), topic)
        found = HeldOut((ROW,), guards, None, recommended_digest(ledger))
        assert read_held_out(ledger) is None
        record_held_out(ledger, found)
        assert read_held_out(ledger) == found
        page = html_report.render(ledger)
        assert LAST.measured(ledger, LAST.digest(ledger)) == found
        record_held_out(ledger, replace(found, theta_sha256="cd" * 32))
        assert LAST.measured(ledger, LAST.digest(ledger)) is None, "they are of other weights"
    assert found.verdict == f"1 of 2 fail: {TOPIC}"
    assert f">Guards: 1 of 2 fail: {TOPIC}</h2>" in page
    assert '<td class="bad">fails</td>' in page and '<td class="good">holds</td>' in page
