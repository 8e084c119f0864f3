"""``szpo baseline``: three kinds of votes, an adapter that szpo and PEFT read, one-line errors."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baseline_actors import diary_actor, diary_pairs

from szpo import models
from szpo.baselines import methods
from szpo.cli import baseline, call
from szpo.errors import RunError, UsageError
from szpo.preferences import files

TINY = ["--preset", "tiny", "--set", "model.dtype=fp32", "--set", "generation.max_new_tokens=8"]
QUICK = ["--recipe", "steps=2", "--recipe", "learning_rate=.01"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of answers of the diary model, as a file in TRL's format."""
    path: Path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    files.write(path, diary_pairs(diary_actor())[:12])
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr, which holds these words."""
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert "Traceback" not in error
    return error


def test_the_command_names_every_method() -> None:
    assert tuple(baseline.METHODS.split(", ")) == methods.NAMES


@pytest.mark.parametrize("method", ["dpo", "simpo"])
def test_an_adapter_from_a_file_of_pairs_is_read_by_szpo(
    method: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "cost: 0 votes, 0 answers read" in shown and "12 pairs, 0 ties, 2 steps" in shown
    found = models.load("tiny", dtype="fp32", adapter=out).adapter
    assert found is not None
    assert any(np.abs(v).max() > 0 for n, v in found.tensors.items() if "lora_B" in n)
    record = json.loads((out / "baseline.json").read_text())
    assert record["method"] == method and record["recipe"]["steps"] == 2
    assert call(["baseline", method, "--pairs", str(given), "--out", str(out), *TINY]) == 4
    said(capsys, "exists; give another --out")


def test_fresh_votes_of_a_panel_are_counted_and_a_reward_model_serves_the_next_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    votes = ["--fresh", "--votes", "12", "--set", "panel.beta=8", *TINY]
    votes += ["--set", "subspace.samples=32", "--set", "subspace.dim=2"]
    judge = tmp_path / "judge"
    assert call(["baseline", "reward-model", *votes, "--out", str(judge), *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pairs"] + document["ties"] <= document["cost"]["votes"] + 1 <= 13
    assert document["cost"]["answers_read"] == 2 * document["cost"]["votes"]
    assert document["cost"]["tokens_generated"] > 24
    small = ["--recipe", "prompts=2", "--recipe", "samples=2", *QUICK, *TINY]
    out = tmp_path / "out"
    told = ["baseline", "grpo", "--reward", str(judge), "--out", str(out), *small, "--json"]
    assert call(told) == 0
    assert json.loads(capsys.readouterr().out)["cost"]["votes"] == 0
    told = ["baseline", "rloo", "--score", "sentiment", "--out", str(tmp_path / "o"), *small]
    assert call(told) == 0
    assert models.load("tiny", adapter=out).adapter is not None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["dpa"], ("no method 'dpa'", "dpo, simpo")),
        (["dpo"], ("give --run, --pairs or --fresh",)),
        (["dpo", "--fresh", "--pairs", "x"], ("--pairs and --fresh are different votes",)),
        (["dpo", "--fresh", "--score", "sentiment"], ("dpo learns from no score",)),
        (["grpo", "--recipe", "samples=1", "--fresh"], ("samples must be at least 2",)),
        (["dpo", "--recipe", "bet=1", "--fresh"], ("no setting 'bet'; it has:", "beta")),
        (["dpo", "--recipe", "beta=x", "--fresh"], ("dpo: beta:", "number")),
        (["dpo", "--recipe", "beta", "--fresh"], ("is not field=value",)),
        (["dpo", "--run", "none-such"], ("no run none-such",)),
        (["dpo", "--pairs", "none-such.jsonl"], ("none-such.jsonl",)),
        (["grpo", "--reward", "none-such"], ("none-such holds no reward model",)),
        (["iterative-dpo", "--pairs", "{given}"], ("asks while it trains",)),
    ],
)
def test_what_cannot_be_done_is_one_line(
    told: list[str], words: tuple[str, ...], given: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rest = [] if "--run" in told else TINY
    told = [text.format(given=given) for text in told]
    assert call(["baseline", *told, "--out", str(tmp_path / "out"), *rest]) == 2
    said(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_one_line(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "trl" else real(name, *a)
    )
    out = str(tmp_path / "out")
    assert call(["baseline", "dpo", "--pairs", str(given), "--out", out, *TINY]) == 2
    said(capsys, "dpo needs trl: pip install 'szpo[baselines]'")


def test_divergence_is_one_line_and_writes_nothing(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wild = ["--recipe", "learning_rate=1e30", "--recipe", "steps=6"]
    told = ["baseline", "simpo", "--pairs", str(given), "--out", str(out), *TINY, *wild]
    assert call(told) == RunError.exit_code
    said(capsys, "simpo:", "training diverged; lower the learning rate")
    assert not out.exists()


def test_an_empty_ledger_and_one_of_ties_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_baselines_ledgerpairs import new_ledger, vote

    from szpo import steps

    with new_ledger(tmp_path / "run.db") as ledger:
        told = ["baseline", "dpo", "--run", str(tmp_path / "run.db"), "--out", str(tmp_path / "o")]
        assert call(told) == UsageError.exit_code
        said(capsys, "run.db: no pair to learn from: it has no counted votes in a closed step")
        vote(ledger, "ann", "c0", "plus")
        vote(ledger, "ben", "c0", "minus")
        steps.close(ledger, 0, "operator", epoch=1, reason="enough")
        assert call(told) == UsageError.exit_code
        said(capsys, "run.db: no pair to learn from: all 1 comparisons were ties")


def test_a_runs_votes_are_learned_from_on_its_own_sites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "run.steps=2", "--set", "optimizer.comparisons=2"]
    small += ["--set", "optimizer.rows=3", "--set", "panel.beta=8", "--set", "run.name=r"]
    small += ["--set", "subspace.samples=32", "--set", "subspace.dim=2"]
    assert call(["run", *TINY, *small, "--folder", str(tmp_path)]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    told = ["baseline", "dpo", "--run", "r", "--folder", str(tmp_path), "--out", str(out), *QUICK]
    assert call([*told, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["votes"] == 4
    assert document["cost"]["answers_read"] == 2 * document["pairs"]
    adapter = models.read_adapter(out)
    assert sorted(adapter.config["target_modules"]) == sorted(
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        for name in adapter.tensors
        if name.endswith("lora_A.weight")
    )
    assert adapter.config["r"] == 1
