"""θ changes in one place only, with one rounding, and comes back from every perturbation."""

import hashlib
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.errors import IntegrityError, RunError, UsageError
from szpo.optim import parameters as c
from szpo.optim import sample_directions
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.types import Shift, Update

LAYOUT = (("a.B", (3, 2)), ("b.B", (5,)))
PLAIN = Law()


def random_theta(layout=LAYOUT, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in layout}


def test_a_direction_depends_on_names_seed_step_and_k_alone():
    alone = c.direction(Space(3, (("b.B", (5,)),), PLAIN), 4, 1)
    among = c.direction(Space(3, LAYOUT, PLAIN), 4, 1)
    assert (alone["b.B"] == among["b.B"]).all()
    renamed = c.direction(Space(3, (("c.B", (5,)),), PLAIN), 4, 1)
    assert (renamed["c.B"] != among["b.B"]).any()
    vectors = [
        c.direction_vector(Space(seed, LAYOUT, PLAIN), step, k)
        for seed, step, k in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({tuple(v) for v in vectors}) == 4
    space = Space(9, LAYOUT, PLAIN)
    parts = c.direction(space, 2, 0)
    flat = np.concatenate([parts[name].ravel() for name, _ in LAYOUT])
    assert flat.dtype == np.float32
    assert (c.direction_vector(space, 2, 0) == flat).all()


def test_factor_of_each_law():
    assert c.factor(Space(0, LAYOUT, PLAIN), 0, 0) == 1.0
    space = Space(0, LAYOUT, Law(normalise=True))
    length = c.factor(space, 5, 0) * np.linalg.norm(c.direction_vector(space, 5, 0))
    assert length == pytest.approx(np.sqrt(11), rel=1e-14)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30))
def test_round13_keeps_thirteen_bits_halves_to_even(x):
    found = Fraction(float(c.round13(x)))
    exact = Fraction(x)
    if exact == 0:
        assert found == 0
        return
    exponent = np.frexp(x)[1] - 13
    unit = Fraction(2) ** int(exponent)
    assert found == round(exact / unit) * unit  # Python rounds halves to even
    assert float(c.round13(float(found))) == found


@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_coefficient_times_direction_is_exact_in_fp32(coef, step):
    rounded = float(c.round13(coef))
    v = c.direction(Space(1, LAYOUT, PLAIN), step, 0)["b.B"]
    product = np.float32(rounded) * v
    assert (product.astype(np.float64) == rounded * v.astype(np.float64)).all()


def test_sums_have_a_single_rounding_and_zero_keeps_every_bit():
    space, theta = Space(1, LAYOUT, PLAIN), random_theta()
    coef = float(c.round13(0.0137))
    after = c.apply_update(space, theta, Update(3, 0, coef=coef))
    v = c.direction(space, 3, 0)
    for name, _ in LAYOUT:
        exact = theta[name].astype(np.float64) + coef * v[name].astype(np.float64)
        assert (after[name] == exact.astype(np.float32)).all()
        assert (after[name] != theta[name]).any()
    theta = {"z": np.array([-0.0, 1.0], dtype=np.float32)}
    space = Space(0, (("z", (2,)),), PLAIN)
    after = c.apply_update(space, theta, Update(0, 0, coef=0.0))
    assert after["z"].tobytes() == theta["z"].tobytes()
    layout = (("theta", (2, 2)),)
    theta = random_theta(layout)
    vector = tuple(np.float32([0.1, -0.2, 0.3, 1e-8]).tolist())
    after = c.apply_update(Space(0, layout, PLAIN), theta, Update(0, 0, vector=vector))
    expected = theta["theta"] + np.float32(vector).reshape(2, 2)
    assert (after["theta"] == expected).all()


