"""θ changes in one place only, with one rounding, and comes back from every perturbation."""

import hashlib
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import RunError, UsageError
from szpo.optim import directions
from szpo.optim import parameters as c
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.types import Shift, Update

LAYOUT = (("a.B", (3, 2)), ("b.B", (5,)))
PLAIN = Law()


def random_theta(layout=LAYOUT, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in layout}


def test_direction_of_a_tensor_depends_on_its_name_only():
    alone = c.direction(Space(3, (("b.B", (5,)),), PLAIN), 4, 1)
    among = c.direction(Space(3, LAYOUT, PLAIN), 4, 1)
    assert (alone["b.B"] == among["b.B"]).all()
    renamed = c.direction(Space(3, (("c.B", (5,)),), PLAIN), 4, 1)
    assert (renamed["c.B"] != among["b.B"]).any()


def test_direction_changes_with_seed_step_and_k():
    vectors = [
        c.direction_vector(Space(seed, LAYOUT, PLAIN), step, k)
        for seed, step, k in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len({tuple(v) for v in vectors}) == 4


def test_vector_is_the_direction_in_layout_order():
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


def test_round13_is_elementwise():
    x = np.array([[0.1, -3.7], [1e-9, 4096.5]])
    assert c.round13(x).tolist() == [[float(c.round13(v)) for v in row] for row in x]


@given(st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_coefficient_times_direction_is_exact_in_fp32(coef, step):
    rounded = float(c.round13(coef))
    v = c.direction(Space(1, LAYOUT, PLAIN), step, 0)["b.B"]
    product = np.float32(rounded) * v
    assert (product.astype(np.float64) == rounded * v.astype(np.float64)).all()


def test_sum_has_a_single_rounding():
    space, theta = Space(1, LAYOUT, PLAIN), random_theta()
    coef = float(c.round13(0.0137))
    after = c.apply_update(space, theta, Update(3, 0, coef=coef))
    v = c.direction(space, 3, 0)
    for name, _ in LAYOUT:
        exact = theta[name].astype(np.float64) + coef * v[name].astype(np.float64)
        assert (after[name] == exact.astype(np.float32)).all()
        assert (after[name] != theta[name]).any()


def test_both_sides_are_written_from_theta():
    space, theta = Space(1, LAYOUT, PLAIN), random_theta()
    radius = float(c.round13(0.3))
    plus = c.shift(space, theta, Shift(0, 0, 1, radius))
    minus = c.shift(space, theta, Shift(0, 0, -1, radius))
    same = c.shift(space, theta, Shift(0, 0, 0, radius))
    v = c.direction(space, 0, 0)
    for name, _ in LAYOUT:
        assert (plus[name] == theta[name] + np.float32(radius) * v[name]).all()
        assert (minus[name] == theta[name] - np.float32(radius) * v[name]).all()
        assert (same[name] == theta[name]).all()
        assert same[name] is not theta[name]


def cycles(count):
    """Perturb both ways and come back, ``count`` times; θ's digest before and after."""
    space, theta = Space(8, LAYOUT, Law(normalise=True)), random_theta()
    before = c.digest(theta, LAYOUT)
    for step in range(count):
        for sign in (1, -1):
            side = c.shift(space, theta, Shift(step, 0, sign, 0.25))
            assert c.digest(side, LAYOUT) != before
        theta = c.shift(space, theta, Shift(step, 0, 0, 0.25))
    return before, c.digest(theta, LAYOUT)


def test_200_perturb_restore_cycles_leave_the_hash():
    before, after = cycles(200)
    assert after == before


@pytest.mark.slow
def test_10000_perturb_restore_cycles_leave_the_hash():
    before, after = cycles(10_000)
    assert after == before


def test_zero_coefficient_keeps_every_bit():
    theta = {"z": np.array([-0.0, 1.0], dtype=np.float32)}
    space = Space(0, (("z", (2,)),), PLAIN)
    after = c.apply_update(space, theta, Update(0, 0, coef=0.0))
    assert after["z"].tobytes() == theta["z"].tobytes()


def test_vector_update_is_added_in_fp32():
    layout = (("theta", (2, 2)),)
    theta = random_theta(layout)
    vector = tuple(np.float32([0.1, -0.2, 0.3, 1e-8]).tolist())
    after = c.apply_update(Space(0, layout, PLAIN), theta, Update(0, 0, vector=vector))
    expected = theta["theta"] + np.float32(vector).reshape(2, 2)
    assert (after["theta"] == expected).all()


def test_materialise_adds_column_after_column():
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


def test_materialise_refuses_what_does_not_fit():
    start = {"w": np.zeros((2,), np.float32)}
    with pytest.raises(UsageError, match="different tensors"):
        c.materialise(start, {}, [1.0])
    with pytest.raises(UsageError, match=r"basis w is float64 .* expected float32"):
        c.materialise(start, {"w": np.zeros((2, 1))}, [1.0])


def test_digest_is_the_hash_of_the_canonical_form():
    theta = {"z": np.array([1.0, -2.5], dtype=np.float32)}
    layout = (("z", (2,)),)
    body = b'["z",[2],"<f4"]' + bytes.fromhex("0000803f000020c0")
    assert c.digest(theta, layout) == hashlib.sha256(body).hexdigest()
    basis = c.basis_sha256({"P": np.zeros((2, 2), np.float32)})
    assert c.digest(theta, layout, basis) == hashlib.sha256(body + basis.encode()).hexdigest()


def test_digest_sees_one_bit_and_one_name():
    theta = random_theta()
    before = c.digest(theta, LAYOUT)
    theta["b.B"][4] = np.nextafter(theta["b.B"][4], np.float32(9))
    assert c.digest(theta, LAYOUT) != before
    assert c.layout_sha256(LAYOUT) != c.layout_sha256((*LAYOUT[:1], ("c.B", (5,))))
    canonical = json.dumps([["a.B", [3, 2]], ["b.B", [5]]], separators=(",", ":"))
    assert c.layout_sha256(LAYOUT) == hashlib.sha256(canonical.encode()).hexdigest()


def test_basis_digest_does_not_depend_on_the_order_of_the_mapping():
    a, b = np.ones((2, 1), np.float32), np.zeros((3, 1), np.float32)
    assert c.basis_sha256({"a": a, "b": b}) == c.basis_sha256({"b": b, "a": a})
    assert c.basis_sha256({"a": a, "b": b}) != c.basis_sha256({"a": b, "b": a})


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ((), "no trainable tensor"),
        ((("a", (2,)), ("a", (3,))), "occurs twice"),
        ((("a", (2, 0)),), "empty shape"),
    ],
)
def test_bad_layouts_are_refused(layout, words):
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


