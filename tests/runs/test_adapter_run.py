"""A run whose coordinates are adapters, through the command line: record, verify, files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from szpo import failpoints
from szpo.cli.app import call
from szpo.features import dictionary
from szpo.ledger.database import Ledger
from szpo.ledger.theta import stored_tensors, theta_digests
from szpo.policies import subspaces
from szpo.policies.subspaces import Subspace
from szpo.replay import replay
from szpo.taste import Explanation, Feature, Taste
from tests.support import children, folder_run, lora_folders, tiny_models

RULES = {
    "regression": [],
    "rows": ["optimizer.D=1"],
    "known": ["optimizer.rule=known", "run.votes=8"],
    "sign": ["optimizer.rule=sign", "run.votes=8"],
}


@pytest.fixture(params=["regression", pytest.param("rows", marks=pytest.mark.full)])
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
    if "coordinates" in named:
        assert asked == {"mixed" if ledger.spec["optimizer"]["D"] == 1 else "antithetic"}
        assert named["coordinates"] == space["names"] and len(named["curves"]) == 3
    else:
        assert asked == {"pool"} and named["names"] and named["components"] == 0
    assert space["layout"] == [["z", [3]]] and theta["z"].any()
    whole = ["--out", str(tmp_path / "whole"), "--merged", "--anyway"]
    assert call(["export", str(run), *whole]) == 0
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


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A finished run of the rule ``known``, with its model and its adapters."""
    place = tmp_path_factory.mktemp("known")
    card = "---\nlicense: mit\n---\n"
    adapters = lora_folders.write_shapes(place / "adapters")
    (place / "adapters" / "wide" / "README.md").write_text(card)
    return folder_run.make(place, f"subspace.adapters={json.dumps(adapters)}", *RULES["known"])


@pytest.mark.full
def test_a_cut_adapter_tells_its_distance_and_the_card_names_sources(known, tmp_path, capsys):
    def export(name, *more):
        line = ["export", str(known), "--out", str(tmp_path / name), "--anyway", "--json", *more]
        assert call(line) == 0
        return json.loads(capsys.readouterr().out)

    whole, one, all_of_it = export("whole"), export("one", "--rank=1"), export("all", "--rank=7")
    assert "cut" not in whole and one["cut"] > 10 * max(all_of_it["cut"], 1e-6) >= 0
    assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["r"] == 1
    name = "base_model.model.model.layers.3.mlp.down_proj.lora_{}.weight".format
    files = (tmp_path / each / "adapter_model.safetensors" for each in ("whole", "all", "one"))
    before, after, cut = map(load_file, files)
    product = before[name("B")] @ before[name("A")]
    torch.testing.assert_close(after[name("B")] @ after[name("A")], product, atol=1e-6, rtol=1e-4)
    nearest = torch.linalg.svdvals(product)[1:].square().sum().sqrt()
    error = torch.linalg.norm(cut[name("B")] @ cut[name("A")] - product)
    assert float(error) == pytest.approx(float(nearest), rel=1e-3)
    text = (tmp_path / "one" / "README.md").read_text()
    assert "| rank | cut to 1 by singular values" in text
    assert call(["export", str(known), "--out", str(tmp_path / "more"), "--rank=8"]) == 2
    assert "--rank 8: the adapter has rank 7; leave it out" in capsys.readouterr().err
    rows = [line for line in text.splitlines() if line.startswith(("| wide", "| low", "| stable"))]
    assert len(rows) == 3 and "| `wide` | mit |" in rows[0] and "| not named |" in rows[1]