def test_both_sides_are_written_from_theta():
    space, theta = Space(1, LAYOUT, PLAIN), random_theta()
    radius = float(c.round13(0.3))
    plus, minus, same = (c.shift(space, theta, Shift(0, 0, sign, radius)) for sign in (1, -1, 0))
    v = c.direction(space, 0, 0)
    for name, _ in LAYOUT:
        assert (plus[name] == theta[name] + np.float32(radius) * v[name]).all()
        assert (minus[name] == theta[name] - np.float32(radius) * v[name]).all()
        assert (same[name] == theta[name]).all()
        assert same[name] is not theta[name]


def test_materialise_adds_column_after_column_and_refuses_what_does_not_fit():
    rng = np.random.default_rng(3)
    start = {"w": rng.normal(size=(4, 3)).astype(np.float32)}
    basis = {"w": rng.normal(size=(4, 3, 5)).astype(np.float32)}
    z = rng.normal(size=5).astype(np.float32)
    found = c.materialise(start, basis, z)["w"]
    for index in np.ndindex(4, 3):
        total = start["w"][index]
        for j in range(5):
            total = np.float32(total + np.float32(basis["w"][(*index, j)] * z[j]))
        assert found[index] == total
    assert found == pytest.approx(start["w"] + basis["w"] @ z, rel=1e-4)
    start = {"w": np.zeros((2,), np.float32)}
    with pytest.raises(UsageError, match="different tensors"):
        c.materialise(start, {}, [1.0])
    with pytest.raises(UsageError, match=r"basis w is float64 .* expected float32"):
        c.materialise(start, {"w": np.zeros((2, 1))}, [1.0])


def test_digests_are_of_the_canonical_form_and_see_one_bit_and_one_name():
    theta = {"z": np.array([1.0, -2.5], dtype=np.float32)}
    layout = (("z", (2,)),)
    body = b'["z",[2],"<f4"]' + bytes.fromhex("0000803f000020c0")
    assert c.digest(theta, layout) == hashlib.sha256(body).hexdigest()
    basis = c.basis_sha256({"P": np.zeros((2, 2), np.float32)})
    assert c.digest(theta, layout, basis) == hashlib.sha256(body + basis.encode()).hexdigest()
    theta = random_theta()
    before = c.digest(theta, LAYOUT)
    theta["b.B"][4] = np.nextafter(theta["b.B"][4], np.float32(9))
    assert c.digest(theta, LAYOUT) != before
    assert c.layout_sha256(LAYOUT) != c.layout_sha256((*LAYOUT[:1], ("c.B", (5,))))
    canonical = json.dumps([["a.B", [3, 2]], ["b.B", [5]]], separators=(",", ":"))
    assert c.layout_sha256(LAYOUT) == hashlib.sha256(canonical.encode()).hexdigest()
    a, b = np.ones((2, 1), np.float32), np.zeros((3, 1), np.float32)
    assert c.basis_sha256({"a": a, "b": b}) == c.basis_sha256({"b": b, "a": a})
    assert c.basis_sha256({"a": a, "b": b}) != c.basis_sha256({"a": b, "b": a})