def test_an_overflow_is_found_before_it_is_applied():
    space, theta = Space(0, LAYOUT, PLAIN), random_theta()
    theta["a.B"][:] = np.copysign(np.float32(3e38), c.direction(space, 1, 0)["a.B"])
    with pytest.raises(RunError, match=r"step 1: the coefficient would make tensor a\.B non-fin"):
        c.apply_update(space, theta, Update(1, 0, coef=2.0**127))


def test_updates_that_do_not_fit_are_refused():
    space, theta = Space(0, LAYOUT, PLAIN), random_theta()
    with pytest.raises(UsageError, match="more than 13 significant bits"):
        c.apply_update(space, theta, Update(0, 0, coef=0.1))
    with pytest.raises(UsageError, match="exactly one of coef and vector"):
        c.apply_update(space, theta, Update(0, 0))
    with pytest.raises(UsageError, match="layout of one tensor"):
        c.apply_update(space, theta, Update(0, 0, vector=(0.0,) * 11))
    single = Space(0, (("z", (2,)),), PLAIN)
    with pytest.raises(UsageError, match="vector of 3 for 2 coordinates"):
        c.apply_update(single, c.zeros(single.layout), Update(0, 0, vector=(0.0,) * 3))
    with pytest.raises(UsageError, match=r"tensor z is float64 \(2,\)"):
        c.digest({"z": np.zeros(2)}, single.layout)


# ---- the law orthonormal ----


def test_orthonormal_directions_of_a_step_are_orthogonal_and_their_features_rounded():
    space = Space(7, (("z", (8,)),), Law("orthonormal"))
    v = np.stack([c.factor(space, 3, k) * c.direction_vector(space, 3, k) for k in range(8)])
    gram = v @ v.T
    # The factor makes each length √8; the grid leaves about √(8/6)/256 between two of them.
    assert np.diag(gram) == pytest.approx(np.full(8, 8.0), rel=1e-12)
    assert abs(gram - np.diag(np.diag(gram))).max() < 6 * np.sqrt(8 / 6) / 256
    plain = Space(7, (("z", (8,)),), Law(normalise=True))
    first = c.factor(plain, 3, 0) * c.direction_vector(plain, 3, 0)
    assert v[0] == pytest.approx(first, abs=0.02)  # the first is the Gaussian one, rescaled


def test_more_directions_than_coordinates_begin_another_frame():
    space = Space(7, (("z", (3,)),), Law("orthonormal"))
    v = np.stack([c.direction_vector(space, 0, k) for k in range(6)])
    for frame in (v[:3], v[3:]):
        gram = frame @ frame.T
        assert abs(gram - np.diag(np.diag(gram))).max() < 0.05
    assert abs(v[:3] @ v[3:].T).max() > 0.3
    again = c.direction_vector(Space(7, (("z", (3,)),), Law("orthonormal")), 0, 4)
    assert (again == v[4]).all()


def test_a_longer_frame_has_the_directions_of_a_shorter_one():
    space = Space(1, (("z", (20,)),), Law("orthonormal"))
    drawn = np.stack([c._integers(Space(1, space.layout, Law()), 2, k)[0] for k in range(20)])
    whole = directions.orthonormal(drawn) / 256
    for k in (0, 7, 8, 13, 19):  # made in portions of eight
        assert (c.direction_vector(space, 2, k) == whole[k]).all()


def test_orthonormal_needs_one_small_tensor():
    with pytest.raises(UsageError, match="one tensor of at most 256 coordinates"):
        Space(1, (("z", (257,)),), Law("orthonormal"))
    with pytest.raises(UsageError, match="here are 2 of 4; choose gaussian"):
        Space(1, (("a", (2,)), ("b", (2,))), Law("orthonormal"))
