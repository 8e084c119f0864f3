"""``szpo baseline``: three kinds of votes, an adapter that szpo and PEFT read, one-line errors."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.data import preference_files
from szpo.models import loading
from szpo.plugins import how_to_install
from tests.support.baseline_actors import diary_actor, diary_pairs
from tests.support.cases import case

TINY = ["--preset", "tiny", "--set", "model.dtype=fp32", "--set", "generation.max_new_tokens=8"]
QUICK = ["--recipe", "steps=2", "--recipe", "learning_rate=.01"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Pairs of answers of the diary model, as a file in TRL's format."""
    path: Path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    preference_files.write(path, diary_pairs(diary_actor())[:12])
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr, which holds these words."""
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert "Traceback" not in error
    return error


@pytest.fixture(scope="module")
def shown(given):
    """The preferred ones of these answers, as demonstrations."""
    pairs = preference_files.read(given).pairs
    lines = [{"prompt": pair.prompt.text, "completion": pair.chosen.text} for pair in pairs]
    path = given.with_name("good.jsonl")
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.mark.full
def test_an_adapter_is_fitted_to_demonstrations(shown, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["baseline", "sft", "--examples", str(shown), "--out", str(out), *TINY]
    assert call([*line, "--recipe", "steps=12", "--recipe", "learning_rate=.01"]) == 0
    said = capsys.readouterr().out
    assert "sft: 12 of 12 demonstrations, 12 steps" in said and "cost: 0 votes" in said
    record = json.loads((out / "baseline.json").read_text())
    losses = [step["loss"] for step in record["log"]]
    assert record["demonstrations"] == 12 and losses[-1] < losses[0]
    found = loading.load("tiny", dtype="fp32", adapter=out).adapter
    assert found is not None
    assert any(np.abs(v).max() > 0 for n, v in found.tensors.items() if "lora_B" in n)


@pytest.mark.full
@pytest.mark.parametrize("method", ["dpo", "simpo"])
def test_an_adapter_from_a_file_of_pairs_is_read_by_szpo(method, given, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "cost: 0 votes, 0 answers read" in shown and "12 pairs, 0 ties, 2 steps" in shown
    found = loading.load("tiny", dtype="fp32", adapter=out).adapter
    assert found is not None
    assert any(np.abs(v).max() > 0 for n, v in found.tensors.items() if "lora_B" in n)
    record = json.loads((out / "baseline.json").read_text())
    assert record["method"] == method and record["recipe"]["steps"] == 2
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY]) == 4
    said(capsys, "exists; give another --out")


@pytest.mark.full
def test_fresh_votes_of_a_panel_are_counted_and_a_reward_model_serves_the_next_method(
    tmp_path, capsys
):
    votes = ["--fresh", "--votes", "12", "--set", "panel.beta=8", *TINY]
    votes += ["--set", "subspace.samples=32", "--set", "subspace.dim=2"]
    judge = tmp_path / "judge"
    assert call(["baseline", "reward-model", *votes, "--out", str(judge), *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pairs"] + document["ties"] == document["cost"]["votes"] <= 12
    assert document["cost"]["answers_read"] == 2 * document["cost"]["votes"]
    assert document["cost"]["tokens_generated"] > 24
    small = ["--recipe", "prompts=2", "--recipe", "samples=2", *QUICK, *TINY]
    out = tmp_path / "out"
    reported = ["baseline", "grpo", "--reward", str(judge), "--out", str(out), *small, "--json"]
    assert call(reported) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["votes"] == 0
    reported = ["baseline", "rloo", "--score", "sentiment", "--out", str(tmp_path / "o"), *small]
    assert call(reported) == 0
    assert loading.load("tiny", adapter=out).adapter is not None


REFUSED = [
    (["dpa"], ("no method 'dpa'", "dpo, simpo")),
    (["dpo"], ("give --run, --pairs or --fresh",)),
    (["dpo", "--fresh", "--pairs", "x"], ("--pairs and --fresh are different votes",)),
    (["dpo", "--fresh", "--score", "sentiment"], ("dpo learns from no score",)),
    (["grpo", "--recipe", "samples=1", "--fresh"], ("grpo: samples: input should be greater",)),
    (["dpo", "--recipe", "bet=1", "--fresh"], ("no setting 'bet'; it has:", "beta")),
    (["dpo", "--recipe", "beta=x", "--fresh"], ("dpo: beta:", "number")),
    (["dpo", "--recipe", "beta", "--fresh"], ("is not field=value",)),
    (["dpo", "--run", "none-such"], ("no run none-such",)),
    (["dpo", "--pairs", "none-such.jsonl"], ("none-such.jsonl",)),
    (["grpo", "--reward", "none-such"], ("none-such holds no reward model",)),
    (["iterative-dpo", "--pairs", "none-such"], ("asks while it trains; give --fresh or",)),
    (["iterative-dpo"], ("asks while it trains; give --fresh or --run",)),
    (["dpo", "--recipe", "steps=0", "--fresh"], ("dpo: steps: input should be", "(got '0')")),
    (["self-rewarding", "--recipe", "fit=x"], ("no setting 'fit'", "beta", "candidates")),
    (["notebook-dpo", "--fresh"], ("has an adapter of its own; give --pairs",)),
    (["notebook-dpo", "--run", "r"], ("has an adapter of its own; give --pairs",)),
    (["ppo", "--fresh", "--score", "sentiment"], ("ppo with --score asks nobody",)),
    (["ppo", "--fresh", "--reward", "r"], ("ppo with --reward asks nobody",)),
    (["self-rewarding", "--fresh"], ("judges itself and asks nobody",)),
    (["dpo", "--pairs", "{given}", "--examples", "x"], ("dpo is fitted to no examples",)),
    (["sft"], ("sft learns from good answers alone: give --examples",)),
    (["sft", "--examples", "x", "--fresh"], ("give --examples, and no votes",)),
    (["sft", "--examples", "none-such.jsonl"], ("none-such.jsonl",)),
    (["dpo", "--run", "r", "run.toml"], ("--run has its own settings; leave out FILE",)),
    (["dpo", "--run", "r", "--preset", "tiny"], ("leave out --preset",)),
    (["dpo", "--run", "r", "--set", "seed=1"], ("leave out --set",)),
    (["dpo", "--pairs", "{given}", "--votes", "9"], ("--votes goes with --fresh",)),
    (["dpo", "--run", "r", "--rows", "2"], ("--rows goes with --fresh",)),
    (["dpo", "--fresh", "--from", "hh"], ("--from goes with --pairs",)),
    (["dpo", "--fresh", "--first", "9"], ("--first goes with --pairs",)),
    (["dpo", "--fresh", "--skip-bad"], ("--skip-bad goes with --pairs",)),
    (["dpo", "--fresh", "--set", "optimizer.rows=4"], ("give that in place of --set",)),
    (
        ["iterative-dpo", "--fresh", "--votes", "20", "--recipe", "questions=5"],
        ("--votes 20 in 5 rounds are 4 questions", "questions=5 differs"),
    ),
    (
        ["iterative-dpo", "--fresh", "--rows", "2", "--recipe", "rows=3"],
        ("--rows 2 and --recipe rows=3 differ",),
    ),
    (["iterative-dpo", "--fresh", "--votes", "4"], ("less than one in each of 5 rounds",)),
]


def test_what_cannot_be_done_is_one_line(given, tmp_path, capsys):
    for reported, words in REFUSED:
        with case(reported, words):
            rest = [] if "--run" in reported else TINY  # a run has its own settings
            reported = [text.format(given=given) for text in reported]
            assert call(["baseline", *reported, "--out", str(tmp_path / "out"), *rest]) == 2
            said(capsys, *words)
            assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "reported", [["dpo", "--fresh"], ["ppo", "--fresh"], ["dpo", "--pairs", "x"]]
)
def test_a_missing_extra_is_reported_before_anything_is_loaded(
    reported, tmp_path, without_trl, capsys
):
    assert call(["baseline", *reported, "--out", str(tmp_path / "out"), *TINY]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == [f"error: {reported[0]} needs trl: {how_to_install('baselines')}"]


@pytest.fixture
def without_trl(monkeypatch):
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "trl" else real(name, *a)
    )


def test_ppo_on_a_score_needs_no_extra_and_its_record_is_json_that_every_reader_takes(
    tmp_path, without_trl
):
    """PPO clips no values unless asked to: its limit is infinite, for which JSON has no word."""
    out = tmp_path / "out"
    reported = ["baseline", "ppo", "--score", "sentiment", "--out", str(out), *TINY]
    reported += ["--recipe", "steps=1", "--recipe", "prompts=4", "--recipe", "minibatches=1"]
    assert call(reported) == 0
    record = json.loads((out / "baseline.json").read_text(), parse_constant=pytest.fail)
    assert record["recipe"]["value_clip"] is None
    assert loading.read_adapter(out).tensors


@pytest.mark.full
def test_a_runs_votes_are_learned_from_on_its_own_sites(tmp_path, capsys):
    small = ["--set", "run.steps=2", "--set", "optimizer.directions=2"]
    small += ["--set", "optimizer.rows=3", "--set", "panel.beta=8", "--set", "run.name=r"]
    small += ["--set", "subspace.samples=32", "--set", "subspace.dim=2"]
    assert call(["run", *TINY, *small, "--folder", str(tmp_path)]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    reported = ["baseline", "dpo", "--run", "r", "--folder", str(tmp_path), "--out", str(out)]
    assert call([*reported, *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["votes"] == 4
    assert document["cost"]["answers_read"] == 2 * document["pairs"]
    adapter = loading.read_adapter(out)
    assert sorted(adapter.config["target_modules"]) == sorted(
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        for name in adapter.tensors
        if name.endswith("lora_A.weight")
    )
    assert adapter.config["r"] == 1
