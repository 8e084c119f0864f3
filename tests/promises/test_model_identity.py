"""Nothing cached or recorded of one model serves another: each change is told by file and key."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from szpo.cli.app import call
from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger
from szpo.models import adapters, identity, named_models
from szpo.models.identity import TENSORS, Identity
from tests.support import folder_run, lora_folders, tampering, yard_run

Change = Callable[[Path], object]


def put(file: str, **values: object) -> Change:
    """Give keys of a JSON file other values."""

    def change(model: Path) -> None:
        place = model / file
        document = json.loads(place.read_text("utf-8"))
        place.write_text(json.dumps(document | values), "utf-8")

    return change


def inside(file: str, old: str, new: str) -> Change:
    def change(model: Path) -> None:
        text = (model / file).read_text("utf-8")
        assert old in text
        (model / file).write_text(text.replace(old, new, 1), "utf-8")

    return change


def write(file: str, text: str) -> Change:
    def change(model: Path) -> None:
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_text(text, "utf-8")

    return change


def flip_a_bit(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[min(tensors)].view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, model / "model.safetensors")


def move_template(model: Path) -> None:
    """To where older files have it."""
    put("tokenizer_config.json", chat_template=(model / "chat_template.jinja").read_text())(model)
    (model / "chat_template.jinja").unlink()


def move_and_change_template(model: Path) -> None:
    move_template(model)
    inside("tokenizer_config.json", "<assistant>", "w9")(model)


CHANGES: dict[str, Change] = {
    "chat template changed (chat_template.jinja)": inside(
        "chat_template.jinja", "<assistant>", "w9"
    ),
    "chat template changed (tokenizer_config.json: chat_template)": move_and_change_template,
    "chat template tool_use added (additional_chat_templates/tool_use.jinja)": write(
        "additional_chat_templates/tool_use.jinja", "w7"
    ),
    "config.json: rope_parameters.rope_theta 10000.0 -> 500000.0": inside(
        "config.json", "10000.0", "500000.0"
    ),
    "config.json: rms_norm_eps": put("config.json", rms_norm_eps=1e-3),
    "generation_config.json: eos_token_id 2 -> [2, 7]": put(
        "generation_config.json", eos_token_id=[2, 7]
    ),
    "generation_config.json: suppress_tokens added": put(
        "generation_config.json", suppress_tokens=[9]
    ),
    "tokenizer.json: model.vocab changed": inside("tokenizer.json", '"w319"', '"other"'),
    "tokenizer.json: added_tokens": inside(
        "tokenizer.json", '"special": true', '"special": false'
    ),
    'tokenizer_config.json: eos_token "</s>" -> "w9"': put(
        "tokenizer_config.json", eos_token="w9"
    ),
    "special_tokens_map.json: bos_token added": write(
        "special_tokens_map.json", '{"bos_token": "w8"}'
    ),
    "tensors changed": flip_a_bit,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run in a folder of its own, with its model."""
    return folder_run.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def model(made, tmp_path):
    """The run's model, which a test may change."""
    here, held = made.parents[1] / "llama", tmp_path / "held"
    shutil.copytree(here, held)
    yield here
    shutil.rmtree(here)
    shutil.copytree(held, here)


