"""Drawing words: the distribution, common random numbers, and the corners of the inverse CDF."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import RunError, UsageError
from szpo.models import answer_shares
from szpo.models.answer_shares import BOUNDS, NAMES, find_language, repeats
from szpo.models.sampling import Sampling, draw, probabilities, row_key
from szpo.types import Answer, Shift


def test_even_spacing_reproduces_the_distribution():
    # With u on a midpoint grid of n, word i is drawn n·pᵢ times up to one at each end.
    n, words = 20_000, 700
    logits = torch.randn(1, words, generator=torch.Generator().manual_seed(0)) * 2
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = draw(logits.expand(n, -1), grid, Sampling())
    counts = torch.bincount(drawn, minlength=words)
    assert float((counts - n * logits.softmax(-1)[0]).abs().max()) <= 1.01
    assert bool((drawn.diff() >= 0).all())  # in the order of the vocabulary


@given(
    words=st.integers(1, 900),
    seed=st.integers(0, 2**20),
    u=st.sampled_from([0.0, 1e-300, 0.5, 1 - 2**-53]),
)
def test_only_words_with_mass_are_drawn(words, seed, u):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, words, generator=g) * 5
    logits[torch.rand(1, words, generator=g) < 0.7] = float("-inf")
    logits[0, seed % words] = 1.0
    word = int(draw(logits, torch.tensor([u], dtype=torch.float64), Sampling())[0])
    assert 0 <= word < words
    assert torch.isfinite(logits[0, word])


def test_top_p_cuts_the_tail_and_temperature_zero_takes_the_likeliest():
    logits = torch.log(torch.tensor([[0.05, 0.5, 0.15, 0.3]]))
    # .5 alone is below .6, .5 + .3 reaches it.
    for cut, left in ((0.6, "0101"), (0.4, "0100")):
        remaining = probabilities(logits, Sampling(top_p=cut)) > 0
        assert remaining.tolist() == [[digit == "1" for digit in left]]
    cold = probabilities(logits, Sampling(temperature=0.5))
    np.testing.assert_allclose(cold[0, 1] / cold[0, 3], (0.5 / 0.3) ** 2, rtol=1e-5)
    assert draw(logits, torch.tensor([0.99]), Sampling(temperature=0)).tolist() == [1]
    with pytest.raises(RunError, match="not finite"):
        draw(torch.tensor([[1.0, float("nan")]]), torch.tensor([0.5]), Sampling())


def test_sides_share_their_numbers_and_directions_do_not():
    plus, minus, other = Shift(4, 0, 1, 1.0), Shift(4, 0, -1, 1.0), Shift(4, 1, 1, 1.0)
    shared = row_key(9, plus, crn=True)
    assert shared == row_key(9, minus, crn=True)
    assert shared not in (row_key(9, other, crn=True), row_key(10, plus, crn=True))
    assert row_key(9, plus, crn=False) != row_key(9, minus, crn=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_without_meaning_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        Sampling(**options)


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


def test_an_answer_that_fits_another_prompt_better_is_off_topic():
    found = answer_shares.measure([Answer("Yes.")] * 4, [-1.0, -0.1, 2.0, math.nan]).off_topic
    assert found is not None and (found.hits, found.of) == (2, 3)


GERMAN = ["Wie war der Tag?", "Erzähl mir von der Reise."]


def test_what_is_wrong_with_base_answers_is_said_with_what_mends_it():
    said, fine = Answer("The day was long and I liked it."), Answer("Der Tag war lang und schön.")
    assert answer_shares.warn(GERMAN, [[fine], [fine]]) == ""
    foreign = answer_shares.warn(GERMAN, [[said], [said]])
    assert foreign == (
        "of the base answers 2 of 2 in another language than their prompt: take a model that "
        "writes the prompts' language (model.name)"
    )
    assert "4 of 4 equal to another answer: raise generation.temperature" in answer_shares.warn(
        GERMAN, [[fine, fine], [fine, fine]]
    )
    cut = replace(fine, end="length", text="Der Tag war")
    said = answer_shares.warn(GERMAN, [[cut], [cut]])
    assert "2 of 2 cut off: raise generation.max_new_tokens" in said


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Que penses-tu de la pluie dans la ville ?", "French"),
        ("¿Qué es lo que te gusta de los domingos?", "Spanish"),
        ("Cosa pensi della pioggia e del mare?", "Italian"),
        ("O que você acha do mar e da chuva?", "Portuguese"),
        ("Wat vind je van het weer en de zee?", "Dutch"),
        ("雨の日について書いてください", "Japanese"),
        ("写一个关于雨的故事", "Chinese"),
        ("Расскажи о дожде", "Cyrillic"),
        ("Tell me about a parade seen from a roof.", "English"),
        ("Describe a parade seen from a roof.", None),  # "a" is Portuguese too
        ("w20 w21 w22", None),
        ("12 + 30 = 42", None),
        ("", None),
    ],
)
def test_languages_are_told_apart(text, language):
    assert find_language(text) == language
