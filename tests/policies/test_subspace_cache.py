"""A set-up is found once per key, and a file of it gives back every bit."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.ledger.database import Ledger
from szpo.models import adapters
from szpo.models.identity import TENSORS, Identity
from szpo.models.lora import Site
from szpo.policies import subspace_setup
from szpo.policies.subspaces import FeatureMap, Subspace
from szpo.types import Prompt
from tests.support import folder_run

SITES = tuple(Site(f"layers.{i}.down_proj", i, 3, 2, 1, 2.0) for i in (10, 9))


@pytest.fixture
def space():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Subspace(
        "full",
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
    subspace_setup.write_subspace(space, tmp_path / "a.npz")
    found = subspace_setup.read_subspace(tmp_path / "a.npz")
    assert (found.kind, found.sites, found.scale) == (space.kind, space.sites, space.scale)
    assert found.layout == space.layout and list(found.start) == [s.b for s in SITES]
    assert found.basis_sha256 == space.basis_sha256
    assert {n: v.tobytes() for n, v in found.tensors().items()} == {
        n: v.tobytes() for n, v in space.tensors().items()
    }


def test_numbers_of_fp16_are_stored_in_half_the_room_and_come_back_as_they_were(space, tmp_path):
    short = replace(
        space, basis={n: v.astype(np.float16).astype(np.float32) for n, v in space.basis.items()}
    )
    subspace_setup.write_subspace(short, tmp_path / "a.npz")
    found = subspace_setup.read_subspace(tmp_path / "a.npz")
    assert found.basis_sha256 == short.basis_sha256 != space.basis_sha256
    with np.load(tmp_path / "a.npz") as file:
        kinds = {name: file[name].dtype for name in file.files}
    assert {kinds[f"basis/{s.b}"] for s in SITES} == {np.dtype(np.float16)}
    assert {kinds[f"fixed/{s.a}"] for s in SITES} == {np.dtype(np.float32)}
    tiny = np.array([1e-9, 65_537.0], np.float32)  # neither is a number of fp16
    assert subspace_setup.shorten(tiny) is tiny


def made_or_found(key, space):
    return subspace_setup.load_or_make(key, lambda: space, space.sites).report["origin"]


def test_a_set_up_is_made_once_per_key_and_anew_for_other_sites_or_of_a_damaged_file(space, cache):
    assert [made_or_found({"seed": seed}, space) for seed in (1, 1)] == ["made", "cache"]
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert [made_or_found({"seed": seed}, space) for seed in (1, 1)] == ["made", "cache"]
    other = replace(space, sites=SITES[:1])
    for origin in ("made", "cache"):
        found = subspace_setup.load_or_make({"seed": 1}, lambda: other, other.sites)
        assert (found.sites, found.report["origin"]) == (other.sites, origin)
    assert made_or_found({"seed": 2}, space) == "made"


def test_a_file_that_says_what_no_set_up_finds_is_made_anew(space, cache):
    table = np.ones((4, 2), np.float32)
    good = FeatureMap(("commas", "length"), (4096, 4096), table, 0, "0" * 64)
    wrong = [
        replace(good, map=np.full_like(table, np.nan)), replace(good, map=table * 1e30),
        replace(good, names=("commas", "commas")), replace(good, names=("commas", 3)),
        replace(good, scales=(-1, 1)), replace(good, scales=("x", 1)),
        replace(good, map=table[:, :1]), None,
    ]  # fmt: skip
    named = replace(space, kind="features", features=good)
    basis = {name: np.full_like(value, np.inf) for name, value in space.basis.items()}
    for bad in [*(replace(named, features=each) for each in wrong), replace(space, basis=basis)]:
        subspace_setup.write_subspace(bad, subspace_setup.cached_path({}))
        assert subspace_setup.find_subspace({}) is None
    subspace_setup.write_subspace(named, subspace_setup.cached_path({}))
    assert subspace_setup.find_subspace({}) is not None


def test_without_a_cache_folder_it_works_all_the_same(space, cache):
    cache.parent.write_text("a file where the folder would be")
    found = subspace_setup.load_or_make({}, lambda: space, SITES)
    assert found.report == {**space.report, "origin": "made"}
    assert os.listdir(cache.parent.parent) == ["cache"]


def asking(samples, name=1, base=("sha256", "bf16")):
    return {"any": name, "base": list(base), "subspace": {"samples": samples, "redraws": 0}}


@pytest.fixture
def shipped(space, tmp_path, monkeypatch):
    """A folder that ships one file, made of 4,096 answers."""
    folder = tmp_path / "bases"
    monkeypatch.setattr(subspace_setup, "SHIPPED", folder)
    file = folder / subspace_setup.file_name(asking(4096))
    subspace_setup.write_subspace(space, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps({file.name: {"sha256": digest}}))
    return file


def test_what_ships_is_neither_made_nor_written_to_the_cache(space, shipped, cache):
    found = subspace_setup.load_or_make(asking(384), lambda: pytest.fail("it ships"), SITES)
    assert found.report["origin"] == "shipped" and found.basis_sha256 == space.basis_sha256
    assert not cache.exists()
    assert subspace_setup.find_subspace(asking(384, name=2)) is None
    assert subspace_setup.find_subspace(asking(4097)) is None  # more answers than it was made of
    assert subspace_setup.find_subspace(asking(384, base=("sha256", "fp32"))) is not None
    assert subspace_setup.find_subspace(asking(384, base=("other", "bf16"))) is None


def test_a_shipped_file_with_another_digest_is_not_used(space, shipped, caplog):
    other = {name: value + 1 for name, value in space.basis.items()}
    subspace_setup.write_subspace(replace(space, basis=other), shipped)
    found = subspace_setup.load_or_make(asking(384), lambda: space, SITES)
    assert found.report["origin"] == "made" and found.basis_sha256 == space.basis_sha256
    assert "is not the file that ships with szpo; the coordinates are made anew" in caplog.text


def write_set(folder, sha256, adapters=2):
    folder.mkdir(parents=True)
    rows = [{"name": f"a{i}", "folder": f"a{i}"} for i in range(adapters)]
    (folder / "set.json").write_text(json.dumps({"base_sha256": sha256, "adapters": rows}))


def test_auto_takes_the_set_of_the_model_s_weights(tmp_path, cache, monkeypatch):
    known = Identity({TENSORS: "5e7" * 20})
    digest = known.sha256
    monkeypatch.setattr(adapters, "SHIPPED", tmp_path / "sets")
    monkeypatch.setattr(subspace_setup, "read_identity", lambda config: known)

    def take(*sets):
        return subspace_setup.take_set(settings_file.load(sets=sets))

    plain, line = take()
    assert plain.coordinates == "features" and "szpo adapters make --model smollm2" in line
    mine = cache.parent / "adapters" / digest[:16]
    write_set(mine, digest)
    write_set(tmp_path / "sets" / "other", "f00")
    unfinished = mine / ".start-0.npz"
    unfinished.touch()
    assert take()[0] == plain
    unfinished.unlink()
    found, line = take()
    assert found.coordinates == "adapters" and found.subspace.adapters == [str(mine)]
    assert (plain.optimizer.kl_radius, found.optimizer.kl_radius) == (4.5, 2.0)
    assert found.asks_rows == plain.asks_rows and found.optimizer.rule == plain.optimizer.rule
    assert str(mine) in line and "subspace.kind=features" in line
    write_set(tmp_path / "sets" / "shipped", digest)
    assert take()[0].subspace.adapters == ["shipped"]
    places = adapters.find(["shipped"])
    assert [each.folder.parent for each in places] == [tmp_path / "sets" / "shipped"] * 2
    for rule in ("known", "sign"):
        found, line = take(f"optimizer.rule={rule}")
        assert (found.coordinates, found.optimizer.kl_radius) == ("adapters", 2.0)
        assert "subspace.kind=full" in line and found.optimizer.rule == rule
        assert found.optimizer.guided == 0
    wide = take("optimizer.kl_radius=1", "optimizer.D=8")[0]
    assert wide.optimizer.kl_radius == 1 and not wide.asks_rows
    for own in (
        "subspace.kind=features", "subspace.dim=24", "adapter.rank=2", "subspace.kind=full",
        "subspace.kind=none", "subspace.samples=128",
        "optimizer.mu=.1",
    ):  # fmt: skip
        assert take(own) == (settings_file.load(sets=[own]), "")
    by_hand = ["optimizer.rule=sign", "optimizer.mu=.1"]
    assert take(*by_hand) == (settings_file.load(sets=by_hand), "")


ASKED = [Prompt.user("w7"), Prompt.user("w8")]


def key_of(*sets, sha256="model", dtype="bf16", prompts=ASKED):
    own = "run.folder=elsewhere", "subspace.kind=features"
    config = settings_file.load(preset_name="tiny", sets=[*own, *sets])
    return subspace_setup.file_name(subspace_setup.setup_key(config, sha256, dtype, prompts))


@pytest.mark.parametrize(
    "sets",
    [
        "run.seed=7", "run.votes=400", "optimizer.rule=sign", "optimizer.kl_radius=0.9",
        "panel.reward=length:6", "model.device=cpu", "generation.top_p=0.9",
        'generation.stop=["."]',
    ],
)  # fmt: skip
def test_runs_of_one_model_prompts_and_sampling_share_a_basis(sets):
    assert key_of(sets) == key_of()


def test_whatever_changes_the_set_up_changes_the_key():
    sets = [
        "", "subspace.setup_seed=1", "subspace.samples=400", "subspace.dim=4",
        "generation.temperature=0.7", "generation.max_new_tokens=12", "adapter.layers=[1]",
        "subspace.kind=full",
        "subspace.kind=full optimizer.kl_radius=0.9",
    ]  # fmt: skip
    every = [key_of(*each.split()) for each in sets]
    every += [key_of(sha256="another model"), key_of(dtype="fp32")]
    every += [key_of(prompts=ASKED[:1]), key_of(prompts=ASKED[::-1])]
    assert len(set(every)) == len(every)


@pytest.mark.full
def test_runs_of_two_seeds_and_rules_share_what_the_first_one_made(tmp_path, capsys):
    model = folder_run.model(tmp_path)

    def run(name, *sets):
        line = folder_run.arguments(tmp_path, f"run.name={name}", *sets, model_folder=model)
        assert call([*line, "--plan"]) == 0
        plan = capsys.readouterr().err
        assert call([*line, "--plan", "--json"]) == 0
        basis = json.loads(capsys.readouterr().out)["basis"]
        assert call(line) == 0
        with Ledger.open(tmp_path / "runs" / f"{name}.db", readonly=True) as ledger:
            report = ledger.spec["space"]["report"]
            return (" ".join(plan.split()), basis, capsys.readouterr().err), ledger.row, report

    first, one, made = run("first", "run.seed=1")
    again, two, shared = run("again", "run.seed=2", "optimizer.kl_radius=0.5")
    assert "basis will be made from some 128 base answers" in first[0] and first[1] == "made"
    assert f"basis made in {made['seconds']} s" in first[2]
    assert "basis shared, from the cache (made in" in again[0] and again[1] == "cache"
    assert "basis shared, from the cache (made in" in again[2]
    assert one["basis_sha256"] == two["basis_sha256"] and one["root_seed"] != two["root_seed"]
    assert (made["origin"], shared["origin"]) == ("made", "cache")
    # KL is |z|²/2: one side of d coordinates is √(2κ/d) away.
    assert shared["mu"] == pytest.approx((2 * 0.5 / shared["dim"]) ** 0.5) != made["mu"]
