"""Adapters as coordinates: one stack of factors, a weight for each adapter, a white metric."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from szpo.errors import UsageError
from szpo.models import adapters, batched_lora, loading, logprobs, scores
from szpo.models.batched_lora import AdaptedModel, attach_deltas
from szpo.models.logprobs import Sample
from szpo.models.sampling import Sampling
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies import stacked_adapters, subspace_setup
from szpo.policies.backend import LocalBackend, stack, start_of
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.probe import unit_directions
from szpo.policies.subspaces import FeatureMap, Subspace
from szpo.types import FEATURE_GRID, Prompt, Shift
from tests.support import lora_folders, tiny_models
from tests.support.lora_folders import SHORT, config_of, gathered, unmixed

ASKED = [Prompt.user(f"w{7 + 3 * i} w{9 + i}") for i in range(32)]
IDS = torch.tensor([[7, 8, 9, 200, 31], [60, 61, 62, 63, 5]])
WEIGHTS = np.float32([0.7, -1.3, 2.1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return lora_folders.write_shapes(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def model():
    return tiny_models.loaded("llama", Path())


@pytest.fixture(scope="module")
def space(model, folders):
    sites, factors, blocks, _ = gathered(model, folders)
    return subspace_setup.choose_subspace(
        LocalBackend(model), sites, ASKED, config_of(folders), factors, blocks
    )


def logits(model, subspace, thetas, rows):
    backend = LocalBackend(model).at(subspace, Space(0, subspace.layout, Law()))
    deltas = backend.deltas(thetas)
    with torch.no_grad(), attach_deltas(model.model, subspace.sites, deltas, rows):
        return model.model(IDS).logits


def test_a_mix_of_three_shapes_is_what_peft_computes(model, folders, tmp_path):
    subspace = unmixed(model, folders)
    assert subspace.names == ("wide", "low", "stable")
    ranks = {site.name.split(".", 1)[1]: site.rank for site in subspace.sites}
    assert ranks["layers.3.mlp.down_proj"] == 4 + 3 and ranks["layers.0.self_attn.o_proj"] == 3
    with torch.no_grad():
        mixed = lora_folders.mixed(folders, WEIGHTS)(IDS).logits
        plain = model.model(IDS).logits
    rows = torch.tensor([[0], [1]])
    found = logits(model, subspace, [{"z": WEIGHTS}, {"z": np.zeros(3, np.float32)}], rows)
    assert (mixed[0] - plain[0]).abs().max() > 0.3
    torch.testing.assert_close(found[0], mixed[0], atol=3e-5, rtol=1e-5)
    assert torch.equal(found[1], plain[1])  # all weights 0: the base model
    # The same weights multiplied into B, as files and servers have them.
    policy = LoraPolicy(model, subspace, root_seed=0)
    policy.save_adapter(tmp_path, theta={"z": WEIGHTS})
    with torch.no_grad():
        written = tiny_models.with_adapter(tiny_models.build("llama"), tmp_path)(IDS).logits
    torch.testing.assert_close(written, mixed, atol=3e-5, rtol=1e-5)


def test_factors_are_held_once_whatever_the_members(model, folders):
    subspace = unmixed(model, folders)
    backend = LocalBackend(model).at(subspace, Space(0, subspace.layout, Law()))
    one, many = (backend.deltas([{"z": WEIGHTS}] * n) for n in (1, 16))
    for site in subspace.sites:
        assert many.A[site.name].data_ptr() == one.A[site.name].data_ptr()
        assert many.B[site.name].data_ptr() == subspace.fixed[site.b].ctypes.data
        assert many.gains[site.name].shape == (16, site.rank)
    with attach_deltas(model.model, subspace.sites, many) as attachment:
        for site in subspace.sites:
            assert attachment._up[site.name].data_ptr() == subspace.fixed[site.b].ctypes.data


@pytest.mark.full
def test_four_bits_mix_as_full_factors_do(tmp_path):
    """The entries' gains on a 4-bit base give what each member's own scaled B gives."""
    base = tiny_models.quantised(tmp_path / "base", "nf4")
    lora = {"r": 3, "target_modules": ["q_proj", "down_proj"]}
    folders = []
    for i, name in enumerate("ab"):
        wide = tiny_models.build("llama", hidden=64)
        folders.append(str(lora_folders.write(tmp_path / name, i, model=wide, **lora)))
    loaded = replace(tiny_models.loaded("llama", Path()), model=base, quantization="nf4")
    subspace = unmixed(loaded, folders)
    members = [{"z": np.float32(each)} for each in ([1.5, -0.5], [0, 2])]
    rows = torch.tensor([[0], [1]])
    found = logits(loaded, subspace, members, rows)
    whole = [subspace.weights(each) for each in members]
    deltas = stack(subspace.sites, subspace.fixed, whole)
    with torch.no_grad(), attach_deltas(base, subspace.sites, deltas, rows):
        expected = base(IDS).logits
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * scale)
    assert float((found[0] - found[1]).abs().max()) > 0.05 * scale


@pytest.mark.full
def test_engines_answer_each_row_with_its_own_mix(model, folders):
    subspace = unmixed(model, folders)
    policy = LoraPolicy(model, subspace, root_seed=3, sampling=Sampling(max_new_tokens=12))
    shifts = [Shift(0, k, sign, 1.5) for k in range(3) for sign in (1, -1)]
    asked = [ASKED[:3]] * len(shifts)
    together = policy.rollout(asked, shifts, seed=4)
    alone = [policy.rollout([ASKED[:3]], [shift], seed=4)[0] for shift in shifts]
    assert together == alone and len({*map(tuple, together)}) > 3


def test_moves_are_derivatives_of_log_probability_and_the_fisher_matrix(model, folders):
    subspace = unmixed(model, folders)
    backend = LocalBackend(model).at(subspace, Space(0, subspace.layout, Law()))
    sample, at = Sample((7, 8, 9), (200, 31, 40)), torch.tensor([[7, 8, 9, 200, 31, 40]])
    step = 1e-2
    thetas = stacked_adapters.one_at_a_time(np.full(3, step))

    def law(z):
        rows = backend.deltas([{"z": z}])
        with torch.no_grad(), attach_deltas(model.model, subspace.sites, rows):
            return model.model(at).logits[0, 2:5].double().log_softmax(-1)

    (found,) = scores.logit_moves(backend.adapted, backend.deltas(thetas), [sample])
    start, targets = law(np.zeros(3, np.float32)), torch.tensor([200, 31, 40])
    for j, theta in enumerate(thetas):
        slope = (law(theta["z"]) - law(-theta["z"])) / 2
        score = slope.gather(-1, targets[:, None]).sum()
        assert found[0, j] == pytest.approx(float(score), rel=0.05, abs=2e-4)
        own = (start.exp() * slope**2).sum()
        assert found[1 + j, j] == pytest.approx(float(own), rel=0.05)
    np.testing.assert_allclose(found[1:], found[1:].T, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral"])
def test_layers_below_the_first_adapter_are_computed_once_with_the_same_result(name, monkeypatch):
    """For moves of logits and for KL; scores without the Fisher matrix are the same ones."""
    found, sites, deltas = tiny_models.adapted(name, layers=[2, 3], members=2)
    whole = AdaptedModel(found, sites)
    samples = [Sample((7, 8, 9 + i), tuple(range(20, 23 + i))) for i in range(5)]
    calls: list[int] = []

    def read():
        calls.clear()
        kl = logprobs.kl_of_members(whole, deltas, samples, [0, 1, 0, 1, 0])
        return [kl, scores.logit_moves(whole, deltas, samples)]

    saved = read()
    layer = next(m for n, m in found.named_modules() if n.endswith(("layers.1.mlp", "h.1.mlp")))
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    assert all(map(np.array_equal, read(), saved))
    assert len(calls) == 2
    monkeypatch.setattr(batched_lora, "adapted_layers", lambda *_: [])
    assert all(map(np.array_equal, read(), saved))
    assert len(calls) == 2 + 3
    handle.remove()
    few = scores.logit_moves(whole, deltas, samples, fisher=False)
    np.testing.assert_allclose(few, saved[1][:, :1], rtol=1e-3, atol=1e-6)


@pytest.mark.full
def test_coordinates_are_white_and_near_their_own_adapters(model, space):
    """KL is |z|²/2 over the lengths that are used, and at a side's length in all directions.

    This model's KL grows more slowly than |z|²; each ratio alone is some 20 % off.
    """
    backend = LocalBackend(model).at(space, Space(0, space.layout, Law()))
    probe = subspace_setup.Probe(
        backend, space, tuple(loading.encode(model.tokenizer, p) for p in ASKED), SHORT, 77
    )
    own = np.concatenate([np.eye(3), -np.eye(3)])
    units = np.concatenate([own, unit_directions(99, 18, space.dim, "test")])
    ratios = []
    for radius in (1.0, 2.0):
        members = [{"z": (radius * u).astype(np.float32)} for u in units]
        ratios.append(probe.kl(members, 32, f"test {radius}").mean(1) / (radius**2 / 2))
    each = np.array(ratios)
    assert np.sqrt(each.mean(1).prod()) == pytest.approx(1, abs=0.12)
    assert each[1] / each[1].mean() == pytest.approx(np.ones(len(units)), abs=0.35)
    scaled = space.blocks.mixing / np.array(space.report["steps"])[:, None]
    assert (np.abs(scaled) <= 0.5 * scaled.diagonal()).sum() == 6  # nearest to its own adapter


@pytest.mark.full
def test_each_adapter_alone_costs_what_is_asked_of_it_in_both_senses(model, space):
    """Measured anew; by |z|²/2 weights are nearly half off here. The digest knows no curve."""
    backend = LocalBackend(model).at(space, Space(0, space.layout, Law()))
    tokens = tuple(loading.encode(model.tokenizer, p) for p in ASKED)
    probe = subspace_setup.Probe(backend, space, tokens, SHORT, 78)
    asked = np.array([0.3, 1.0, 3.0])

    def errors(blocks):
        points = [{name: s * x} for name in space.names for s in (-1, 1) for x in asked]
        members = [{"z": blocks.point(each)} for each in points]
        return np.abs(np.log(probe.kl(members, 16, "test").mean(1).reshape(-1, 3) / asked))

    plain = replace(space.blocks, curves=())
    found, before = errors(space.blocks), errors(plain)
    assert found.mean() < 0.7 * before.mean() and found[:, 1].max() < 0.3
    assert replace(space, blocks=plain).basis_sha256 == space.basis_sha256


@pytest.mark.parametrize("curves", [True, False])
def test_the_nats_of_a_point_are_those_that_were_asked_of_each_adapter(space, curves):
    blocks = space.blocks if curves else replace(space.blocks, curves=())
    asked = dict(zip(blocks.names, (0.3, -2.5, 0.0), strict=True))
    assert blocks.nats(blocks.point(asked)) == pytest.approx(asked, rel=1e-3, abs=1e-6)


def test_the_record_gives_back_coordinates_digest_and_factors(space):
    again = Subspace.from_facts(json.loads(json.dumps(space.facts())), space.tensors())
    assert again.names == space.names and again.basis_sha256 == space.basis_sha256
    assert again.blocks.curves == space.blocks.curves and len(space.blocks.curves) == 3
    theta = {"z": np.float32([1, -2, 0.5])}
    for name, value in space.factors(theta).items():
        assert np.array_equal(again.factors(theta)[name], value)
    turned = replace(space, blocks=replace(space.blocks, mixing=space.blocks.mixing.T.copy()))
    other = {site: np.where(own == 0, 1, own) for site, own in space.blocks.owners.items()}
    owned = replace(space, blocks=replace(space.blocks, owners=other))
    digests = {each.basis_sha256 for each in (space, turned, owned)}
    assert len(digests) == 3
    assert again.layout == (("z", (3,)),) and not start_of(again)["z"].any()


def test_rules_see_each_adapters_name_and_the_direction_in_which_it_alone_moves(space):
    named = space.named()
    assert named.coordinates == space.names and named.components == 0
    axes = np.array(named.axes) / FEATURE_GRID
    moved = axes @ space.blocks.mixing.T.astype(float)
    off = moved / moved.diagonal()[:, None] - np.eye(3)
    assert (moved.diagonal() > 0).all() and np.abs(off).max() < 0.01
    assert np.linalg.norm(axes, axis=1) == pytest.approx(np.ones(3), abs=1e-3)


def test_a_starting_adapter_is_a_block_of_weight_one(folders):
    base = tiny_models.loaded("llama", Path())
    own = adapters.read(adapters.find(folders)[0], "llama", base.folder)[0]
    begun = replace(base, adapter=replace(own, path=own.path))
    sites, factors, blocks, _ = gathered(begun, folders[1:])
    subspace = Subspace("adapters", sites, factors, {}, {}, blocks=blocks)
    weights = np.float32([-1.3, 2.1])
    with torch.no_grad():
        mixed = lora_folders.mixed(folders, [1.0, *weights])(IDS).logits
    rows = torch.zeros(1, 1, dtype=torch.long)
    found = logits(base, subspace, [{"z": weights}], rows)
    torch.testing.assert_close(found, mixed, atol=3e-5, rtol=1e-5)


def test_responses_are_covariances_shrunk_by_their_error():
    """φ = 2 s + noise: a spread of √(5 · 7/8) around the mean of a prompt's eight answers."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), 8)
    s = rng.normal(size=(4000, 2))
    shift = rng.normal(size=500)[groups] * 5  # prompts differ; they are not the policy's doing
    values = np.column_stack([2 * s[:, 0] + rng.normal(size=4000) + shift, rng.normal(size=4000)])
    found, errors = stacked_adapters.response(s, values, groups)
    assert found[0, 0] == pytest.approx(2 / (5 * 7 / 8) ** 0.5, rel=0.03)
    assert (np.abs(found[1]) < 0.04).all() and errors == pytest.approx(4000**-0.5, rel=0.5)


