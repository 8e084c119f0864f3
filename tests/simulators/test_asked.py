"""Tastes as a person asks for them, and whether one is an entry of the dictionary."""

import math

import numpy as np
import pytest

from szpo.types import Answer, Prompt
from szpo_simulators.panels import text_rewards
from szpo_simulators.panels.tastes import TASTES

TEXTS = (
    ("Rain falls, softly, on us.", "Rain falls.", "Rain, again."),
    ("The sea is calm.", "Waves, wind, and salt, she says.", "Calm, today."),
)
PROMPTS = (Prompt.user("What is rain?"), Prompt.user("How is the sea?"))


@pytest.mark.parametrize(
    "words", ["sentiment", "no comma", "fewer commas", "more questions", "warm", "length:12"]
)
def test_what_a_person_asks_for_is_a_reward(words):
    liked = text_rewards.parse(text_rewards.find_asked(words))
    assert math.isfinite(liked.score(PROMPTS[0], Answer(TEXTS[0][0])))


def test_every_taste_by_its_own_name_and_fewer_is_the_other_sign_of_more():
    found = [text_rewards.find_asked(name) for name in TASTES]
    assert found == [f"taste:{name}" for name in TASTES]
    asked = map(text_rewards.find_asked, ("more commas", "fewer commas"))
    more, fewer = map(text_rewards.parse, asked)
    answer = Answer(TEXTS[0][0])
    assert more.score(PROMPTS[0], answer) == -fewer.score(PROMPTS[0], answer) > 0


def test_the_nearest_entry_is_the_taste_where_it_is_one_and_is_said_not_to_be_elsewhere():
    none = np.array([[float("," not in text) for text in row] for row in TEXTS])
    found = text_rewards.find_nearest(PROMPTS, TEXTS, none)
    assert found is not None and found[1] == pytest.approx(1)
    assert text_rewards.describe_nearest(*found) == (
        "this taste is an entry of the dictionary: more answers without a comma"
    )
    odd = np.array([[0.0, 1.0, 0.3], [0.2, 0.0, 0.9]])
    other = text_rewards.find_nearest(PROMPTS, TEXTS, odd)
    assert other is not None and other[1] < text_rewards.SAME
    assert text_rewards.describe_nearest(*other).startswith(
        "no entry of the dictionary is this taste; the nearest is "
    )
    # A level of a prompt is no taste: it cannot be learned from votes on the same prompts.
    assert text_rewards.find_nearest(PROMPTS, TEXTS, np.array([[1.0] * 3, [5.0] * 3])) is None
