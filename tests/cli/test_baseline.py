"""``szpo baseline``: whom it asks, what it takes of runs and files, adapters that szpo reads."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.models import adapters, loading
from szpo.plugins import how_to_install
from szpo.types import Answer, Prompt
from tests.support.baseline_actors import diary_actor, diary_pairs
from tests.support.cases import case

TINY = ["--preset", "tiny", "--set", "model.dtype=fp32", "--set", "generation.max_new_tokens=8"]
SETUP = ["--set", "subspace.kind=features", "--set", "subspace.samples=32"]
SETUP += ["--set", "subspace.dim=2"]
ONE = ["--recipe", "steps=1"]
QUICK = ["--recipe", "steps=2", "--recipe", "learning_rate=.01"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Pairs of answers of the diary model, as a file in TRL's format."""
    path: Path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    preference_files.write(path, diary_pairs(diary_actor())[:12])
    return path


@pytest.mark.full
def test_an_adapter_is_fitted_to_demonstrations(given, tmp_path, capsys):
    out, shown = tmp_path / "out", tmp_path / "good.jsonl"
    pairs = preference_files.read(given).pairs
    lines = [{"prompt": pair.prompt.text, "completion": pair.chosen.text} for pair in pairs]
    shown.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    line = ["baseline", "sft", "--examples", str(shown), "--out", str(out), *TINY]
    assert call([*line, "--recipe", "steps=12", "--recipe", "learning_rate=.01"]) == 0
    said = capsys.readouterr().out
    assert "sft: 12 of 12 demonstrations, 12 steps" in said and "cost: 0 votes" in said
    assert f"szpo run --set model.name=tiny --set model.adapter={out}  #" in said
    record = json.loads((out / "baseline.json").read_text())
    losses = [step["loss"] for step in record["log"]]
    assert record["demonstrations"] == 12 and losses[-1] < losses[0]
    found = loading.load("tiny", dtype="fp32", adapter=out).adapter
    assert found is not None
    assert any(np.abs(v).max() > 0 for n, v in found.tensors.items() if "lora_B" in n)


@pytest.mark.full
def test_an_adapter_from_a_file_of_pairs_is_read_by_szpo(given, tmp_path, capsys):
    method, out = "dpo", tmp_path / "out"
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "cost: 0 votes, 0 answers read" in shown and "12 pairs, 0 ties, 2 steps" in shown
    found = loading.load("tiny", dtype="fp32", adapter=out).adapter
    assert found is not None
    assert any(np.abs(v).max() > 0 for n, v in found.tensors.items() if "lora_B" in n)
    record = json.loads((out / "baseline.json").read_text())
    assert record["method"] == method and record["recipe"]["steps"] == 2
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY]) == 4
    assert "exists; give another --out" in capsys.readouterr().err


