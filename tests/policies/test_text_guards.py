"""What tuning must leave as it was: four guards, each with its limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from szpo.policies import text_guards
from szpo.policies.text_guards import TextFigures, guards, topic_gap

BASE = TextFigures(logprob=-2.0, distinct2=0.8, tokens=20.0, margin=20.0, others=7)


@pytest.mark.parametrize(
    ("after", "failing"),
    [
        ({}, None),
        ({"logprob": -2.51}, text_guards.FLUENCY),
        ({"distinct2": 0.71}, text_guards.VARIETY),
        ({"tokens": 15.9}, text_guards.LENGTH),
        ({"tokens": 24.1}, text_guards.LENGTH),
        ({"margin": 15.0}, None),  # .75 of the base's is enough
        ({"margin": 14.9}, text_guards.TOPIC),
        ({"margin": -3.0}, text_guards.TOPIC),
    ],
)
def test_each_guard_fails_alone(after, failing):
    found = guards(BASE, replace(BASE, **after))
    assert [guard.name for guard in found] == list(text_guards.NAMES)
    assert [guard.name for guard in found if not guard.ok] == ([failing] if failing else [])


def test_a_run_that_drifted_fails_by_its_share_of_the_base():
    """Medians of one run at 0, 3.5 and 9.7 nats: 20.0, 15.6 and 10.4, so .78 and .52."""
    held, lost = (guards(BASE, replace(BASE, margin=m))[-1] for m in (15.6, 10.4))
    assert held.line() == f"guard ok   {text_guards.TOPIC}: +0.78 (at least 0.75)"
    assert lost.line() == f"guard FAIL {text_guards.TOPIC}: +0.52 (at least 0.75)"


def test_fewer_prompts_are_named_and_none_leaves_the_guard_out():
    few = replace(BASE, others=4)
    assert guards(few, few)[-1].limit == "at least 0.75, 4 other prompts instead of 7"
    unmeasured = replace(BASE, margin=None)
    assert len(guards(BASE, unmeasured)) == len(guards(unmeasured, BASE)) == 3
    assert topic_gap(BASE, unmeasured) == "not measured; it takes at least 3 held-out prompts"
    blind = replace(BASE, margin=-0.25)
    assert len(guards(blind, BASE)) == 3
    assert topic_gap(blind, BASE) == (
        "the base does not distinguish its own prompts (its margin is -0.25 nats)"
    )
    assert topic_gap(BASE, BASE) is None
