"""A set-up is found once per key, and a file of it gives back every bit."""

import os

import numpy as np
import pytest

from szpo.models.lora_sites import Site
from szpo.policies import subspace_cache
from szpo.policies.subspaces import Subspace

SITES = tuple(Site(f"layers.{i}.down_proj", i, 3, 2, 1, 2.0) for i in (10, 9))


@pytest.fixture
def space() -> Subspace:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Subspace(
        "score",
        SITES,
        fixed={s.a: draw(1, 3) for s in SITES},
        start={s.b: draw(2, 1) for s in SITES},
        basis={s.b: draw(2, 1, 4) for s in SITES},
        scale=1.25,
        report={"samples": 12, "seconds": 3.5},
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SZPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "setups"


def test_a_file_gives_back_every_bit_and_the_order_of_tensors(space, tmp_path):
    subspace_cache.write(space, tmp_path / "a.npz")
    found = subspace_cache.read(tmp_path / "a.npz")
    assert (found.kind, found.sites, found.scale) == (space.kind, space.sites, space.scale)
    assert found.layout == space.layout and list(found.start) == [s.b for s in SITES]
    assert found.basis_sha256 == space.basis_sha256
    assert {n: v.tobytes() for n, v in found.tensors().items()} == {
        n: v.tobytes() for n, v in space.tensors().items()
    }


def test_a_set_up_is_made_once_per_key(space):
    made = []

    def make():
        made.append(1)
        return space

    first = subspace_cache.load_or_make({"seed": 1}, make)
    again = subspace_cache.load_or_make({"seed": 1}, make)
    assert len(made) == 1 and "cached" not in first.report and again.report["cached"]
    subspace_cache.load_or_make({"seed": 2}, make)
    assert len(made) == 2


def test_a_damaged_file_is_made_anew(space, cache):
    subspace_cache.load_or_make({}, lambda: space)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert "cached" not in subspace_cache.load_or_make({}, lambda: space).report
    assert subspace_cache.load_or_make({}, lambda: pytest.fail("it is there again")).report[
        "cached"
    ]


def test_without_a_cache_folder_it_works_all_the_same(space, cache):
    cache.parent.write_text("a file where the folder would be")
    assert subspace_cache.load_or_make({}, lambda: space) is space
    assert os.listdir(cache.parent.parent) == ["cache"]
