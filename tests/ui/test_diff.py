"""Difference marks: lossless, symmetric, off where they would not help, bounded in time."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo_ui.web import diff
from szpo_ui.web.diff import MOST_LETTERS, MOST_WORDS, SIMILAR, compare

TEXTS = st.text(alphabet="ab c.\n,ü漢字'’\u202e\x00", max_size=60)


def joined(pieces):
    return "".join(piece.text for piece in pieces)


@given(TEXTS, TEXTS)
def test_the_pieces_joined_are_the_texts_and_marks_stand_only_above_the_threshold(a, b):
    found = compare(a, b)
    assert (joined(found.a), joined(found.b)) == (a, b)
    assert all(piece.text for piece in (*found.a, *found.b))
    assert not found.marked or found.similarity >= SIMILAR


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text):
    found = compare(text, text)
    assert not found.marked and found.similarity == 1.0


@pytest.mark.parametrize(
    ("a", "b", "marked"),
    [
        ("It rained on the roof.", "It rained softly on the shelter.", "roof|softly|shelter"),
        # Neighbouring words share a mark, and punctuation stands alone.
        ("I like red wine, always.", "I like cold water, always.", "red wine|cold water"),
        ("one two\nthree", "one  two three", ""),
        ("今日はとても良い天気です", "今日はとても悪い天気です", "良|悪"),
    ],
)
def test_only_what_differs_is_marked(a, b, marked):
    found = compare(a, b)
    pieces = [piece.text for piece in (*found.a, *found.b) if piece.differs]
    assert "|".join(pieces) == marked


def test_what_would_take_long_is_not_compared():
    different = " ".join(f"w{i}" for i in range(MOST_WORDS))
    for a, b in [
        (different, f"{different} more"),
        ("a " * MOST_WORDS, "a b " * (MOST_WORDS // 2)),  # a model that repeats itself
        ("word " * (MOST_WORDS + 1), "word " * MOST_WORDS),
        ("x" * 200_000, "x" * 199_999),
    ]:
        found = compare(a, b)
        assert found.similarity is None and not found.marked


def kept_after(pairs):
    """Bytes that stay in memory when so many pairs have been compared."""
    diff._compare_words.cache_clear()
    tracemalloc.start()
    try:
        for a, b in pairs:
            compare(a, b)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        diff._compare_words.cache_clear()


def long_pairs(count, letters, words):
    """Pairs that differ in each second word, of so many letters and words a side."""
    drawn = random.Random(1)
    size = letters // words - 1
    for _ in range(count):
        a = [f"{drawn.getrandbits(4 * size):0{size}x}" for _ in range(words)]
        yield " ".join(a), " ".join(word[::-1] if i % 2 else word for i, word in enumerate(a))


@pytest.mark.full
def test_what_is_stored_is_bounded_in_bytes():
    # Enough pairs that what other threads of this process allocate meanwhile does not count.
    each = kept_after(long_pairs(48, MOST_LETTERS, MOST_WORDS)) / 48
    assert diff._compare_words.cache_info().maxsize * each < 2**26


def test_of_answers_that_are_not_compared_nothing_is_stored():
    texts = (("x" * 300_000 + str(i), "y" * 300_000 + str(i)) for i in range(50))
    assert kept_after(texts) < 1_000_000