def test_bad_layouts_are_refused():
    for layout, words in (
        ((), "no trainable tensor"), ((("a", (2,)), ("a", (3,))), "occurs twice"),
        ((("a", (2, 0)),), "empty shape"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            Space(0, layout, PLAIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_coefficients_name_the_step_and_apply_nothing(value):
    space, theta = Space(0, LAYOUT, PLAIN), random_theta()
    before = c.digest(theta, LAYOUT)
    with pytest.raises(RunError, match=r"step 7: coefficient of direction 2 is .*nothing was"):
        c.apply_update(space, theta, Update(7, 2, coef=value))
    with pytest.raises(RunError, match="step 7: radius of direction 0 is"):
        c.shift(space, theta, Shift(7, 0, 1, value))
    assert c.digest(theta, LAYOUT) == before


def test_what_does_not_fit_or_overflows_is_refused_before_it_is_applied():
    space, theta = Space(0, LAYOUT, PLAIN), random_theta()
    theta["a.B"][:] = np.copysign(np.float32(3e38), c.direction(space, 1, 0)["a.B"])
    with pytest.raises(RunError, match=r"step 1: the coefficient would make tensor a\.B non-fin"):
        c.apply_update(space, theta, Update(1, 0, coef=2.0**127))
    single = Space(0, (("z", (2,)),), PLAIN)
    for where, move, words in (
        (space, {"coef": 0.1}, "more than 13 significant bits"),
        (space, {}, "exactly one of coef and vector"),
        (space, {"vector": (0.0,) * 11}, "layout of one tensor"),
        (single, {"vector": (0.0,) * 3}, "vector of 3 for 2 coordinates"),
    ):
        with pytest.raises(UsageError, match=words):
            c.apply_update(where, c.zeros(where.layout), Update(0, 0, **move))
    with pytest.raises(UsageError, match=r"tensor z is float64 \(2,\)"):
        c.digest({"z": np.zeros(2)}, single.layout)


@pytest.mark.parametrize("dim", [8, 64])
def test_orthonormal_directions_of_a_step_are_orthogonal_and_their_features_rounded(dim):
    space = Space(7, (("z", (dim,)),), Law("orthonormal"))
    v = np.stack([c.factor(space, 3, k) * c.direction_vector(space, 3, k) for k in range(dim)])
    gram = v @ v.T
    # The factor makes each length √d. Each entry is off by ½/256 at most, by √(1/12)/256 on
    # average: a product of two rows by about √(2d/12)/256.
    assert np.diag(gram) == pytest.approx(np.full(dim, float(dim)), rel=1e-12)
    assert abs(gram - np.diag(np.diag(gram))).max() < 6 * np.sqrt(dim / 6) / 256
    plain = Space(7, (("z", (dim,)),), Law(normalise=True))
    first = c.factor(plain, 3, 0) * c.direction_vector(plain, 3, 0)
    assert v[0] == pytest.approx(first, abs=0.02)  # the first is the Gaussian one, rescaled


def test_directions_beyond_the_coordinates_begin_another_frame_and_portions_change_none():
    space = Space(7, (("z", (3,)),), Law("orthonormal"))
    v = np.stack([c.direction_vector(space, 0, k) for k in range(6)])
    for frame in (v[:3], v[3:]):
        gram = frame @ frame.T
        assert abs(gram - np.diag(np.diag(gram))).max() < 0.05
    assert abs(v[:3] @ v[3:].T).max() > 0.3
    again = c.direction_vector(Space(7, (("z", (3,)),), Law("orthonormal")), 0, 4)
    assert (again == v[4]).all()
    space = Space(1, (("z", (20,)),), Law("orthonormal"))
    drawn = np.stack([c._integers(Space(1, space.layout, Law()), 2, k)[0] for k in range(20)])
    whole = sample_directions.orthonormal(drawn) / 256
    for k in (0, 7, 8, 13, 19):  # made in portions of eight
        assert (c.direction_vector(space, 2, k) == whole[k]).all()


KEYS = st.binary(min_size=16, max_size=16)


def test_the_table_has_exact_moments_and_is_that_one(monkeypatch):
    v = sample_directions.table().astype(np.int64)
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
    monkeypatch.setattr(sample_directions, "TABLE_SHA256", "0" * 64)
    sample_directions.table.cache_clear()
    with pytest.raises(IntegrityError, match="direction table: SHA-256"):
        sample_directions.table()
    monkeypatch.undo()
    sample_directions.table.cache_clear()
    assert len(sample_directions.table()) == 65536
    with pytest.raises(ValueError, match="read-only"):
        sample_directions.table()[0] = 1


def test_directions_are_these_numbers():
    key = seeds.derive(0, "direction", step=0, k=0, name="z")
    assert sample_directions.gaussian(key, 8).tolist() == GOLDEN_GAUSSIAN
    key = bytes(range(16))
    word = int(seeds.bits(key, 1)[0])
    picks = [word >> 16 * i & 0xFFFF for i in range(4)]
    assert sample_directions.gaussian(key, 4).tolist() == sample_directions.table()[picks].tolist()
    keys = [seeds.derive(0, "direction", step=0, k=k, name="z") for k in range(3)]
    drawn = np.stack([sample_directions.gaussian(key, 4) for key in keys])
    assert drawn[0].tolist() == GOLDEN_GAUSSIAN[:4]
    found = sample_directions.orthonormal(drawn)
    # The first row is the drawn one, brought to length 2: 512 · v/|v|, |v| = 820.6…
    norm = math.sqrt(sum(x * x for x in GOLDEN_GAUSSIAN[:4]))
    assert found[0].tolist() == [round(512 * x / norm) for x in GOLDEN_GAUSSIAN[:4]]
    assert found.tolist() == GOLDEN_FRAME


@given(KEYS, st.integers(0, 30), st.integers(0, 30))
def test_any_slice_agrees_with_the_whole(key, start, n):
    whole = sample_directions.gaussian(key, 60)
    assert (sample_directions.gaussian(key, n, start) == whole[start : start + n]).all()


def test_a_law_is_known_and_normalises_small_spaces():
    with pytest.raises(UsageError, match="'cauchy' is unknown"):
        Law("cauchy")
    assert Law.for_dim(64).normalise
    assert not Law.for_dim(65).normalise
    assert Law("orthonormal").scaled
    with pytest.raises(UsageError, match="one tensor of at most 256 coordinates"):
        Space(1, (("z", (257,)),), Law("orthonormal"))
    with pytest.raises(UsageError, match="there are 2 tensors of 4 coordinates; choose gaussian"):
        Space(1, (("a", (2,)), ("b", (2,))), Law("orthonormal"))


GOLDEN_GAUSSIAN = [-149, 524, -97, -606, 69, -3, -210, 82]

ROWS = st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**32 - 1))


def draw(count, dim, seed):
    return np.random.default_rng(seed).integers(-1107, 1108, (count, dim)).astype(np.int16)


@given(ROWS)
def test_doubles_give_the_integers_of_fifty_digits(rows):
    count, more, seed = rows
    drawn = draw(count, count + more, seed)
    fast = sample_directions._in_doubles(drawn)
    exact = sample_directions._in_decimals(drawn)
    assert fast is None or (fast == exact).all()
    assert (sample_directions.orthonormal(drawn) == exact).all()


def test_what_doubles_cannot_decide_is_left_to_fifty_digits():
    # |v|² = 12·511² + HALVES = 2048², and √16 · 256 = 1024: each value is x · 1024/2048 = x/2.
    row = [511] * 12 + HALVES
    assert sum(x * x for x in row) == 2048**2
    drawn = np.array([row], dtype=np.int16)
    assert sample_directions._in_doubles(drawn) is None
    assert sample_directions.orthonormal(drawn)[0].tolist() == [round(x / 2) for x in row]
    drawn = draw(8, 8, 0)
    drawn[1] = drawn[0]
    assert sample_directions._in_doubles(drawn) is None
    v = sample_directions.orthonormal(drawn).astype(float)
    assert abs(v[1] @ v[0]) / 256**2 < 0.1
    drawn = np.array([[0, 0, 0], [0, 5, 0], [0, -5, 0]], dtype=np.int16)
    # √3 · 256 = 443.4; the zero row becomes e₀, the third row e₂.
    assert sample_directions.orthonormal(drawn).tolist() == [[443, 0, 0], [0, 443, 0], [0, 0, 443]]
    assert sample_directions.orthonormal(np.zeros((1, 1), dtype=np.int16)).tolist() == [[256]]


GOLDEN_FRAME = [[-93, 327, -61, -378], [-359, -277, 159, -177], [-343, 238, -29, 295]]
HALVES = [1, 1, 175, 1015]
