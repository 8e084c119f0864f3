"""Difference marks: lossless, symmetric, off where they would not help, bounded in time."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo_ui import markup
from szpo_ui.markup import MOST_WORDS, SIMILAR, compare

TEXTS = st.text(alphabet="ab c.\n,ü漢字'’\u202e\x00", max_size=60)


def joined(pieces):
    return "".join(piece.text for piece in pieces)


def marked(found):
    return [piece.text for side in found for piece in side if piece.differs]


def words(pieces):
    found = (word for piece in pieces for word in re.findall(markup._WORDS, piece.text))
    return sum(not word.isspace() for word in found)


@given(TEXTS, TEXTS)
def test_the_pieces_joined_are_the_texts_and_marks_stand_only_above_the_threshold(a, b):
    found = compare(a, b)
    assert tuple(map(joined, found)) == (a, b)
    assert all(piece.text for side in found for piece in side)
    alike = [[piece for piece in side if not piece.differs] for side in found]
    lead = a[:1].isspace() + b[:1].isspace()  # space at the beginning counts as a word
    share = (lead + sum(map(words, alike))) / max(1, lead + sum(map(words, found)))
    assert not marked(found) or share >= SIMILAR


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text):
    assert not marked(compare(text, text))


@pytest.mark.parametrize(
    ("a", "b", "differing"),
    [
        ("It rained on the roof.", "It rained softly on the shelter.", "roof|softly|shelter"),
        # Neighbouring words share a mark, and punctuation stands alone.
        ("I like red wine, always.", "I like cold water, always.", "red wine|cold water"),
        ("one two\nthree", "one  two three", ""),
        ("今日はとても良い天気です", "今日はとても悪い天気です", "良|悪"),
    ],
)
def test_only_what_differs_is_marked(a, b, differing):
    assert "|".join(marked(compare(a, b))) == differing


def test_what_would_take_long_is_not_compared():
    different = " ".join(f"w{i}" for i in range(MOST_WORDS))
    for a, b in [
        (different, f"{different} more"),
        ("a " * MOST_WORDS, "a b " * (MOST_WORDS // 2)),  # a model that repeats itself
        ("word " * (MOST_WORDS + 1), "word " * MOST_WORDS),
        ("x" * 200_000, "x" * 199_999),
    ]:
        assert not marked(compare(a, b))


def test_of_answers_that_are_not_compared_nothing_is_stored():
    markup._compare_words.cache_clear()
    tracemalloc.start()
    try:
        for i in range(50):
            compare("x" * 300_000 + str(i), "y" * 300_000 + str(i))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
