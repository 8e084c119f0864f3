"""Which model to take for people: the docs have the table of the code; and what a hint names."""

import json
import re
from pathlib import Path

import pytest

from szpo.config import auto_model, settings_file
from szpo.config.auto_model import TABLE
from szpo.runs import assemble, run_engine

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "your-model.md"


def test_the_docs_have_the_table():
    rows = re.findall(r"^\| `([^`]+)` \|( \d.*)\|$", PAGE.read_text("utf-8"), re.M)
    assert dict(rows) == {
        each.name: f" {each.billions} billion | {each.weights_gib:.1f} GiB | "
        f"{each.needs_gib():.1f} GiB | {each.licence} | {each.ran} "
        for each in TABLE
    }
    # 1.71 billion numbers of two bytes are 3.42e9 bytes, 3.19 GiB.
    assert round(TABLE[3].weights_gib, 2) == 3.19
    assert [each.billions for each in TABLE] == sorted(each.billions for each in TABLE)
    assert [each.has_run for each in TABLE] == [True, False, True, False, False, False]


def test_the_hint_names_what_fits_and_only_for_the_model_that_ships():
    assert auto_model.hint("HuggingFaceTB/SmolLM2-360M-Instruct", 64.0) == ""
    large = auto_model.hint("smollm2", 7.6)
    assert "135 million" in large and "8 GiB free" in large
    assert (
        "--set model.name=HuggingFaceTB/SmolLM2-1.7B-Instruct (from the hub; not run by" in large
    )
    small = auto_model.hint("smollm2", 2.0)
    assert "--set" not in small and "docs/how-to/your-model.md" in small


SMALLER, RUN, LARGER = (each.name for each in TABLE[1:4])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub that is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def download(hub: Path, name: str, *files: str) -> None:
    folder = hub / f"models--{name.replace('/', '--')}" / "snapshots" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).touch()
    parts = {str(i): f"model-{i}.safetensors" for i in (1, 2)}
    if name == LARGER:
        index = json.dumps({"weight_map": parts})
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def test_auto_is_the_largest_model_that_was_run_here_was_downloaded_whole_and_fits(
    hub, monkeypatch
):
    def named(free_gib: float, *, accelerator: bool) -> str:
        return auto_model.name_auto("auto", free_gib, accelerator=accelerator)

    assert named(64.0, accelerator=True) == "smollm2", "nothing is downloaded by itself"
    download(hub, SMALLER, "config.json", "model.safetensors")
    assert named(64.0, accelerator=True) == "smollm2", "which was run"
    download(hub, RUN, "config.json")
    assert named(64.0, accelerator=True) == "smollm2", "its weights are not there"
    download(hub, RUN, "model.safetensors")
    download(hub, LARGER, "model-1.safetensors", "model-2.safetensors")
    assert named(64.0, accelerator=True) == RUN, "the larger one was never run"
    monkeypatch.setattr(auto_model, "RAN", auto_model.RAN | {LARGER})
    assert named(64.0, accelerator=True) == LARGER
    assert named(64.0, accelerator=False) == RUN, "its set-up would take hours"
    assert named(2.0, accelerator=True) == "smollm2", "which needs 2.4 GiB"
    assert auto_model.name_auto(LARGER, 0.1, accelerator=False) == LARGER, "it was named"


def test_a_run_for_people_has_a_model_before_its_files_are_looked_at(hub):
    config = settings_file.load(preset_name="people", sets=["model.device=cpu"])
    assert config.model.name == "auto" and assemble.default_name(config) == "people"
    assert run_engine.choose_device(config).model.name == "smollm2"
    download(hub, RUN, "model.safetensors")
    assert run_engine.choose_device(config).model.name == RUN
    model = config.model.model_copy(update={"adapter": "somewhere"})
    served = config.model_copy(update={"model": model})
    chosen = run_engine.choose_device(served).model.name
    assert chosen == "smollm2", "as the adapter's base ever was"


def test_answers_for_people_are_finished_and_their_law_is_the_sampled_one():
    """What a study of answers found; top-p has no KL, so it is off."""
    config = settings_file.load(preset_name="people")
    g = config.generation
    assert (g.temperature, g.max_new_tokens, g.whole_sentences) == (0.7, 64, True)
    assert g.top_p == 1.0
    # A row has at most 2 answers of 64 tokens, .75 words each; a sheet about 300 words.
    assert (config.words_per_vote, config.sheet) == (96, 3)