@pytest.mark.full
def test_fresh_votes_are_counted_and_a_reward_model_serves_the_next_method(tmp_path, capsys):
    votes = ["--fresh", "--votes", "12", "--set", "panel.beta=8", *TINY, *SETUP]
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
    (["grpo", "--recipe", "samples=1", "--fresh"], ("grpo: samples must be a whole number >= 2",)),
    (["dpo", "--recipe", "bet=1", "--fresh"], ("no setting 'bet'; it has:", "beta")),
    (["dpo", "--recipe", "beta=x", "--fresh"], ("dpo: beta must be a finite number > 0",)),
    (["dpo", "--recipe", "beta", "--fresh"], ("--recipe beta: write it as field=value",)),
    (["dpo", "--run", "none-such"], ("no run none-such",)),
    (["dpo", "--pairs", "none-such.jsonl"], ("none-such.jsonl",)),
    (["grpo", "--reward", "none-such"], ("none-such holds no reward model",)),
    (["iterative-dpo", "--pairs", "none-such"], ("asks while it trains; give --fresh or",)),
    (["iterative-dpo"], ("asks while it trains; give --fresh or --run",)),
    (["dpo", "--recipe", "steps=0", "--fresh"], ('steps must be a whole number >= 1 (got "0")',)),
    (["self-rewarding", "--recipe", "fit=x"], ("no setting 'fit'", "beta", "candidates")),
    (["notebook-dpo", "--fresh"], ("has its own adapter",)),
    (["notebook-dpo", "--run", "r"], ("no run's; give --pairs",)),
    (["ppo", "--fresh", "--score", "sentiment"], ("ppo with --score asks nobody",)),
    (["ppo", "--fresh", "--reward", "r"], ("ppo with --reward asks nobody",)),
    (["self-rewarding", "--fresh"], ("judges itself and asks nobody",)),
    (["dpo", "--pairs", "{given}", "--examples", "x"], ("dpo learns from no examples",)),
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
    (["dpo", "--fresh", "--set", "optimizer.D=4"], ("give that in place of --set",)),
    (
        ["iterative-dpo", "--fresh", "--votes", "20", "--recipe", "questions=5"],
        ("--votes 20 in 5 rounds is 4 questions", "questions=5 differs"),
    ),
    (
        ["iterative-dpo", "--fresh", "--rows", "2", "--recipe", "rows=3"],
        ("--rows 2 and --recipe rows=3 differ",),
    ),
    (["iterative-dpo", "--fresh", "--votes", "4"], ("less than one a round; give 5",)),
    (["grpo", "--score", "lowercas"], ("reward 'lowercas': no reward of that name",)),
    *(
        ([*asked, "--set", "prompts.path={long}"],
         ("error: {long}:2: ", " tokens and 8 for the answer ", " tiny reads; "))
        for asked in (["ppo", "--score", "sentiment"], ["grpo", "--score", "sentiment"],
                      ["rloo", "--score", "sentiment"], ["self-rewarding"],
                      ["iterative-dpo", "--fresh"])
    ),
]  # fmt: skip


