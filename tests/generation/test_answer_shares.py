"""Shares of answers that nobody can judge: golden values, and what they must not depend on."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.generation import answer_shares
from szpo.generation.answer_shares import BOUNDS, NAMES, repeats
from szpo.types import Answer

GOOD = (
    "Give it six hours of light, water it from below when the top of the soil feels dry, and "
    "pinch off the flowers as soon as they appear."
)


def test_golden_shares():
    found = answer_shares.measure(
        [
            Answer(GOOD),
            Answer("I am sorry. I am sorry. I am sorry. I am", "length"),
            Answer(" \n"),
            Answer("", "length"),
            Answer("Basil. Basil. Basil. Basil. Basil."),
        ],
        [12.0, -0.5, math.nan, math.nan, 0.0],
    )
    assert [(name, x.hits, x.of) for name, x in found.list_shares()] == [
        ("cut", 2, 5), ("repeated", 2, 5), ("empty", 2, 5), ("off_topic", 1, 3),
    ]  # fmt: skip
    # 2 of 5 is below the bound of one half, above those of a quarter and of a tenth.
    assert found.beyond() == (
        "2 of 5 repeated, bound 25%", "2 of 5 empty, bound 10%", "1 of 3 off topic, bound 25%",
    )  # fmt: skip


# Runs of three words: n − 2 of them; the last column is how many occurred before, over all.
TEXTS = {
    "one two three four": 0 / 2,
    "a b c a b c": 1 / 4,  # a quarter is enough
    "a b c d a b c": 1 / 5,
    "yes yes yes yes": 1 / 2,
    "": 0,
    "ja" * 40: 77 / 78,  # no spaces: letters count as words
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_repeats_itself_from_a_quarter_of_its_runs(text):
    assert repeats(text) == (TEXTS[text] >= 0.25)


@given(st.lists(st.sampled_from([GOOD, "", "so so so so", "word " * 60]), max_size=12))
def test_the_order_of_answers_does_not_matter_and_shares_are_shares(texts):
    answers = [Answer(text, "length" if len(text) > 200 else "stop") for text in texts]
    mixed = random.Random(0).sample(answers, len(answers))
    found = answer_shares.measure(answers)
    assert found == answer_shares.measure(mixed)
    assert set(BOUNDS) == set(NAMES) and found.off_topic is None
    for _, value in found.list_shares():
        assert value.of == len(texts) and 0 <= value.low <= value.high <= 1
    assert answer_shares.measure([]).beyond() == ()
