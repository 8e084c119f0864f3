"""``szpo baseline``: whom it asks, how often, and what it takes of runs and files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.data import preference_files
from szpo.models import loading
from szpo.types import Answer, Prompt
from tests.support.baseline_actors import diary_actor, diary_pairs

TINY = ["--preset", "tiny", "--set", "generation.max_new_tokens=8"]
SETUP = ["--set", "subspace.samples=32", "--set", "subspace.dim=2"]
ONE = ["--recipe", "steps=1"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Twelve pairs of the diary model as a file, with a broken third line."""
    path: Path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    preference_files.write(path, diary_pairs(diary_actor())[:12])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]) + "\n")
    return path


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
    assert "warning: 1 of 7 votes do not divide among 2 rounds" in message
    assert (document["recipe"]["questions"], document["recipe"]["rows"]) == (3, 4)
    assert document["cost"]["votes"] == 6  # no two batches of four answers are the same
    assert 6 < document["pairs"] <= 24
    assert document["cost"]["answers_read"] == 2 * (document["pairs"] + 4 * document["ties"])
    assert loading.read_adapter(tmp_path / "out").tensors


def test_part_of_a_file_is_read_and_what_is_bad_left_out(given, tmp_path, capsys):
    reported = ["dpo", "--pairs", str(given), "--first", "5", *TINY, *ONE]
    assert call(["baseline", *reported, "--out", str(tmp_path / "no")]) == 2
    assert "not valid JSON" in capsys.readouterr().err
    document, message = done([*reported, "--skip-bad"], tmp_path / "out", capsys)
    assert document["pairs"] == 4
    assert f"left out {given}:3: not valid JSON" in message


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "Hello?", "completion": "Hi."}',
        '{"messages": [{"role": "user", "content": "Hello?"}, '
        '{"role": "assistant", "content": "Hi."}]}',
    ],
)
def test_examples_are_read_in_trls_formats(line, tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text(line + "\n")
    assert preference_files.read_examples(path) == ((Prompt.user("Hello?"), Answer("Hi.")),)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "Hello?"}', "needs completion"),
        ('{"completion": "Hi."}', "no prompt"),
        ('{"messages": [{"role": "user", "content": "Hello?"}]}', "from the assistant"),
        ("[]", "must be an object"),
        ("", "holds no records"),
    ],
)
def test_examples_that_are_none_are_one_line(line, words, tmp_path, capsys):
    path = tmp_path / "examples.jsonl"
    path.write_text(line + "\n")
    reported = ["baseline", "self-rewarding", "--examples", str(path), *TINY]
    assert call([*reported, "--out", str(tmp_path / "o")]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()  # no model was loaded
    assert words in error and "examples.jsonl" in error


@pytest.mark.parametrize(
    "reported",
    [
        ["ppo", "--score", "sentiment"],
        ["grpo", "--score", "sentiment"],
        ["rloo", "--score", "sentiment"],
        ["self-rewarding"],
        ["iterative-dpo", "--fresh"],
    ],
    ids=lambda reported: reported[0],
)
def test_prompts_longer_than_the_model_reads_are_refused_before_it_is_loaded(
    reported, tmp_path, capsys,
    monkeypatch):  # fmt: skip
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    path = tmp_path / "own.txt"
    path.write_text(f"How was the sea?\n{'sea ' * 600}\nTell me more.\n", encoding="utf-8")
    words = [*reported, *TINY, "--set", f"prompts.path={path}", "--out", str(tmp_path / "out")]
    assert call(["baseline", *words]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {path}:2: \d+ tokens and 8 for the answer .* tiny reads; ", message)


@pytest.mark.full
def test_pairs_longer_than_the_model_reads_are_left_out(given, tmp_path, capsys):
    """The recipe's own limit, 1,024 tokens, is more than the 512 of the model."""
    pairs = list(preference_files.read(given, "trl", skip_bad=True).pairs)
    long = replace(pairs[0], prompt=Prompt.user("sea " * 600))
    path = tmp_path / "pairs.jsonl"
    preference_files.write(path, [*pairs[:3], long])
    for method in ("dpo", "simpo", "reward-model"):
        reported = [method, "--pairs", str(path), *TINY, "--recipe", "steps=1"]
        _, message = done(reported, tmp_path / method, capsys)
        assert "1 of 4 do not fit into max_length and were left out" in message


@pytest.mark.full
def test_a_verifier_is_a_score_by_its_name_and_rewards_that_never_differ_are_named(
    tmp_path, capsys
):
    short = [*TINY, "--recipe", "steps=1", "--recipe", "samples=2", "--recipe", "prompts=2"]
    _, said = done(["grpo", "--score", "uppercase", *short], tmp_path / "out", capsys)
    assert "no two answers to a prompt ever differed in reward, so nothing was learned" in said


def test_a_score_that_is_none_is_refused_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    reported = ["baseline", "grpo", "--score", "lowercas", *TINY, "--out", str(tmp_path / "out")]
    assert call(reported) == 2
    assert "reward 'lowercas': no reward of that name" in capsys.readouterr().err
