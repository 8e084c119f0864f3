"""Recorded differences: integers, exact, and what must and must not change them."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from szpo.features.dictionary import BY_NAME, ENTRIES
from szpo.features.differences import difference, differences, scale

SENTENCE = st.lists(
    st.sampled_from(["Rain", "I", "the", "sea,", "was", "!", "good.", "\n- Why?", "7", "☔"]),
    max_size=9,
).map(" ".join)
ROWS = st.lists(st.tuples(SENTENCE, SENTENCE, SENTENCE), min_size=1, max_size=6)
SCALES = [1 + 37 * i % 9000 for i in range(len(ENTRIES))]


def of(rows: list[tuple[str, str, str]]) -> tuple[int, ...]:
    prompts, plus, minus = zip(*rows, strict=True)
    return differences(plus, minus, prompts, SCALES)


@given(ROWS, st.randoms(use_true_random=False))
def test_sides_exchanged_change_every_sign_and_the_order_of_rows_none(rows, chance):
    turned = [(prompt, minus, plus) for prompt, plus, minus in rows]
    assert of(turned) == tuple(-value for value in of(rows))
    mixed = list(rows)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert of(mixed) == of(rows)


@given(ROWS)
def test_equal_sides_give_zero_row_by_row_and_as_batches(rows):
    assert set(of([(prompt, plus, plus) for prompt, plus, _ in rows])) == {0}
    # the same answers to one prompt, in another order on the other side
    plus = [text for _, text, _ in rows]
    found = differences(plus, plus[::-1], ["the sea"] * len(plus), SCALES)
    assert set(found) == {0}


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 50)), min_size=1, max_size=8),
    st.integers(1, 20_000),
)
def test_rounded_once_half_to_even(values, spread):
    found = difference(values, [(0, 1)] * len(values), len(values), spread)
    exact = sum((Fraction(*v) for v in values), Fraction()) / len(values) * 4096 / Fraction(
        spread, 4096
    )  # fmt: skip
    assert type(found) is int and abs(found - exact) <= Fraction(1, 2)
    assert abs(found - exact) < Fraction(1, 2) or found % 2 == 0


def test_values_by_hand():
    entries = [BY_NAME["length"], BY_NAME["questions"], BY_NAME["commas"]]
    plus, minus = ["a b", "c", "d, e"], ["a", "c", "d e?"]
    # (1 + 0 + 0)/3 words at a spread of 2; −1/3 marks at 1/2; (1/2)/3 commas a word, no spread
    found = differences(plus, minus, ["?"] * 3, [scale(2), scale(0.5), 0], entries)
    assert found == (round(4096 / 6), -round(2 * 4096 / 3), 0)
    assert difference([(1, 2)], [(0, 1)], 1, 4096 * 4096) == 0  # a half goes to the even integer
    assert difference([(3, 2)], [(0, 1)], 1, 4096 * 4096) == 2
