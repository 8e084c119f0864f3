"""The twenty tastes: each tells two texts apart, and none fails on an odd one."""

from __future__ import annotations

from collections import Counter

import pytest

from szpo.errors import UsageError
from szpo.types import Answer, Prompt
from szpo_simulators.rewards.tastes import TASTES
from szpo_simulators.rewards.text_rewards import parse

PROMPT = Prompt.user("Describe a rainy Monday.")
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


@pytest.mark.parametrize(("name", "texts"), LIKED_AND_NOT.items())
def test_each_prefers_one_text_to_another(name, texts):
    liked, other = (parse(f"taste:{name}").score(PROMPT, Answer(text)) for text in texts)
    assert liked > other


def test_five_are_of_each_class_and_all_stay_finite():
    assert Counter(kind for kind, _ in TASTES.values()) == dict.fromkeys(
        ("named", "near", "parts", "absent"), 5
    )
    assert set(TASTES) == set(LIKED_AND_NOT)
    for text in ("", "…", "\x00\n\t", "雨が降る。", "!?" * 5_000, "a," * 5_000):
        assert all(abs(taste("?", text)) <= 100 for _, taste in TASTES.values())


def test_an_unknown_taste_is_one_line():
    with pytest.raises(UsageError, match="needs a taste, as in taste:few commas; there are few"):
        parse("taste:salty")
