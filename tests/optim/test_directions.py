"""Directions are integers: golden vectors, exact moments, and slices that agree."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.errors import IntegrityError, UsageError
from szpo.optim import directions
from szpo.optim.directions import Law

KEYS = st.binary(min_size=16, max_size=16)


def test_table_has_exact_moments():
    v = directions.table().astype(np.int64)
    assert len(v) == 65536
    assert v.sum() == 0
    assert (v**3).sum() == 0
    # Variance and kurtosis of the quantiles at (i + ½)/65536, rounded to 1/256.
    assert (v**2).sum() == 4_294_886_358
    assert (v**4).sum() == 844_177_123_093_950
    assert (v**2).sum() / 2**32 == pytest.approx(0.99998, abs=1e-5)
    assert (v**4).mean() / (v**2).mean() ** 2 == pytest.approx(2.999, abs=5e-4)
    assert v.max() == -v.min() == 1107  # 4.324
    assert (np.diff(v) >= 0).all()


def test_a_table_of_other_quantiles_is_refused(monkeypatch):
    monkeypatch.setattr(directions, "TABLE_SHA256", "0" * 64)
    directions.table.cache_clear()
    with pytest.raises(IntegrityError, match="direction table: SHA-256"):
        directions.table()
    monkeypatch.undo()
    directions.table.cache_clear()
    assert len(directions.table()) == 65536


def test_table_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="read-only"):
        directions.table()[0] = 1


def test_golden_direction():
    key = seeds.derive(0, "direction", step=0, k=0, name="z")
    assert directions.DIRECTION_VERSION == 1  # other numbers below need another version
    assert directions.gaussian(key, 8).tolist() == GOLDEN_GAUSSIAN


def test_words_are_read_from_the_low_bits_up():
    key = bytes(range(16))
    word = int(seeds.bits(key, 1)[0])
    picks = [word >> 16 * i & 0xFFFF for i in range(4)]
    assert directions.gaussian(key, 4).tolist() == directions.table()[picks].tolist()


@given(KEYS, st.integers(0, 30), st.integers(0, 30))
def test_any_slice_agrees_with_the_whole(key, start, n):
    whole = directions.gaussian(key, 60)
    assert (directions.gaussian(key, n, start) == whole[start : start + n]).all()


def test_an_unknown_law_is_refused():
    with pytest.raises(UsageError, match="'cauchy' is unknown"):
        Law("cauchy")


def test_small_spaces_are_normalised_by_default():
    assert Law.for_dim(64).normalise
    assert not Law.for_dim(65).normalise


def test_factor_makes_the_length_root_d_and_keeps_the_zero_direction():
    v = directions.gaussian(bytes(16), 5).astype(np.int64)
    factor = directions.gaussian_factor(int((v**2).sum()), 5)
    assert factor * np.linalg.norm(v / 256) == pytest.approx(np.sqrt(5), rel=1e-14)
    assert directions.gaussian_factor(0, 1) == 1.0


GOLDEN_GAUSSIAN = [-149, 524, -97, -606, 69, -3, -210, 82]


# ---- orthonormal frames ----

ROWS = st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**32 - 1))


def draw(count, dim, seed):
    return np.random.default_rng(seed).integers(-1107, 1108, (count, dim)).astype(np.int16)


@given(ROWS)
def test_doubles_give_the_integers_of_fifty_digits(rows):
    count, more, seed = rows
    drawn = draw(count, count + more, seed)
    fast = directions._in_doubles(drawn)
    exact = directions._in_decimals(drawn)
    assert fast is None or (fast == exact).all()
    assert (directions.orthonormal(drawn) == exact).all()


def test_doubles_serve_nearly_every_frame_and_are_within_the_error_they_claim():
    for count, dim in ((8, 8), (8, 64), (16, 100)):
        done = [directions._in_doubles(draw(count, dim, seed)) for seed in range(40)]
        assert sum(one is not None for one in done) >= 39
        for seed in range(3):
            exact = directions._in_decimals(draw(count, dim, seed))
            assert done[seed] is None or (done[seed] == exact).all()


def test_values_at_a_half_are_left_to_fifty_digits_and_go_to_the_even_side():
    # |v|² = 12·511² + HALVES = 2048², and √16 · 256 = 1024: each value is x · 1024/2048 = x/2.
    row = [511] * 12 + HALVES
    assert sum(x * x for x in row) == 2048**2
    drawn = np.array([row], dtype=np.int16)
    assert directions._in_doubles(drawn) is None
    assert directions.orthonormal(drawn)[0].tolist() == [round(x / 2) for x in row]


def test_nearly_dependent_rows_are_left_to_fifty_digits():
    drawn = draw(8, 8, 0)
    drawn[1] = drawn[0]
    assert directions._in_doubles(drawn) is None
    v = directions.orthonormal(drawn).astype(float)
    assert abs(v[1] @ v[0]) / 256**2 < 0.1


def test_rows_that_depend_on_others_give_way_to_unit_vectors():
    drawn = np.array([[0, 0, 0], [0, 5, 0], [0, -5, 0]], dtype=np.int16)
    # √3 · 256 = 443.4; the zero row becomes e₀, the third row e₂.
    assert directions.orthonormal(drawn).tolist() == [[443, 0, 0], [0, 443, 0], [0, 0, 443]]
    assert directions.orthonormal(np.zeros((1, 1), dtype=np.int16)).tolist() == [[256]]


@pytest.mark.parametrize(("count", "dim"), [(8, 8), (8, 64), (64, 64), (3, 256)])
def test_rows_are_orthogonal_within_the_rounding_of_the_grid(count, dim):
    v = directions.orthonormal(draw(count, dim, 5)).astype(np.float64)
    gram = v @ v.T / directions.GRID**2
    # Each entry is off by ½/256 at most, by √(1/12)/256 on average: a product of two rows, each of
    # length √d, by about √(2d/12)/256.
    off = np.abs(gram - np.diag(np.diag(gram)))
    assert off.max() < 6 * np.sqrt(dim / 6) / 256
    assert np.diag(gram) == pytest.approx(np.full(count, dim), abs=6 * np.sqrt(dim / 3) / 256)


def test_golden_frame():
    keys = [seeds.derive(0, "direction", step=0, k=k, name="z") for k in range(3)]
    drawn = np.stack([directions.gaussian(key, 4) for key in keys])
    assert drawn[0].tolist() == GOLDEN_GAUSSIAN[:4]
    found = directions.orthonormal(drawn)
    # The first row is the drawn one, brought to length 2: 512 · v/|v|, |v| = 820.6…
    norm = math.sqrt(sum(x * x for x in GOLDEN_GAUSSIAN[:4]))
    assert found[0].tolist() == [round(512 * x / norm) for x in GOLDEN_GAUSSIAN[:4]]
    assert found.tolist() == GOLDEN_FRAME


def test_a_law_knows_its_version():
    assert Law("orthonormal").version == directions.ORTHONORMAL_VERSION
    assert Law().version == directions.DIRECTION_VERSION
    assert Law("orthonormal").scaled


GOLDEN_FRAME = [[-93, 327, -61, -378], [-359, -277, 159, -177], [-343, 238, -29, 295]]
HALVES = [1, 1, 175, 1015]
