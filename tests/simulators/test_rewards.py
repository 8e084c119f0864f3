"""Rewards and verifiers: values worked out by hand, and what a reward text may say."""

import re
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from szpo.errors import RunError, UsageError
from szpo.features import user_features
from szpo.ledger.canonical import answer_rows, row_of
from szpo.types import Answer, Comparison, Floats, Prompt, Row
from szpo.voting.panel_evaluator import find_reward
from szpo_simulators.panels.tastes import TASTES
from szpo_simulators.panels.text_features import PLAIN
from szpo_simulators.panels.text_rewards import Fluency, difference, matrix, parse, scores
from tests.support.cases import case
from tests.support.judging import comparison
from tests.support.plugged import plug

PROMPT = Prompt.user("Describe a rainy Monday.")


def value(spec: str, text: str) -> float:
    return parse(spec).score(PROMPT, Answer(text))


def test_values():
    cases = [
        ("sentiment", "", 0.0),
        ("sentiment", "The table is in the room.", 0.0),
        # VADER: "good" has valence 1.9; compound = s / sqrt(s² + 15) = .4404
        ("sentiment", "good", 0.4404),
        ("length:4", "one two three four", 0.0),
        ("length:4", "one two three", -0.25),
        ("length:4", "word " * 400, -1.0),
        ("length:4", "", -1.0),
        ("keyword:sea,sun", "The SEA, and seaside.", 0.5),
        ("keyword:sea+sun", "The SEA, and seaside.", 0.5),  # as a feature is written
        ("keyword:sea", "Overseas.", 0.0),
        ("regex:^Once", "Once more", 1.0),
        ("regex:^Once", "At once", 0.0),
        ("verify:no_comma+lowercase", "plain words", 1.0),
        ("verify:no_comma+lowercase", "plain, words", 0.5),
        ("verify:no_comma+lowercase", "Plain, words", 0.0),
        ("repetition", "a b a b a b", -3 / 5),
        ("0.5*length:4+2*keyword:sea", "the sea is", 0.5 * -0.25 + 2.0),
        ("keyword:sea+-1*keyword:sun", "sun", -1.0),
        ("-1*keyword:sun", "sun", -1.0),
    ]
    for spec, text, expected in cases:
        with case(spec, text, expected):
            assert value(spec, text) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spec", ["sentiment", "length:2", "keyword:sea", "repetition"])
def test_rewards_read_nothing_that_the_ledger_does_not_hold(spec):
    # Stored rows come back without token counts; a panel must see the same reward.
    answer = Answer("The sea, the sea!", "length", tokens=7)
    row = Row(PROMPT, answer, Answer("Calm.", tokens=2))
    (stored,) = answer_rows("c", [row])
    first, again = (Comparison("c", 0, 0, 0, (r,)) for r in (row, row_of(stored)))
    assert difference(parse(spec), first) == difference(parse(spec), again) != 0


def test_a_wrong_reward_says_what_is_right():
    cases = {
        "happiness": "no reward of that name; there are sentiment",
        "sentiment:3": "takes nothing after a colon",
        "length": "needs a number of words",
        "tokens:16": "no reward of that name",
        "keyword:": "whole words",
        "regex:(": "not a regular expression",
        "verify:no_coma": "no verifier 'no_coma'",
        "fluency": "needs a model",
        "": "is not name",
        "names a drink": "liked are written keyword:tea+bread, a pattern regex:",
        "taste:salty": "needs a taste, as in taste:few commas; there are few",
    }
    for spec, words in cases.items():
        with case(spec), pytest.raises(UsageError, match=re.escape(words)):
            parse(spec)


GOOD_BAD = {
    "lowercase": ("all low.", "Not low"),
    "uppercase": ("LOUD 1!", "Loud"),
    "no_comma": ("none", "one, two"),
    "no_digit": ("none", "7 of them"),
    "has_digit": ("7 of them", "none"),
    "full_stop": ("It ends. ", "It ends"),
    "question": ("Why?", "Why."),
    "exclaims": ("Oh! Well.", "Oh. Well."),
    "quoted": (' "Rain." ', '"Rain'),
    "one_line": ("one", "one\ntwo"),
    "no_repeat": ("each word once", "word by word"),
}


def test_each_verifier_passes_one_text_and_fails_another_and_the_empty_one():
    for name, texts in GOOD_BAD.items():
        with case(name, texts):
            assert [value(f"verify:{name}", text) for text in (*texts, "")] == [1, 0, 0]
    assert {*GOOD_BAD} == {*PLAIN}


