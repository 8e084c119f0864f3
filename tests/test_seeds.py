"""Keys are hashes of canonical JSON; streams are Philox words that may be cut anywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.errors import UsageError

KEYS = st.binary(min_size=16, max_size=16)


def test_a_key_is_the_head_of_the_hash_of_its_canonical_list():
    text = b'["szpo",1,7,"direction",3,0,"layer.B"]'
    key = seeds.derive(7, "direction", step=3, k=0, name="layer.B")
    assert key == hashlib.sha256(text).digest()[:16]
    text = b'["szpo",2,0,"rollout",5,null,null]'
    key = seeds.derive(0, "rollout", step=np.int64(5), version=2)
    assert key == hashlib.sha256(text).digest()[:16]
    keys = {
        seeds.derive(1, "a"),
        seeds.derive(2, "a"),
        seeds.derive(1, "b"),
        seeds.derive(1, "a", step=0),
        seeds.derive(1, "a", k=0),
        seeds.derive(1, "a", name=""),
        seeds.derive(1, "a", version=2),
    }
    assert len(keys) == 7


def test_a_seed_is_an_integer_in_its_range():
    for seed in (-1, 2**63):
        with pytest.raises(UsageError, match=r"out of range; give an integer in \[0, 2\*\*63\)"):
            seeds.derive(seed, "direction")
    for seed in (1.0, "1", True, None):
        with pytest.raises(UsageError, match="not an integer"):
            seeds.derive(seed, "direction")


def test_words_follow_the_published_philox_vectors():
    # Known answers of philox4x64-10 for counter 0 and key 0 (Salmon et al. 2011, Random123).
    # NumPy counts up before the first block, so counter 0 is reached from 2**256 - 1.
    stream = np.random.Philox(counter=2**256 - 1, key=0).random_raw(8)
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert stream[:4].tolist() == known
    assert (seeds.bits(bytes(16), 4) == stream[4:]).all()


@given(KEYS, st.integers(0, 50), st.integers(0, 40))
def test_any_slice_agrees_with_the_whole(key, start, n):
    whole = seeds.bits(key, 100)
    assert (seeds.bits(key, n, start) == whole[start : start + n]).all()


@given(KEYS, st.integers(0, 40))
def test_uniform_is_53_bits_of_a_word(key, start):
    u = seeds.uniform(key, 5, start)
    assert ((u >= 0) & (u < 1)).all()
    assert u.tolist() == [int(w) // 2**11 / 2**53 for w in seeds.bits(key, 5, start)]


@given(KEYS, st.integers(0, 20), st.integers(1, 2**40))
def test_integer_is_below_its_bound(key, index, below):
    assert 0 <= seeds.integer(key, index, below) < below


@given(KEYS, st.integers(0, 60))
def test_permutation_is_one(key, n):
    assert sorted(seeds.permutation(key, n).tolist()) == list(range(n))


def test_a_child_has_a_valid_seed_of_its_own():
    found = {seeds.child_seed(4, step, name) for step in (0, 1) for name in ("a", "b")}
    assert len(found) == 4
    assert all(0 <= seed < 2**63 for seed in found)


def test_an_integer_takes_every_value_below_its_bound_and_needs_one():
    assert {seeds.integer(bytes(16), i, 5) for i in range(100)} == set(range(5))
    with pytest.raises(UsageError, match="at least 1"):
        seeds.integer(bytes(16), 0, 0)
