"""A taste of chosen and rejected answers on file: fitted, scored and served without a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from szpo.analysis import run_taste
from szpo.cli.app import call

EXAMPLE = Path(__file__).parents[2] / "examples" / "best_of_eight.py"
GOOD = ("lovely", "beautiful", "wonderful", "pleasant", "cheerful", "nice")
BAD = ("horrible", "awful", "dreadful", "boring", "gloomy", "annoying")
PLACES = ("bus stop", "library", "train ride", "river", "long walk", "kitchen")


def pairs() -> list[dict[str, str]]:
    return [
        {
            "prompt": f"Tell me about the {place}.",
            "chosen": f"The {place} was really {good}.",
            "rejected": f"The {place} was really {bad}.",
        }
        for i, place in enumerate(PLACES)
        for good, bad in zip(GOOD, BAD[i:] + BAD[:i], strict=True)
    ]


def write(file: Path, records: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return file


@pytest.mark.full
def test_a_taste_of_pairs_on_file_scores_and_serves_without_a_run(tmp_path, capsys, monkeypatch):
    every = pairs()
    file, saved = write(tmp_path / "pairs.jsonl", every[:30]), tmp_path / "taste.json"
    words = ["taste", "--pairs", str(file), "--model", "tiny", "--out", str(saved)]
    assert call(words) == 0
    said = capsys.readouterr().out
    assert f"pairs of {file}: several things may be liked" in said
    # Words of praise are named features, which stand alone: no model is needed to score by them.
    assert "sentiment" in said and "hidden states" not in said and "it likes most:" not in said
    with monkeypatch.context() as always:  # as where the votes follow states no word says
        always.setattr(run_taste, "FOLLOWED", 0.0)
        assert call(words[:-2]) == 0
    said = capsys.readouterr().out
    assert f"pairs of {file}: " in said and "it likes most:" in said
    most, least = said.split("it likes most:")[1].split("it likes least:")
    assert any(word in most for word in GOOD) and any(word in least for word in BAD)

    sides = [
        {"prompt": each["prompt"], "completion": each[side]}
        for each in every[30:]
        for side in ("chosen", "rejected")
    ]
    scored = write(tmp_path / "answers.jsonl", sides)
    assert call(["score", str(scored), "--taste", str(saved), "--json"]) == 0
    scores = [each["score"] for each in json.loads(capsys.readouterr().out)]
    assert np.mean(np.array(scores[::2]) > np.array(scores[1::2])) > 0.8

    asked = "Describe a bus stop."
    words = ["answer", "--best-of", "4", "--taste", str(saved), "--prompt", asked, "--json"]
    assert call([*words, "--set", "model.name=tiny"]) == 0
    (answered,) = json.loads(capsys.readouterr().out)
    assert [*answered] == ["prompt", "base", "base, best of 4"]

    monkeypatch.chdir(tmp_path)
    served: dict[str, object] = {}
    exec(EXAMPLE.read_text("utf-8").replace('"smollm2"', '"tiny"'), served)
    best_of = served["best_of"]
    assert callable(best_of) and isinstance(best_of(asked, 4), str)


@pytest.mark.full
def test_pairs_make_the_adapter_that_their_taste_makes(tmp_path, capsys):
    """One way: what `improve --pairs` made is there for `adapters make --taste`."""
    file, saved = write(tmp_path / "kind.jsonl", pairs()), tmp_path / "kind.json"
    short = ["--model", "tiny", "--nats", "0.1", "--set", "generation.max_new_tokens=8"]
    words = ["improve", "--pairs", str(file), "--out", str(tmp_path / "set"), *short]
    assert call([*words, "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["adapters"]
    assert made["name"] == "kind" and made["after"] > made["before"] and made["nats"] <= 0.1
    assert (tmp_path / "set" / made["folder"] / "adapter_model.safetensors").is_file()
    taught = ["taste", "--pairs", str(file), "--model", "tiny", "--out", str(saved)]
    assert call(taught) == 0
    again = ["adapters", "make", str(tmp_path / "set"), "--taste", str(saved), *short]
    assert call(again) == 0
    assert "has all 1 already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "--taste", "a.json"], "give a run, --taste or --pairs, one of them"),
        (["--taste", "a.json", "--pairs", "b.jsonl"], "give a run, --taste or --pairs, one of"),
        (["RUN", "--out", "set"], "--out and --set go with --taste or --pairs"),
        (["--taste", "a.json", "--nats", "90"], "--nats 90: give 0.05 to 20"),
        (["--taste", "a.json", "--model", "tiny"], "a.json"),
    ],
)
def test_improving_takes_a_run_or_a_taste_and_says_so(words, said, capsys):
    assert call(["improve", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.full
def test_pairs_without_a_taste_and_files_without_pairs_are_refused(tmp_path, capsys):
    def refused(records: list[dict[str, str]]) -> str:
        file = write(tmp_path / "some.jsonl", records)
        assert call(["taste", "--pairs", str(file), "--model", "tiny"]) in (1, 2)
        return capsys.readouterr().err

    turned = [
        {**each, "chosen": each["rejected"], "rejected": each["chosen"]} for each in pairs()[:12]
    ]
    assert "24 pairs show no taste (odds of " in refused([*pairs()[:12], *turned])
    few = "3 pairs whose answers differ; a taste takes 8 to 4,096"
    assert few in refused([*pairs()[:3], {"prompt": "a", "chosen": "b", "rejected": "b"}])
    assert call(["taste", "RUN", "--pairs", "x.jsonl"]) == 2
    assert "--pairs takes the place of a run" in capsys.readouterr().err


def refusal(file, capsys):
    assert call(["taste", "--pairs", str(file), "--model", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_copy_of_a_pair_is_no_further_verdict_and_no_model_is_loaded_for_too_few(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("szpo.models.loading.load", None)
    file = write(tmp_path / "pairs.jsonl", pairs()[:1] * 12)
    assert "1 pairs whose answers differ; a taste takes 8" in refusal(file, capsys)


@pytest.mark.full
def test_a_text_that_is_longer_than_the_model_reads_is_refused(tmp_path, capsys):
    every = pairs()[:10]
    every[9]["chosen"] = "really lovely " * 300
    said = refusal(write(tmp_path / "pairs.jsonl", every), capsys)
    assert "1 of 20 answers are longer, with their prompts, than the 512 tokens" in said
