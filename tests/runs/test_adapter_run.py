"""A run whose coordinates are adapters, through the command line: record, verify, files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.ledger.theta import stored_tensors, theta_digests
from szpo.policies.subspaces import Subspace
from szpo.replay import replay
from tests.support import folder_run, lora_folders, tiny_models

RULES = {
    "regression": [],
    "rows": ["optimizer.rows=1"],
    "known": ["optimizer.rule=known", "run.votes=8"],
    "sign": ["optimizer.rule=sign", "run.votes=8"],
}


@pytest.fixture(params=RULES)
def run(request, tmp_path):
    adapters = lora_folders.write_shapes(tmp_path / "adapters")
    sets = [f"subspace.adapters={json.dumps(adapters)}", *RULES[request.param]]
    path = folder_run.make(tmp_path, *sets)
    shutil.rmtree(tmp_path / "adapters")  # the record holds them
    return path


def test_the_record_alone_verifies_and_gives_the_mix_as_one_adapter(run, tmp_path):
    with Ledger.open(run, readonly=True) as ledger:
        space = ledger.spec["space"]
        theta = replay.fold(ledger)
        factors = Subspace.from_facts(space, stored_tensors(ledger)).factors(theta)
        asked = {row["pairing"] for row in ledger.steps()}
        named = ledger.spec["optimizer"]["features"]
    assert space["kind"] == "adapters" and space["names"] == ["wide", "low", "stable"]
    assert asked == {"mixed" if ledger.spec["optimizer"]["D"] == 1 else "antithetic"}
    assert named is None or named["coordinates"] == space["names"]
    assert space["layout"] == [["z", [3]]] and theta["z"].any()
    assert (
        call(["export", str(run), "--out", str(tmp_path / "whole"), "--merged", "--anyway"]) == 0
    )
    shutil.rmtree(tmp_path / "llama")
    assert call(["verify", str(run)]) == 0
    assert call(["export", str(run), "--out", str(tmp_path / "out"), "--anyway"]) == 0
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["r"] == 7 and not settings["rank_pattern"] and not settings["alpha_pattern"]
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    site = "model.layers.3.mlp.down_proj"
    for letter in "AB":
        found = written[f"base_model.model.{site}.lora_{letter}.weight"].numpy()
        assert np.array_equal(found, factors[f"{site}.lora_{letter}"])
    ids = torch.tensor([[7, 8, 9, 200, 31]])
    with torch.no_grad():
        mixed = tiny_models.with_adapter(tiny_models.build("llama"), tmp_path / "out")(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
        torch.testing.assert_close(whole(ids).logits, mixed, atol=1e-4, rtol=1e-4)


def test_a_resumed_run_goes_on_without_the_adapters_files(tmp_path):
    """Eight votes, then eight more after the files are gone: the digests of sixteen at once."""
    adapters = lora_folders.write_shapes(tmp_path / "adapters")
    sets = [f"subspace.adapters={json.dumps(adapters)}", "optimizer.rule=known", "run.votes=8"]
    model = folder_run.model(tmp_path)
    for each in ("one", "two"):
        (tmp_path / each).mkdir()
    both = folder_run.make(tmp_path / "one", *sets[:2], "run.votes=16", model_folder=model)
    path = folder_run.make(tmp_path / "two", *sets, model_folder=model)
    shutil.rmtree(tmp_path / "adapters")
    assert call(["run", "--resume", str(path), "--votes", "+8"]) == 0
    with Ledger.open(both, readonly=True) as one, Ledger.open(path, readonly=True) as two:
        assert theta_digests(two) == theta_digests(one) and len(theta_digests(one)) > 2