def test_what_cannot_be_done_is_a_line_before_a_model_is_loaded(
    given, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    long = tmp_path / "own.txt"
    long.write_text(f"How was the sea?\n{'sea ' * 600}\nTell me more.\n", encoding="utf-8")
    for reported, words in REFUSED:
        with case(reported, words):
            rest = [] if "--run" in reported else TINY  # a run has its own settings
            reported = [text.format(given=given, long=long) for text in reported]
            assert call(["baseline", *reported, "--out", str(tmp_path / "out"), *rest]) == 2
            *before, error = capsys.readouterr().err.splitlines()
            assert all(word.format(long=long) in error for word in words), error
            assert not before
            assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "reported", [["dpo", "--fresh"], ["ppo", "--fresh"], ["dpo", "--pairs", __file__]]
)
def test_a_missing_extra_is_told_before_anything_is_loaded(
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
    assert adapters.read_adapter(out).tensors


@pytest.mark.full
@pytest.mark.parametrize(("kind", "votes"), [("features", 4), ("none", 8)])
def test_a_runs_votes_are_learned_from_on_its_own_sites(kind, votes, tmp_path, capsys):
    """Or on its settings', where votes move nothing: the runs of people."""
    small = ["--set", f"run.votes={votes}", "--set", "panel.beta=8", "--set", "run.name=r"]
    small += ["--set", "optimizer.K=2", "--set", "optimizer.D=3", *SETUP]
    if kind == "none":
        small = [*small[:6], "--set", "subspace.kind=none"]
    assert call(["run", *TINY, *small, "--folder", str(tmp_path)]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    reported = ["baseline", "dpo", "--run", "r", "--folder", str(tmp_path), "--out", str(out)]
    assert call([*reported, *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["votes"] == votes
    assert document["cost"]["answers_read"] == 2 * document["pairs"]
    adapter = adapters.read_adapter(out)
    assert sorted(adapter.config["target_modules"]) == sorted(
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        for name in adapter.tensors
        if name.endswith("lora_A.weight")
    )
    assert adapter.config["r"] == 1


def done(reported: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """The document of a call that went well, and what it said on stderr."""
    assert call(["baseline", *reported, "--out", str(out), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads((out / "baseline.json").read_text())["method"] == reported[0]
    return json.loads(shown.out), shown.err


@pytest.mark.full
def test_the_panel_is_fitted_to_the_rows_that_are_asked(tmp_path, capsys):
    fitted = {}
    for rows in (1, 8):
        reported = ["dpo", "--fresh", "--votes", "4", "--rows", str(rows), *TINY, *SETUP, *ONE]
        document, message = done(reported, tmp_path / str(rows), capsys)
        assert document["cost"]["votes"] <= 4
        found = re.search(r"beta ([\d.]+), at which two panelists agree on ([\d.]+)%", message)
        assert found is not None
        fitted[rows] = float(found[1])
        assert float(found[2]) == pytest.approx(70, abs=1)
    assert fitted[8] > 2 * fitted[1]


@pytest.mark.full
def test_iterative_dpo_shares_its_votes_among_its_rounds(tmp_path, capsys):
    reported = ["iterative-dpo", "--fresh", "--votes", "7", "--rows", "4", "--recipe", "rounds=2"]
    document, message = done([*reported, *TINY, *SETUP, *ONE], tmp_path / "out", capsys)
    assert "warning: 1 of 7 votes are not used: 2 rounds have 3 each" in message
    assert (document["recipe"]["questions"], document["recipe"]["rows"]) == (3, 4)
    assert document["cost"]["votes"] == 6  # no two batches of four answers are the same
    assert 6 < document["pairs"] <= 24
    assert document["cost"]["answers_read"] == 2 * (document["pairs"] + 4 * document["ties"])
    assert adapters.read_adapter(tmp_path / "out").tensors


@pytest.mark.full
def test_part_of_a_file_is_read_and_what_is_bad_left_out(given, tmp_path, capsys):
    path, lines = tmp_path / "pairs.jsonl", given.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]) + "\n")
    reported = ["dpo", "--pairs", str(path), "--first", "5", *TINY, *ONE]
    assert call(["baseline", *reported, "--out", str(tmp_path / "no")]) == 2
    assert "not valid JSON" in capsys.readouterr().err
    document, message = done([*reported, "--skip-bad"], tmp_path / "out", capsys)
    assert document["pairs"] == 4
    assert f"left out {path}:3: not valid JSON" in message


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "Hello?", "completion": "Hi."}',
        '{"prompt": "Hello?", "answer": "Hi."}',
        '{"messages": [{"role": "user", "content": "Hello?"}, '
        '{"role": "assistant", "content": "Hi."}]}',
    ],
)
def test_examples_are_read_by_their_usual_names(line, tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text(line + "\n")
    assert preference_files.read_examples(path) == ((Prompt.user("Hello?"), Answer("Hi.")),)


def test_examples_that_are_none_are_named_with_their_file(tmp_path):
    path = tmp_path / "examples.jsonl"
    for line, words in (
        ('{"prompt": "Hello?"}', "needs completion"), ('{"completion": "Hi."}', "no prompt"),
        ('{"messages": [{"role": "user", "content": "Hello?"}]}', "from the assistant"),
        ("[3]", "must be an object"), ("[]", "holds no records"), ("", "holds no records"),
    ):  # fmt: skip
        path.write_text(line + "\n")
        with case(line), pytest.raises(UsageError, match=rf"examples\.jsonl.*{words}"):
            preference_files.read_examples(path)


@pytest.mark.full
def test_pairs_longer_than_the_model_reads_are_left_out(given, tmp_path, capsys):
    """The recipe's own limit, 1,024 tokens, is more than the 512 of the model."""
    pairs = list(preference_files.read(given).pairs)
    long = replace(pairs[0], prompt=Prompt.user("sea " * 600))
    path = tmp_path / "pairs.jsonl"
    preference_files.write(path, [*pairs[:3], long])
    for method in ("dpo", "simpo", "reward-model"):
        reported = [method, "--pairs", str(path), *TINY, "--recipe", "steps=1"]
        _, message = done(reported, tmp_path / method, capsys)
        assert "1 of 4 do not fit into max_length and were left out" in message


@pytest.mark.full
def test_a_verifier_is_a_score_by_its_name_and_rewards_that_never_differ_are_told(
    tmp_path, capsys
):
    short = [*TINY, "--recipe", "steps=1", "--recipe", "samples=2", "--recipe", "prompts=2"]
    _, said = done(["grpo", "--score", "uppercase", *short], tmp_path / "out", capsys)
    assert "no two answers to a prompt ever differed in reward, so nothing was learned" in said
