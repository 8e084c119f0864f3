"""What a model can be taught: from a set-up's report, in words, before a vote."""

import numpy as np
import pytest

from szpo.policies import basis, teachable

REPORT = {
    "reach": [0.5, 0.2, 0.05, 0.0],
    "skew": [0.8, -0.2, 1.7, 0.0],
    "same": [0.4, 0.95, 0.95, 1],
}
NAMES = ("i", "commas", "questions", "keyword:sea")


def test_what_it_costs_is_the_least_kl_of_the_share_over_the_reach():
    found = teachable.read(NAMES, REPORT)
    # KL(½ ‖ .03) = ½ ln(.5/.03) + ½ ln(.5/.97) = 1.4067 − .3314 nats
    assert [each.nats for each in found[:3]] == pytest.approx([2.1506, 5.3765, 21.506], rel=1e-4)
    assert found[3].nats == np.inf
    assert [each.ease for each in found] == ["easily", "less easily", "not at all", "not at all"]
    assert found[2].alike(8) == pytest.approx(0.95**8)


def test_what_can_be_taught_is_said_in_words_with_its_ruler():
    said = teachable.describe(teachable.read(NAMES[::-1], _reversed()), rows=8)
    assert said == {
        "taught easily": 'says "I" more (from 3 % of answers to half: 2.2 to 3 nats)',
        "taught less easily": "more commas (from 3 % of answers to half: 3 to 8 nats)",
        "taught not at all": "more questions; more of keyword:sea "
        "(from 3 % of answers to half: more than 8 nats)",
        "yours": "more of keyword:sea: out of reach, the same on both sides in 100 % "
        "(from 3 % of answers to half; a smaller gain costs less)",
        "seldom shown": "more commas (66 %): so often two batches of 8 answers do not differ "
        "in it",
    }
    answers = [[0.0, "left\u202eright"], [0.5, "b"], [1.0, "c"]]
    assert teachable.ruler({"ruler": {"prompt": "p", "answers": answers}}) == [
        ("prompt", "p"), ("0 nats", "left⟨202E⟩right"), ("0.5 nats", "b"), ("1 nat", "c"),
    ]  # fmt: skip
    assert teachable.ruler(REPORT) == []
    same = [(0, "a"), (1, "b"), (2.5, "b"), (5, "b")]
    assert teachable.describe_ruler({"ruler": {"prompt": "p", "answers": same}}) == [
        "what nats look like: p", "       0 nats  a", "  1 to 5 nats  b",
    ]  # fmt: skip
    assert teachable.describe(teachable.of_spec({"space": {"report": {"kind": "full"}}}), 8) == {}
    assert teachable.of_spec({}) == ()


def _reversed() -> dict[str, list[float]]:
    return {name: values[::-1] for name, values in REPORT.items()}


def test_pairs_of_answers_to_one_prompt_are_alike_as_often_as_counted():
    values = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 7.0], [1.0, 7.0]])
    found = basis.alike(values, np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found, [2 / 4, 1 / 4])