@pytest.mark.full
def test_a_run_whose_rule_fits_no_taste_says_what_it_mixes(known, capsys):
    with Ledger.open(known, readonly=True) as ledger:
        blocks, z = subspaces.read_recorded(ledger).blocks, replay.fold(ledger)["z"]
    name, nats = max(blocks.nats(z).items(), key=lambda each: abs(each[1]))
    most = f"{'more' if nats > 0 else 'less'} {name} ({abs(nats):.1f} nats)"
    capsys.readouterr()
    assert call(["show", str(known)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (f" mix {most}" in shown) == (abs(nats) >= 0.05)
    assert call(["report", str(known)]) == 0
    page = known.with_suffix(".html").read_text("utf-8")
    assert ("What the votes mixed" in page and most in page) == (abs(nats) >= 0.05)


@pytest.mark.full
def test_a_mix_by_hand_costs_what_it_says_and_is_measured(known, tmp_path, capsys):
    def mix(text, *more):
        code = call(["answer", *more, "--mix", text, "--json"])
        return code, capsys.readouterr()

    code, found = mix("wide=.5, stable=-.5", str(known), "-p", "w30 w31")
    document = json.loads(found.out)
    assert code == 0 and 0.2 < document["kl"] < 3
    weights = document["weights"]
    assert weights["wide"] > 0 > weights["stable"] and abs(weights["low"]) < 1e-4
    (row,) = document["answers"]
    assert row["prompt"] == "w30 w31" and row["start"] != row["mix"]
    liked = Taste((Feature("length", 4096, 0, 2**20, 0),), (Explanation(4096, ((0, -4096),)),),
                  (), dictionary.digest())  # fmt: skip
    (tmp_path / "short.json").write_text(json.dumps(liked.to_json()))
    best = ["--best-of", "4", "--taste", str(tmp_path / "short.json")]
    code, found = mix("wide=.5, stable=-.5", str(known), "-p", "w30 w31", *best)
    (chosen,) = json.loads(found.out)["answers"]
    assert code == 0 and chosen["mix"] == row["mix"]
    for side in ("start", "mix"):
        fewest = chosen[f"{side}, best of 4"]
        assert liked.score([""], [fewest]) >= liked.score([""], [chosen[side]])
    assert mix("wide=1", str(known), *best[2:])[0] == 2
    code, found = mix("wider=1", str(known))
    assert code == 2 and 'no adapter is called "wider"; did you mean "wide"' in found.err
    code, found = mix("wide", str(known))
    assert code == 2 and "is not NAME=NATS" in found.err
    # The same from a set alone: its metric is measured, here from the run's own prompts.
    place = known.parent.parent
    names = [{"name": f"{name} one", "folder": name} for name in lora_folders.SHAPES]
    (place / "adapters" / "set.json").write_text(json.dumps({"adapters": names}))
    sets = [f"model.name={place / 'llama'}", "model.dtype=fp32",
            f"prompts.path={place / 'prompts.txt'}",
            "generation.max_new_tokens=8", "subspace.samples=32", "subspace.dim=4"]  # fmt: skip
    more = [word for each in sets for word in ("--set", each)]
    code, found = mix("wide one=.5, stable one=-.5", str(place / "adapters"), *more)
    again = json.loads(found.out)
    assert code == 0 and list(again["weights"].values()) == pytest.approx([*weights.values()])


def test_settings_that_do_not_go_with_adapters_are_refused(capsys):
    def refused(*sets):
        assert call(["run", "--plan", *(word for each in sets for word in ("--set", each))]) == 2
        return capsys.readouterr().err

    some = 'subspace.adapters=["a","b"]'
    assert "goes with subspace.adapters" in refused("subspace.kind=adapters")
    assert '"features" goes with no subspace.adapters' in refused(some, "subspace.kind=features")
    assert "'a' not found" in refused(some, "model.name=tiny")
    assert "adapter.rank plays no part where" in refused(some, "adapter.rank=2")


def _killed(line):
    """In a child: the command, killed in its second step."""
    with failpoints.arm("cp10:kill@6"):
        call(line)


def test_a_run_killed_in_a_step_goes_on_without_the_adapters_files_as_if_unbroken(known, tmp_path):
    adapters = lora_folders.write_shapes(tmp_path / "adapters")
    sets = [f"subspace.adapters={json.dumps(adapters)}", *RULES["known"]]
    line = folder_run.arguments(tmp_path, *sets, model_folder=known.parent.parent / "llama")
    assert children.run(_killed, line) == children.KILLED
    shutil.rmtree(tmp_path / "adapters")
    path = tmp_path / "runs" / "folder.db"
    with Ledger.open(path, readonly=True) as ledger:
        assert len(theta_digests(ledger)) == 2
    assert call(["run", "--resume", str(path)]) == 0
    with Ledger.open(known, readonly=True) as one, Ledger.open(path, readonly=True) as two:
        assert theta_digests(two) == theta_digests(one) and len(theta_digests(one)) == 3
