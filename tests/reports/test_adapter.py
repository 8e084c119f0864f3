"""What leaves a run: adapters that PEFT loads, merged models, votes as files."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.numpy import load_file
from sqlite_utils import Database
from transformers import AutoModelForCausalLM

from szpo.analysis.adapter import fold_adapter_files
from szpo.analysis.exported_weights import Weights
from szpo.analysis.model_card import model_card
from szpo.cache import quiet
from szpo.cli.app import call
from szpo.improvement import draw_back
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.optim import parameters
from szpo.policies import text_guards
from szpo.policies.lora_policy import LoraPolicy
from szpo.replay import replay, verification
from szpo.runs import assemble, other_weights
from szpo.types import Prompt
from tests.support import folder_run

# PEFT still asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return folder_run.make(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def adapter(run, tmp_path_factory):
    """The adapter that the run exports."""
    out = tmp_path_factory.mktemp("exported") / "adapter"
    assert call(["export", str(run), "--anyway", "--out", str(out)]) == 0
    return out


def language(run: Path, until: int | None = None) -> LoraPolicy:
    """The run's policy at its end, or after some steps."""
    with Ledger.open(run, readonly=True) as ledger:
        return assemble.reopen(ledger, until=until, panel=False, say=lambda text: None).language


def logits(model: object, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]  # type: ignore[operator]


def base(run: Path) -> object:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(run.parent.parent / "llama").eval()


@pytest.mark.spine
def test_reopened_policy_stands_at_the_head(run):
    with Ledger.open(run, readonly=True) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        assert parts.policy.digest() == theta_digests(ledger)[-1] != theta_digests(ledger)[0]
        first = assemble.reopen(ledger, until=0, panel=False, say=lambda text: None)
        assert first.policy.digest() == theta_digests(ledger)[0]
        assert parts.panel is not None
        assert parts.panel.spec["calibration"] is None or parts.panel.spec["raters"]


@pytest.mark.full
def test_exported_adapter_gives_the_policys_logits(run, adapter):
    ids = [20, 21, 22, 30]
    before = logits(base(run), ids)
    adapted = logits(PeftModel.from_pretrained(base(run), str(adapter)), ids)
    assert float((adapted - before).abs().max()) > 1e-3  # the votes did move it
    policy = language(run)
    # One greedy token and its log-probabilities under the policy's own engine.
    (row,) = policy.engine.logprobs([ids[:-1]], [ids[-1:]], [0], policy.deltas([policy.theta()]))
    wanted = torch.log_softmax(adapted[-2], -1)[ids[-1]]
    assert float(row[0]) == pytest.approx(float(wanted), abs=1e-5)


def test_the_adapter_needs_no_model(run, adapter, tmp_path):
    out = tmp_path / "adapter"
    code = (
        "import sys; from pathlib import Path; from szpo.analysis import adapter; "
        "from szpo.ledger.database import Ledger\n"
        "with Ledger.open(sys.argv[1], readonly=True) as ledger:\n"
        "    adapter.write_folder(ledger, Path(sys.argv[2]), anyway=True)\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", code]
    subprocess.run([*command, str(run), str(out)], check=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }


@pytest.mark.full
def test_the_adapter_of_other_coordinates_comes_from_the_ledger_too(tmp_path):
    path = folder_run.make(tmp_path, "subspace.kind=full", "run.votes=4")
    out = tmp_path / "adapter"
    assert call(["export", str(path), "--anyway", "--out", str(out)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        files = fold_adapter_files(ledger)
    assert files == {name: (out / name).read_bytes() for name in files or {}}
    assert files


@pytest.mark.full
def test_what_fails_a_guard_or_is_all_but_the_base_leaves_the_run_only_anyway(tmp_path, capsys):
    run = folder_run.make(tmp_path, "guards.kl=20", "optimizer.kl_radius=8", "run.votes=16")
    out = tmp_path / "out"
    capsys.readouterr()
    why = "not distinguishable from the base on held-out prompts:"
    refused = (
        ["export", str(run), "--out", str(out)],
        ["export", str(run), "--merged", "--out", str(out)],
    )
    for line in refused:
        assert call(line) == 1 and not out.exists()
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert why in said and "of 3 fail: " in said and "--anyway" in said
    assert call(["export", str(run), "--out", str(out), "--anyway"]) == 0
    assert f"> **Exported anyway:** {why}" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.full
def test_a_scaled_adapter_is_that_of_the_scaled_coordinates_and_is_measured(run, capsys):
    before = run.read_bytes()
    assert call(["export", str(run), "--scale", "0.25", "--anyway", "--json"]) == 0
    said = capsys.readouterr()
    found, out = json.loads(said.out), run.with_name("folder-adapter-scaled-0.25")
    assert found["adapter"] == str(out) and run.read_bytes() == before
    with Ledger.open(run, readonly=True) as ledger:
        theta, whole = Weights(scale=0.25).theta(ledger), replay.fold(ledger)
        assert np.array_equal(theta["z"], whole["z"] * 0.25)
        files = fold_adapter_files(ledger, Weights(scale=0.25))
        assert files is not None and files != fold_adapter_files(ledger)
        assert files == {name: (out / name).read_bytes() for name in files}
        digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
        parts = assemble.reopen(ledger, panel=False, say=lambda text: None)
    head = parts.policy.digest()
    kl, measured = other_weights.measure(parts, theta)
    assert parts.policy.digest() == head, "it is put back"
    assert (found["kl"], found["guards"]) == (kl, [asdict(each) for each in measured.guards])
    assert 0 < kl < other_weights.measure(parts, whole)[0]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"`{digest}`" in card and "| scaled | coordinates times 0.25, from the" in card
    assert f"KL to the run's start {kl:.2f} nats, measured at this export" in card
    assert "szpo export RUN.db --scale 0.25" in card and "95 % interval" not in card
    assert f"KL to the run's start {kl:.2f} nats" in said.err
    for guard in measured.guards:
        assert " ".join(guard.line().split()) in said.err
        assert f"| {guard.name} | {guard.value:.2f} |" in card


@pytest.mark.full
def test_an_adapter_is_drawn_back_to_the_nats_that_are_asked_and_measured(run, capsys):
    with Ledger.open(run, readonly=True) as ledger:
        whole = replay.fold(ledger)
        parts = assemble.reopen(ledger, panel=False, say=lambda text: None)
        far = other_weights.read_distance(parts, whole, 1.0, 0)
        asked = f"{far.nats / 4:.4f}"
        assert call(["export", str(run), "--nats", asked, "--anyway", "--json"]) == 0
        said = capsys.readouterr()
        card = run.with_name(f"folder-adapter-{float(asked):g}-nats") / "README.md"
        share = float(re.search(r"--scale ([.\d]+)", card.read_text("utf-8"))[1])
        near = other_weights.read_distance(parts, Weights(scale=share).theta(ledger), share, 1)
    assert near.nats <= float(asked) and share < 0.6
    assert json.loads(said.out)["kl"] > 0


@pytest.mark.full
def test_nats_that_are_not_met_are_warned_of(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw_back, "MOST_DRAWN", 0)  # as where four readings are not enough
    line = ["export", str(run), "--nats", "0.001", "--out", str(tmp_path / "out"), "--anyway"]
    assert call(line) == 0
    said = " ".join(capsys.readouterr().err.split())
    warned = re.search(
        r"warning: these weights are ([.\d]+) nats from the start, not the 0.001", said
    )
    assert float(warned[1]) > 0.001 and "smaller share of the way: --scale 0.5" in said


@pytest.mark.full
def test_a_scaled_adapter_that_fails_a_guard_leaves_the_run_only_anyway(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(text_guards, "LEAST_VARIETY", 1.5)
    out = tmp_path / "out"
    line = ["export", str(run), "--scale", "0.5", "--out", str(out)]
    assert call(line) == 1 and not out.exists()
    said = capsys.readouterr().err
    assert "guard fails variety" in said and "1 of 3 fail: variety" in said
    assert call([*line, "--anyway"]) == 0
    assert "> **Exported anyway:** of the guards" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--scale", "0"], "--scale 0: give a factor above 0, at most 1"),
        (["--scale", "nan"], "--scale nan: give a factor above 0, at most 1"),
        (["--scale", "0.5", "--votes", "v.csv"], "--scale: no adapter is written"),
        (["--nats", "0"], "--nats 0: give a number above 0"),
        (["--nats", "1", "--scale", "0.5"], "--nats 1: give a number above 0, and no --scale"),
        (["--nats", "1", "--votes", "v.csv"], "--nats: no adapter is written"),
        (["--merged", "--votes", "v.csv"], "to a folder; leave out --votes"),
    ],
)
def test_options_that_make_no_sense_are_one_line(run, words, reason, capsys):
    assert call(["export", str(run), *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert reason in said


@pytest.mark.full
def test_transformers_takes_the_adapter_by_name_and_switches_it_off(run, adapter):
    ids, model = [20, 21, 22, 30], base(run)
    before = logits(model, ids)
    with quiet():
        model.load_adapter(str(adapter), adapter_name="tuned")
    adapted = logits(PeftModel.from_pretrained(base(run), str(adapter)), ids)
    assert torch.allclose(logits(model, ids), adapted, atol=1e-5)
    model.disable_adapters()
    assert torch.equal(logits(model, ids), before)
    assert json.loads((adapter / "adapter_config.json").read_text("utf-8"))["lora_alpha"] > 0


@pytest.mark.full
def test_llama_cpps_converters_know_every_key_of_what_is_exported(run, adapter, tmp_path):
    """Of their published map of names (the package gguf); the conversion itself is not run.

    Of an adapter's settings convert_lora_to_gguf reads its base and one lora_alpha for all sites,
    and neither rank_pattern nor alpha_pattern.
    """
    merged = tmp_path / "merged"
    assert call(["export", str(run), "--merged", "--anyway", "--out", str(merged)]) == 0
    config = json.loads((merged / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    every = load_file(merged / "model.safetensors")
    factors, sites = load_file(adapter / "adapter_model.safetensors"), {}
    for name, value in factors.items():
        begin, letter = re.fullmatch(
            r"base_model\.model\.(.+)\.lora_([AB])\.weight", name
        ).groups()
        every[f"{begin}.weight"] = value
        assert value.ndim == 2 and value.shape[letter == "B"] == 1, "rank 1"
        sites.setdefault(begin, set()).add(letter)
    assert set(map(frozenset, sites.values())) == {frozenset("AB")}
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    assert settings["target_modules"] == sorted(sites)
    assert (settings["r"], settings["use_rslora"], settings["use_dora"]) == (1, False, False)
    assert settings["lora_alpha"] > 0
    assert not settings["rank_pattern"] and not settings["alpha_pattern"]
    assert Path(settings["base_model_name_or_path"], "config.json").is_file()
    unknown = [name for name in every if names.get_name(name, (".weight",)) is None]
    assert unknown == []
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (merged / file).is_file() and (adapter / file).is_file()


def test_votes_as_jsonl_csv_and_a_table_of_sqlite_hold_the_same(run, tmp_path):
    for suffix in ("jsonl", "csv", "db"):
        assert call(["export", str(run), "--votes", str(tmp_path / f"votes.{suffix}")]) == 0
    lines = (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    exact = [json.loads(line) for line in lines]
    with (tmp_path / "votes.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(exact) == len(table) == 8
    assert [row["verdict"] for row in exact] == [row["verdict"] for row in table]
    assert all(row["counted"] is True for row in exact)
    assert len(exact[0]["plus"]) == 2  # JSONL carries the texts of both rows
    file = Database(tmp_path / "votes.db")
    rows = list(file["votes"].rows)
    assert [{**row, "plus": json.loads(row["plus"])} for row in rows] == [
        {**row, "prompts": json.dumps(row["prompts"]), "minus": json.dumps(row["minus"])}
        for row in exact
    ]
    assert file["votes"].pks == ["vote"] and len(file["votes"].indexes) == 3
    file.close()


@pytest.mark.full
def test_sample_pairs_base_and_tuned(run, capsys):
    capsys.readouterr()
    assert call(["sample", str(run), "-p", "w20 w21", "-p", "w30", "-n", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["prompt"] for entry in found] == ["w20 w21", "w30"]
    assert all(len(entry[side]) == 2 for entry in found for side in ("base", "tuned"))
    asked = [Prompt.user("w20 w21"), Prompt.user("w30")]
    again = language(run).sample(asked, 2, seed=0, base=True)
    assert [entry["base"] for entry in found] == [[a.text for a in row] for row in again]


@pytest.mark.full
def test_starting_adapter_is_where_a_run_begins(run, adapter, tmp_path):
    model_folder = run.parent.parent / "llama"
    second = folder_run.make(
        tmp_path, f"model.adapter={adapter}", "run.votes=4", model_folder=model_folder
    )
    ended, begun = language(run), language(second, until=0)
    asked = [Prompt.user("w20 w21"), Prompt.user("w40")]
    assert begun.sample(asked, 2, seed=3) == ended.sample(asked, 2, seed=3)
    with Ledger.open(second, readonly=True) as one, Ledger.open(run, readonly=True) as other:
        told = f"| begins at | the adapter `{adapter.name}`, which is part of this one |"
        assert told in model_card(one) and "begins at" not in model_card(other)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A run of four panelists: two like many characters, two few."""
    panel = "bt70+sharp=20+types=.5+other=-1*feature:characters"
    sets = (f"panel.kind={panel}", "panel.reward=1*feature:characters", "panel.size=4",
            "run.votes=96", "optimizer.K=8")  # fmt: skip
    return folder_run.make(tmp_path_factory.mktemp("halves"), *sets)


@pytest.mark.full
def test_each_taste_gets_its_own_adapter_from_the_same_votes(halves, capsys):
    before, thetas = halves.read_bytes(), {}
    for number in ("1", "2"):
        line = ["export", str(halves), "--cluster", number, "--features", "characters", "--json"]
        capsys.readouterr()
        assert call([*line, "--anyway"]) == 0
        found = json.loads(capsys.readouterr().out)
        out = Path(found["adapter"])
        assert out.name == f"folder-adapter-{number}"
        kind = {int(name.split("-")[1]) // 2 for name in found["panelists"]}
        assert len(kind) == 1 and len(found["panelists"]) == 2 and found["votes"] == 48
        thetas[kind.pop()] = load_file(out / "adapter_model.safetensors")
        text = (out / "README.md").read_text(encoding="utf-8")
        who = ", ".join(found["panelists"])
        assert f"| fitted to | the 48 votes of {who}: cluster {number} by characters" in text
        assert "no vote was added" in text and "measured at this export" in text
        assert f"szpo export RUN.db --cluster {number} --features characters" in text
        assert "95 % interval" not in text  # of another point
        assert "## Guards on held-out prompts" in text
    assert halves.read_bytes() == before
    a, b = (
        np.concatenate([v.ravel() for name, v in sorted(thetas[k].items()) if "lora_B" in name])
        for k in (0, 1)
    )
    assert a @ b < 0  # opposite tastes of one line of answers


@pytest.mark.full
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--cluster", "3", "--features", "characters"], "--cluster 3: there are 2 clusters; see"),
        (["--cluster", "1", "--features", "emoji"], "no feature differs between the answers"),
        (["--features", "characters"], "--features goes with --cluster; give both or neither"),
    ],
)
def test_a_cluster_that_is_none_is_one_line(halves, run, words, reason, capsys):
    assert call(["export", str(halves), *words]) == 2
    assert reason in capsys.readouterr().err
    assert call(["export", str(run), "--cluster", "1", "--features", "characters"]) == 2
    assert "the votes do not show several tastes (" in capsys.readouterr().err


def test_the_card_says_what_was_measured_and_no_path_of_this_machine(run, adapter):
    card = ModelCard.load(adapter / "README.md")
    assert str(run.parent.parent) not in card.content
    assert card.data.library_name == "peft"
    (result,) = card.data.eval_results or []
    assert result.metric_type == "win_rate" and 0 <= result.metric_value <= 1
    with Ledger.open(run, readonly=True) as ledger:
        head = verification.verify(ledger).head
    for part in ("15 prompts to tune on and 5 held out",
                 "in a step 4 × 1 comparisons of 2 prompts", "95 % interval",
                 "Guards on held-out prompts", "## Limits", "A LoRA adapter for `llama`",
                 f"szpo verify RUN.db --head {head}"):  # fmt: skip
        assert part in card.text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mine", "panelists of the evaluator"),  # another package's evaluator
        ("people", "programs; no person judged these answers"),
    ],
)
def test_a_card_says_who_voted(run, kind, said):
    with Ledger.open(run, readonly=True) as ledger:
        config = {**ledger.spec["config"], "panel": {"kind": kind}}
        ledger.spec = {**ledger.spec, "config": config, "panel": {}}
        card = model_card(ledger)
    assert said in card and "simulated" not in card