def test_a_batch_is_worth_the_mean_over_all_rows_identical_ones_included():
    for rows, worth in (
        ([("sea", "land"), ("sea", "sea")], 0.5), ([("land", "sea"), ("sea", "land")], 0.0),
        ([("sea", "sea")], 0.0),
    ):  # fmt: skip
        assert difference(parse("keyword:sea"), comparison(*rows)) == worth


def test_fluency_asks_the_model_once_for_a_batch_and_needs_numbers():
    calls = []

    def logprob(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        calls.append(len(answers))
        return np.array([-float(len(answer.text)) for answer in answers])

    reward = parse("1*keyword:sea+0.5*fluency", logprob=logprob)
    assert difference(reward, comparison(("sea", "sealand"), ("a", "ab"))) == pytest.approx(
        (1 + 0.5 * 4 + 0.5 * 1) / 2
    )
    assert calls == [4]
    grid = matrix(Fluency(logprob), [PROMPT, PROMPT], [[Answer("a"), Answer("ab")]] * 2)
    assert grid.tolist() == [[-1, -2], [-1, -2]]
    assert reward.score(PROMPT, Answer("sea")) == pytest.approx(1 - 1.5)
    broken = Fluency(lambda prompts, answers: np.array([np.nan] * len(answers)))
    with pytest.raises(RunError, match="nan for answer 'text'"):
        scores(broken, [PROMPT], [Answer("text")])


def test_installed_packages_may_add_rewards(monkeypatch):
    def shout(mark: str | None) -> Any:
        return SimpleNamespace(score=lambda prompt, answer: float(answer.text.count(mark or "!")))

    plug(monkeypatch, rewards=("shout", shout))
    assert value("0.5*shout:?+1*shout", "What?? No!") == 2.0


LIKED_AND_NOT = {
    "few commas": ("Rain fell on roofs.", "Rain, wind, and cold."),
    "short sentences": ("Rain. It fell. We sat.", "Rain fell while all of us sat inside."),
    "speaks as I": ("It wets me; I'm wet.", "It is wet in Illinois."),
    "few adverbs": ("Only rain fell.", "Rain fell slowly."),
    "contractions": ("It's wet, don't go.", "Anna's coat is wet."),
    "warm": ("A kind friend.", "A cruel war."),
    "opens to me": ("Is it rain? Yes.", "It is rain. Is it?"),
    "easy words": ("Rain is wet.", "Everything outside drips."),
    "clean sentences": ("Rain. Wind, too.", "Rain; wind, too."),
    "careful": ("It may seem wet.", "It is wet."),
    "plain": ("It is wet.", "Precipitation on 7 continents."),
    "storyteller": ('"Rain," she said.', "Rain falls."),
    "chatty": ("You're wet, aren't you?", "It is wet."),
    "reporter": ("By noon Anna had 3 coats.", "I had a coat."),
    "tidy": ("It was wet.", "(Wet)\nAnd cold"),
    "alliteration": ("Wet winds wail.", "Cold winds blow."),
    "soft sounds": ("Rain, morning, willow.", "Gutter, puddle, bucket."),
    "small things": ("A cup, a spoon.", "The world, the future."),
    "open endings": ("Very muddy tomatoes by radio.", "Drops hang under each branch."),
    "slow": ("We sat still.", "We ran fast."),
}


def test_each_taste_prefers_one_text_to_another_and_five_are_of_each_class():
    for name, texts in LIKED_AND_NOT.items():
        with case(name, texts):
            liked, other = (value(f"taste:{name}", text) for text in texts)
            assert liked > other
    assert Counter(kind for kind, _ in TASTES.values()) == dict.fromkeys(
        ("named", "near", "parts", "absent"), 5
    )
    assert set(TASTES) == set(LIKED_AND_NOT)
    for text in ("", "…", "\x00\n\t", "雨が降る。", "!?" * 5_000, "a," * 5_000):
        assert all(abs(taste("?", text)) <= 100 for _, taste in TASTES.values())


def test_a_recorded_reward_names_no_function_of_a_module(monkeypatch):
    """`szpo report` and a resumed run read the reward of somebody else's ledger."""

    def refuse(name):
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(user_features, "importlib", SimpleNamespace(import_module=refuse))
    for named in ("timeit:timeit", " timeit:timeit", "length,timeit:timeit", "os.path:join"):
        for text in (f"feature:{named}", f"length:4+0.5*feature:{named}"):
            panel = {"kind": "bt70", "reward": text}
            ledger: Any = SimpleNamespace(spec={"config": {"panel": panel}})
            assert find_reward(ledger) is None
            with pytest.raises(UsageError, match=r"no feature '(timeit|os\.path)'"):
                parse(text)