def test_what_does_not_fit_is_refused_in_one_line(model, folders, tmp_path, monkeypatch):
    one = partial(lora_folders.write, r=1, target_modules=["q_proj"])
    gather = partial(gathered, model)
    with pytest.raises(UsageError, match="occurs twice"):
        gather([folders[0], folders[0]])
    with pytest.raises(UsageError, match="2 to 32"):
        gather([folders[0]])
    with pytest.raises(
        UsageError, match="no folder here, and a hub id needs its revision: owner/name@"
    ):
        gather([folders[0], "owner/name"])
    other = one(tmp_path / "wider", model=tiny_models.build("llama", hidden=64))
    with pytest.raises(UsageError, match=r"is \(1, 64\)"):
        gather([folders[0], str(other)])
    named = one(tmp_path / "named")
    settings = json.loads((named / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "other/base"
    (named / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="is for other/base, and the model is llama"):
        gather([folders[0], str(named)])
    worded = one(tmp_path / "worded")
    (tmp_path / "base").mkdir()
    for folder, vocabulary in ((worded, {"a": 0, "b": 1}), (tmp_path / "base", {"b": 0, "a": 1})):
        words = {"model": {"vocab": vocabulary}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UsageError, match="another tokenizer than llama"):
        gathered(replace(model, folder=tmp_path / "base"), [folders[0], str(worded)])
    high = [str(one(tmp_path / f"high{i}", r=300)) for i in range(2)]
    with pytest.raises(UsageError, match=r"add up to 600, more than 512 .*high0 300, high1 300"):
        gather(high)
    monkeypatch.setattr(stacked_adapters, "MOST_BYTES", 2000)
    with pytest.raises(UsageError, match="MB that a run records"):
        gather(folders)


def test_an_adapter_of_the_hub_is_fetched_at_its_revision_by_safetensors_alone(
    model, folders, tmp_path, monkeypatch
):
    asked = []

    def fetch(hub_id, *, revision, allow_patterns, endpoint):
        asked.append((hub_id, revision, allow_patterns))
        return folders[1] if hub_id == "ann/low" else str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    _, _, blocks, _ = gathered(model, [folders[0], "ann/low@3c0ffee"])
    assert blocks.names == ("wide", "low")
    assert (blocks.sources[1]["source"], blocks.sources[1]["revision"]) == (
        "ann/low@3c0ffee", "3c0ffee",
    )  # fmt: skip
    assert asked[0][:2] == ("ann/low", "3c0ffee")
    assert "*.safetensors" in asked[0][2] and not any(".bin" in each for each in asked[0][2])
    with pytest.raises(UsageError, match="safetensors"):  # a repository of pickles alone
        gathered(model, [folders[0], "ann/pickled@3c0ffee"])


def test_an_adapter_that_changes_nothing_is_refused(model, folders, tmp_path):
    idle = str(lora_folders.write(tmp_path / "idle", size=0.0, r=1, target_modules=["q_proj"]))
    sites, factors, blocks, _ = gathered(model, [folders[0], idle])
    with pytest.raises(UsageError, match='"idle" changes nothing'):
        subspace_setup.choose_subspace(
            LocalBackend(model), sites, ASKED, config_of([folders[0], idle]), factors,
            blocks,
        )  # fmt: skip


def test_a_set_gives_its_own_names_and_tells_of_other_weights(model, folders, tmp_path):
    lora_folders.write(tmp_path / "set" / "tone", r=1, target_modules=["q_proj"])
    lora_folders.write(tmp_path / "set" / "commas", 1, r=1, target_modules=["q_proj"])
    listed = {
        "adapters": [
            {"name": "positive in tone", "folder": "tone", "feature": "sentiment"},
            {"name": "commas", "folder": "commas", "feature": "commas", "more": False},
        ],
        "base_sha256": "f" * 64, "license": "apache-2.0",
    }  # fmt: skip
    listing = tmp_path / "set" / "set.json"
    for away in ("../elsewhere", "/etc", "tone/../../elsewhere"):
        outside = [{"name": "tone", "folder": away}, listed["adapters"][1]]
        listing.write_text(json.dumps({"adapters": outside}))
        with pytest.raises(UsageError, match="lies outside of it"):
            adapters.find([str(tmp_path / "set")])
    for name in ("tone\n\n# Verified", "tone\u202e", 7):
        odd = [{"name": name, "folder": "tone"}, listed["adapters"][1]]
        listing.write_text(json.dumps({"adapters": odd}))
        with pytest.raises(UsageError, match="is no list of adapters"):
            adapters.find([str(tmp_path / "set")])
    listing.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is no list of adapters"):
        adapters.find([str(tmp_path / "set")])
    beside = [str(tmp_path / "set" / name) for name in ("tone", "commas")]
    assert [each.name for each in adapters.find(beside)] == ["tone", "commas"]
    listing.write_text(json.dumps(listed))
    whole, alone = adapters.find([str(tmp_path / "set")]), adapters.find(beside)
    assert [replace(each, source="") for each in alone] == [
        replace(each, source="") for each in whole
    ]
    card = "---\nbase_model: x\nlicense: mit\n---\n# Tone\n"
    (tmp_path / "set" / "tone" / "README.md").write_text(card)
    said: list[str] = []
    config = config_of([str(tmp_path / "set"), folders[0]])
    _, _, blocks, _ = stacked_adapters.gather(config, LocalBackend(model), said.append)
    assert blocks.names == ("positive in tone", "commas", "wide")
    assert [each["license"] for each in blocks.sources] == ["mit", "apache-2.0", None]
    one = FeatureMap(("commas",), (1,), np.ones((3, 1), np.float32), 0, "0" * 64)
    table = Subspace("adapters", (), {}, {}, {}, features=one, blocks=blocks).named()
    assert table is not None and table.made_for == (("sentiment", 1), ("commas", 0), ("", 1))
    assert said[0] == 'warning: adapter "positive in tone" was made on another llama'
    assert len(said) == 2
