"""What a run's votes taught: in words, over votes, and why where they taught nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest

from szpo.analysis import html_report, taught_taste
from szpo.analysis.taught_taste import Lesson
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.optim.named_features import Claim
from szpo.optim.regression import Findings
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED
from szpo.policies import teachable
from tests.support.operator_page import record, teach
from tests.support.quadratic import new_ledger, settings_of

COMMAS = Claim("comma", False, 0.97, 0.73, "commas")
I = Claim("i", True, 0.3, 1.0, "i")


@pytest.fixture
def ledger(tmp_path):
    with new_ledger(tmp_path / "run.db", settings_of()) as made:
        yield made


def read(ledger: Ledger) -> Lesson:
    found = taught_taste.read(ledger)
    assert found is not None
    return found


def words(*claims: Claim, factor: float = math.log(20), **more: Any) -> str:
    return taught_taste.words(Findings(factor, taught=claims, **more))


def test_the_group_is_said_first_then_its_likeliest_feature_where_that_is_likely():
    told = "fewer commas (97 %), most likely more answers without a comma (71 %)"
    assert words(COMMAS, I) == told
    assert words(Claim("comma", False, 0.97, 0.49, "commas")) == "fewer commas (97 %)"
    assert words(Claim("commas", False, 0.97, 0.7, "commas")) == "fewer commas (97 %)"
    assert words(Claim("keyword:sea", True, 0.6, 1.0)) == "more of keyword:sea (60 %)"


def test_before_a_taste_is_shown_the_likeliest_are_said_with_their_chances():
    assert words(COMMAS, I, factor=1.0) == 'fewer commas (97 %), says "I" more (30 %)'
    assert words(I, factor=1.0, unnamed=0.4) == (
        'a taste that no words of the dictionary say (40 %), says "I" more (30 %)'
    )
    assert words(Claim("i", True, 0.09, 1.0), factor=1.0, unnamed=0.09) == ""
    assert (
        words(*[Claim(f"keyword:{at}", True, 0.2, 1.0) for at in "abcd"], factor=1.0).count("%")
        == taught_taste.PERHAPS
    )


def test_verdicts_without_a_shown_taste_say_how_many_decided_and_whether_evidence_grew(ledger):
    for at, odds in enumerate((1.2, 1.5, 2.0, 2.8)):
        record(ledger, 20 * (at + 1), Findings(math.log(odds)), step=at, ties=4)
    end = f"odds of 2.8 where it takes {BAYES_FACTOR_NEEDED:g}; growing, 1.5 after half of them"
    assert str(read(ledger)) == f"80 votes, 64 decided: no taste shown ({end})"
    record(ledger, 160, Findings(math.log(2.9)), step=4)
    assert "not growing, 2.8 after half of them" in str(read(ledger))


def test_what_is_not_clear_or_has_no_name_is_said_to_be_so():
    assert words(unnamed=0.7, chance=0.1).endswith("no words of the dictionary say (70 %)")
    assert words(I, unnamed=0.1, chance=0.6) == "not clear any more: it may be chance (60 %)"
    other = Claim("length", False, 0.25, 1.0, "length")
    assert words(I, other) == 'not clear yet: says "I" more (30 %) or shorter (25 %)'
    assert words(Claim("i", True, 0.05, 1.0)) == "a taste, not clear yet which"


def test_named_coordinates_are_said_with_nats_and_what_none_carries_with_what_would():
    mix = (("positive in tone", 1.42), ("commas", -0.61), ("reader", 0.2))
    tone = Claim("positive in tone", True, 0.99, 0.6, "positive in tone")
    fewer = Claim("commas", False, 0.93, 0.2, "commas")
    assert words(tone, fewer, mix=mix) == (
        "more positive in tone (1.4 nats, 99 %), fewer commas (0.6 nats, 93 %)"
    )
    assert words(replace(tone, more=False), mix=mix) == "less positive in tone (0.0 nats, 99 %)"
    assert taught_taste.phrase("shorter", True, coordinate=True) == "shorter"
    assert taught_taste.phrase("shorter", False, coordinate=True) == "longer"
    asked = Claim("questions", True, 0.9, 1.0, "questions")
    assert words(asked, mix=mix, lacking=("questions",)) == (
        "more questions (90 %), which no adapter here carries: szpo adapters make --model MODEL "
        "--of questions makes one that does"
    )
    assert words(asked, mix=mix) == "more questions (90 %)"  # several adapters do together
    assert words(mix=mix, unnamed=0.8) == (
        "a little of many (80 %): more positive in tone (1.4 nats), fewer commas (0.6 nats), "
        "more reader (0.2 nats)"
    )


def test_the_nats_of_a_mix_are_not_said_of_weights_that_replaced_it(ledger):
    tone = Claim("positive in tone", True, 0.99, 0.6, "positive in tone")
    found = Findings(math.log(20), taught=(tone,), mix=(("positive in tone", 1.42),))
    assert (
        taught_taste.words(replace(found.replaced, taught=(), unnamed=0.8))
        == "a little of many (80 %)"
    )
    record(ledger, 8, found)
    assert str(taught_taste.read(ledger)) == "8 votes: more positive in tone (1.4 nats, 99 %)"
    theta.append_adopted(ledger, theta.starting_theta(ledger), {"steps": 1})
    assert str(taught_taste.read(ledger)) == "8 votes: more positive in tone (99 %)"
    assert Findings.from_json(found.replaced.to_json()) == found.replaced


def test_what_votes_said_after_fewer_steps_is_what_was_known_then(ledger):
    then, now = (Findings(factor, mix=(("shorter", 0.5),)) for factor in (1.0, 9.0))
    record(ledger, 8, then, step=0)
    record(ledger, 16, now, step=1)
    theta.append_adopted(ledger, theta.starting_theta(ledger), {"steps": 2})
    after = [taught_taste.last_findings(ledger, steps) for steps in (0, 1, 2, None)]
    assert after == [None, then, now.replaced, now.replaced]


def test_a_rule_that_does_not_fit_all_votes_teaches_nothing(ledger):
    assert taught_taste.read(ledger) is None
    ledger.record_event("step", "controller", {"step": 0, "total_votes": 8, "extra": {}})
    assert taught_taste.read(ledger) is None


def test_a_run_without_named_features_says_that_it_taught_nothing(ledger):
    record(ledger, 0, Findings(-1.0, chance=0.8), automatic_ties=12)
    assert str(read(ledger)).startswith("0 votes: no taste shown; 12 of 12 questions show no")
    record(ledger, 24, Findings(-1.0, chance=0.8))
    low = f"odds of 0.37 where it takes {BAYES_FACTOR_NEEDED:g}; not growing, 0.37 after half"
    assert str(read(ledger)) == f"24 votes: no taste shown ({low} of them)"
    record(ledger, 128, Findings(math.log(9)))  # they show a taste, which has no name
    assert taught_taste.read(ledger) is None


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (Findings(9.0, taught=(COMMAS,)), words(COMMAS)),
        (Findings(1.0, taught=(COMMAS,)), "no taste shown yet, perhaps fewer commas (97 %)"),
    ],
)  # fmt: skip
def test_the_line_of_a_step_says_what_votes_taught(ledger, found, note):
    record(ledger, 56, found)
    (event,) = ledger.events("step")
    assert taught_taste.note(event["body"]["extra"], 56) == note and not taught_taste.note({}, 56)
    assert taught_taste.last_findings(ledger) == found


def test_a_shown_taste_has_its_groups_over_votes(ledger):
    teach(ledger, 8, [I], factor=1.0)
    assert read(ledger).lines == ()  # no figures yet, drawn ones neither
    teach(ledger, 16, [Claim("comma", False, 0.6, 0.9, "commas")], factor=1.0)
    faint = Claim("you", True, 0.09, 1.0, "you")
    teach(ledger, 31, [COMMAS, I, faint])
    found = read(ledger)
    assert str(found) == f"31 votes: {words(COMMAS)}"
    first, second = found.lines
    assert first == ("fewer commas", (8, 16, 31), (0.0, 0.6, 0.97))
    assert second == ('says "I" more', (8, 16, 31), (0.3, 0.0, 0.3))
    page = html_report.render(ledger)
    assert f"{found}." in page and "says &quot;I&quot; more: 0.3 (votes 8) to 0.3" in page


def test_the_mix_of_adapters_is_drawn_over_votes_until_weights_are_adopted(ledger):
    teach(ledger, 8, [I], factor=1.0, mix=(("first person", 0.0), ("commas", 0.0)))
    teach(ledger, 16, [I], mix=(("first person", 1.25), ("commas", -1.5)))
    found = read(ledger)
    assert found.mixed == (
        ("commas", (8, 16), (0.0, -1.5)), ("first person", (8, 16), (0.0, 1.25))
    )  # fmt: skip
    assert "The adapters that are mixed most" in html_report.render(ledger)
    teach(ledger, 31, [I], mix=(("first person", None), ("commas", None)))
    assert read(ledger).mixed == ()
    assert "The adapters that are mixed most" not in html_report.render(ledger)


def test_a_run_without_evidence_says_so_and_whether_more_votes_may_help(ledger):
    teach(ledger, 40, [COMMAS], factor=1.0)
    first = f"40 votes: no taste shown (odds of 2.7 where it takes {BAYES_FACTOR_NEEDED:g})"
    assert str(read(ledger)) == f"{first}; perhaps fewer commas (97 %)"
    assert not read(ledger).equal
    teach(ledger, 140, [], factor=-1.0, ties=60, automatic_ties=30)
    found = read(ledger)
    assert found.equal.startswith("90 of 170 questions show no difference")
    assert found.equal.endswith(teachable.CHANGE) and taught_taste.more_votes(ledger, found) == ""
