"""Adapters and weight files of other people: what is taken, and what each refusal says."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from szpo import cache
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.models import adapters, lora, named_models, weight_files
from tests.support import folder_run, lora_folders
from tests.support.tiny_models import build

LAYER = "base_model.model.model.layers.0.mlp.down_proj"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


def folder(place, tensors=None, **settings):
    """A PEFT folder of one layer with in = 6, out = 4 and rank 2."""
    place.mkdir(exist_ok=True, parents=True)
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["down_proj"]}
    (place / "adapter_config.json").write_text(json.dumps({**known, **settings}), "utf-8")
    own = {A: torch.ones(2, 6), B: torch.ones(4, 2)} if tensors is None else tensors
    save_file(own, place / "adapter_model.safetensors")
    return place


REFUSED = [
    ({}, {"lora_alpha": 0}, "does nothing: its lora_alpha"),
    ({A: torch.zeros(2, 6), B: torch.zeros(4, 2)}, {}, "does nothing"),
    ({}, {"r": True}, "a rank or alpha in its adapter_config.json"),
    ({A: torch.ones(4, 6), B: torch.ones(4, 4)}, {}, "but r in its adapter_config.json is 2"),
    ({A: torch.ones(6, 2), B: torch.ones(2, 4)}, {}, "A must be (rank, in) and B (out, rank)"),
    ({A: torch.ones(2, 6, 1), B: torch.ones(4, 2)}, {}, "A must be (rank, in)"),
    (
        {n.replace(".weight", ".default.weight"): torch.ones(2, 2) for n in (A, B)}, {},
        "has the adapter's own name (default) in it",
    ),
    (
        {n.replace("base_model.model.", "transformer."): torch.ones(2, 2) for n in (A, B)}, {},
        "is not named as PEFT does",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "settings", "words"), REFUSED)
def test_an_adapter_is_refused_by_what_is_wrong_with_it(tmp_path, tensors, settings, words):
    place = folder(tmp_path / "mine", tensors or None, **settings)
    for patterns in (False, True):
        with pytest.raises(UsageError) as caught:
            adapters.read_adapter(place, patterns=patterns)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert adapters.read_adapter(folder(tmp_path / "plain")).config["r"] == 2


def test_a_folder_whose_adapter_lies_in_a_subfolder_names_it(tmp_path):
    inner = folder(tmp_path / "run" / "checkpoint-100")
    with pytest.raises(UsageError, match=f"{inner} has some: give that folder"):
        adapters.read_adapter(tmp_path / "run")


def test_a_mask_of_minus_infinity_is_no_damage_and_any_other_infinity_is(tmp_path):
    below = torch.full((1, 1, 3, 3), -torch.inf).triu(1)
    for name, value, taken in (
        ("h.0.attn.masked_bias", torch.tensor(-torch.inf), True),
        ("h.0.attn.bias", below, True),
        ("model.causal_mask", below, True),
        ("h.0.attn.masked_bias", torch.tensor(torch.nan), False),
        ("model.causal_mask", -below, False),
        ("h.0.mlp.weight", below[0, 0], False),
    ):
        path = tmp_path / "model.safetensors"
        save_file({name: value}, path)
        if taken:
            assert len(weight_files.digest([path])) == 64
        else:
            with pytest.raises(UsageError, match="not finite"):
                weight_files.digest([path])
        path.unlink()


def test_a_local_base_is_named_as_no_id_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    shutil.copytree(tmp_path / "models" / "mine", tmp_path / "bare")
    for base in ("models/mine", "bare", "tiny"):
        named = lora.base_name(base)
        assert named == f"./{base}" and not named_models.is_hub_id(named)
    for base in ("owner/name", str(tmp_path), "./bare"):
        assert lora.base_name(base) == base
    assert lora.base_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {*lora.tokenizer_files("tiny")} >= {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.full
def test_an_exported_adapter_goes_back_to_its_local_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = folder_run.model(tmp_path)
    made = lora_folders.write(tmp_path / "adapter", r=2, target_modules=["q_proj"])
    found = adapters.read_adapter(made)
    named = lora.base_name(model.name)
    own = adapters.Adapter(made, {**found.config, "base_model_name_or_path": named}, {}, "", {})
    assert adapters.other_base(own, model.name, model) == ""


@pytest.mark.full
def test_a_saved_model_is_readable_as_any_new_file_is(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with cache.quiet():
        weight_files.save_model(build("llama"), tmp_path / "model")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {plain.stat().st_mode & 0o777}


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs two users")
def test_a_file_of_another_user_is_not_said_to_be_missing(tmp_path):
    path = folder(tmp_path / "mine") / "adapter_model.safetensors"
    os.seteuid(65534)
    try:
        with (
            pytest.raises(UsageError, match="cannot be read: Permission denied"),
            weight_files.opened(path),
        ):
            pass
    finally:
        os.seteuid(0)
    assert load_file(path)


def test_paths_of_settings_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = {
        "run.folder": ("run", "folder"), "model.adapter": ("model", "adapter"),
        "prompts.path": ("prompts", "path"), "judge.references": ("judge", "references"),
        "judge.principles": ("judge", "principles"), "judge.model": ("judge", "model"),
        "engine.adapters": ("engine", "adapters"),
    }  # fmt: skip
    for key, (table, name) in keys.items():
        more = ["engine.kind=vllm", 'engine.address=["http://here"]'] if table == "engine" else []
        config = settings_file.load(sets=[f"{key}=~/mine", *more])
        assert getattr(getattr(config, table), name) == str(tmp_path / "mine"), key