def basis(folder: Path, model: Path, capsys: pytest.CaptureFixture[str], *sets: str) -> str:
    """Where a run's basis would come from."""
    asked = folder_run.arguments(folder, "run.name=other", *sets, model_folder=model)
    capsys.readouterr()
    assert call([*asked, "--plan", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["basis"])


def resume(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = call(["run", "--resume", str(run), "--votes", "+8"])
    return code, capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("told", CHANGES)
def test_a_changed_model_takes_nothing_from_the_cache_and_goes_on_with_no_run(
    told, made, model, tmp_path, capsys
):
    run, before = yard_run.copied(made, tmp_path), identity.read(model)
    assert basis(tmp_path, model, capsys) == "cache"
    CHANGES[told](model)
    assert told in "; ".join(before.changes(identity.read(model)))
    assert basis(tmp_path, model, capsys) == "made"
    code, said = resume(run, capsys)
    assert code == IntegrityError.exit_code
    (line,) = [line for line in said.splitlines() if "is not the one" in line]
    assert told in line
    assert call(["sample", str(run)]) == IntegrityError.exit_code
    assert told in capsys.readouterr().err


@pytest.mark.full
def test_files_and_keys_that_change_no_answer_are_no_change(made, model, tmp_path, capsys):
    run, before = yard_run.copied(made, tmp_path), identity.read(model)
    write("README.md", "# A model")(model)
    write("original/params.json", "{}")(model)
    save_file({"other": torch.ones(2)}, model / "consolidated.safetensors")
    put("config.json", transformers_version="4.0", _name_or_path="elsewhere", dtype="bfloat16")(
        model
    )
    put("generation_config.json", temperature=0.1, do_sample=True, max_length=9)(model)
    put("tokenizer_config.json", name_or_path="elsewhere", padding_side="left")(model)
    move_template(model)
    text = (model / "tokenizer.json").read_text("utf-8")
    (model / "tokenizer.json").write_text(json.dumps(json.loads(text)), "utf-8")
    assert before.changes(identity.read(model)) == []
    assert before.sha256 == identity.read(model).sha256
    assert basis(tmp_path, model, capsys) == "cache"
    assert resume(run, capsys)[0] == 0


@pytest.mark.full
def test_a_quantization_and_a_starting_adapter_are_part_of_the_model(
    made, model, tmp_path, capsys
):
    start = lora_folders.write(tmp_path / "start", r=2, target_modules=["q_proj"])
    asked = f"model.adapter={start}"
    packed = identity.read(model, quantization="nf4")
    assert identity.read(model).changes(packed) == ["model.quantization added"]
    assert basis(tmp_path, model, capsys, asked) == "made"
    line = folder_run.arguments(tmp_path, asked, model_folder=model)
    assert call(line) == 0
    assert basis(tmp_path, model, capsys, asked) == "cache"
    with Ledger.open(tmp_path / "runs" / "folder.db", readonly=True) as ledger:
        recorded = Identity(ledger.spec["base"]["parts"])
    assert recorded.base == identity.read(model)
    (start / "README.md").write_text("# Another card")
    assert basis(tmp_path, model, capsys, asked) == "cache"
    put("adapter_config.json", lora_alpha=4)(start)
    assert basis(tmp_path, model, capsys, asked) == "made"
    now = identity.read(model, adapter=identity.read_adapter(start))
    assert recorded.changes(now) == ["adapter_config.json: lora_alpha 8 -> 4"]
    shutil.rmtree(start)  # the record has its factors
    assert resume(tmp_path / "runs" / "folder.db", capsys)[0] == 0


@pytest.mark.full
def test_of_an_older_record_only_the_tensors_are_compared(made, model, tmp_path, capsys, caplog):
    run = yard_run.copied(made, tmp_path)
    spec = json.loads(tampering.read(run, "SELECT spec FROM runs")[0]["spec"])
    tensors = spec["base"].pop("parts")[TENSORS]
    spec["base"]["sha256"] = tensors
    tampering.forge(run, "UPDATE runs SET spec = ?, base_sha256 = ?", (json.dumps(spec), tensors))
    tampering.refit(run)
    assert call(["verify", str(run)]) == 0
    assert resume(run, capsys)[0] == 0
    assert "was recorded when a model's digest covered its tensors alone" in caplog.text
    flip_a_bit(model)
    code, said = resume(run, capsys)
    assert code == IntegrityError.exit_code and "tensors changed" in said


def test_verify_finds_parts_that_are_not_those_of_the_digest(tmp_path):
    run = folder_run.finished(tmp_path)
    spec = json.loads(tampering.read(run, "SELECT spec FROM runs")[0]["spec"])
    spec["base"]["parts"]["config.json: rms_norm_eps"] = "1"
    tampering.forge(run, "UPDATE runs SET spec = ?", (json.dumps(spec),))
    tampering.refit(run)
    assert "is not the digest of the model's parts" in str(tampering.failure_of(run))


def test_what_ships_belongs_to_smollm2_as_every_machine_converts_it():
    """The small files are written by szpo, not by the installed library."""
    (digest,) = {json.loads(each.read_text("utf-8"))["base_sha256"]
                 for each in adapters.SHIPPED.glob("*/set.json")}  # fmt: skip
    assert identity.read(named_models.smollm2_folder()).sha256 == digest


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path):
    """As after ``touch -r``: the time of the change itself cannot be set."""
    path = tmp_path / "chat_template.jinja"
    read = []
    for text in ("one", "two"):
        path.write_text(text)
        os.utime(path, ns=(0, 0))
        read.append(identity._parts_in(path))
    assert read[0] != read[1]
