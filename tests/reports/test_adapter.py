"""What leaves a run: adapters that PEFT loads, merged models, votes as files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from szpo.cache import quiet
from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.models import tokenizer_files
from szpo.reports.adapter import adapter_files
from szpo.runs import assemble
from szpo.types import Prompt
from tests.support import folder_run

Capture = pytest.CaptureFixture[str]
# PEFT still asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_run.make(tmp_path_factory.mktemp("folder"))


def logits(model: object, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]  # type: ignore[operator]


def base(run: Path) -> object:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(run.parent.parent / "llama").eval()


def test_reopened_policy_stands_at_the_head(run: Path) -> None:
    with Ledger.open(run, readonly=True) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        assert parts.policy.digest() == theta_digests(ledger)[-1] != theta_digests(ledger)[0]
        first = assemble.reopen(ledger, until=0, panel=False, say=lambda text: None)
        assert first.policy.digest() == theta_digests(ledger)[0]
        assert parts.panel is not None
        assert parts.panel.spec["calibration"] is None or parts.panel.spec["raters"]


def test_exported_adapter_gives_the_policys_logits(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--out", str(out)]) == 0
    ids = [20, 21, 22, 30]
    before = logits(base(run), ids)
    adapted = logits(PeftModel.from_pretrained(base(run), str(out)), ids)
    assert float((adapted - before).abs().max()) > 1e-3  # the votes did move it
    with Ledger.open(run, readonly=True) as ledger:
        policy = assemble.reopen(ledger, panel=False, say=lambda text: None).language
    # One greedy token and its log-probabilities under the policy's own engine.
    (row,) = policy.engine.logprobs([ids[:-1]], [ids[-1:]], [0], policy.deltas([policy.theta()]))
    wanted = torch.log_softmax(adapted[-2], -1)[ids[-1]]
    assert float(row[0]) == pytest.approx(float(wanted), abs=1e-5)


def test_the_zip_holds_the_same_adapter_and_needs_no_model_for_it(
    run: Path, tmp_path: Path
) -> None:
    out, packed = tmp_path / "adapter", tmp_path / "run.zip"
    assert call(["export", str(run), "--out", str(out)]) == 0
    # As the web process does it: an interpreter that never loads a tensor library.
    code = (
        "import sys; from pathlib import Path; from szpo.reports import bundle; "
        "from szpo.ledger.database import Ledger\n"
        "with Ledger.open(sys.argv[1], readonly=True) as ledger:\n"
        "    bundle.write(ledger, open(sys.argv[2], 'wb'))\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", code]
    subprocess.run([*command, str(run), str(packed)], check=True)
    with zipfile.ZipFile(packed) as found:
        inside = {n: found.read(n) for n in found.namelist() if n.startswith("lora/")}
        reported = found.read("README.txt").decode()
    # The zip depends on the record alone: a tokenizer would have to come from this machine.
    assert inside == {
        f"lora/{path.name}": path.read_bytes()
        for path in out.iterdir()
        if path.name not in tokenizer_files.NAMES
    }
    assert len(inside) == 3 and "lora/ " in reported and "no lora/" not in reported


@pytest.mark.parametrize("kind", ["full", "random"])
def test_the_adapter_of_other_coordinates_comes_from_the_ledger_too(
    kind: str, tmp_path: Path
) -> None:
    path = folder_run.make(
        tmp_path, f"subspace.kind={kind}", "subspace.kl_samples=16", "run.votes=4"
    )
    out = tmp_path / "adapter"
    assert call(["export", str(path), "--out", str(out)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        files = adapter_files(ledger)
    assert files == {name: (out / name).read_bytes() for name in files or {}}
    assert files


def test_export_before_the_first_step_changes_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--out", str(out), "--step", "0"]) == 0
    adapted = logits(PeftModel.from_pretrained(base(run), str(out)), [20, 21])
    assert torch.equal(adapted, logits(base(run), [20, 21]))


def test_merged_model_needs_no_adapter(run: Path, tmp_path: Path) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert call(["export", str(run), "--out", str(adapter)]) == 0
    assert call(["merge", str(run), "--out", str(merged)]) == 0
    with quiet():
        whole = AutoModelForCausalLM.from_pretrained(merged).eval()
    adapted = PeftModel.from_pretrained(base(run), str(adapter))
    ids = [20, 21, 22]
    assert torch.allclose(logits(whole, ids), logits(adapted, ids), atol=1e-5)


def test_model_card_says_where_it_came_from(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--out", str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "library_name: " in card.split("---")[1]
    compile(card.split("```python")[1].split("```")[0], "card", "exec")
    assert "votes | 8 from a simulated panel (bt70 (length:6)); no person judged" in card
    with Ledger.open(run, readonly=True) as ledger:
        assert theta_digests(ledger)[-1] in card
        assert ledger.row["base_sha256"] in card


def test_card_of_an_earlier_step_counts_what_stands_behind_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--step", "1", "--out", str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    with Ledger.open(run, readonly=True) as ledger:
        assert theta_digests(ledger)[1] in card
    assert "votes | 4 from a simulated panel" in card
    assert "steps | 1 of rule" in card


def test_export_of_a_step_that_is_not_there_writes_nothing(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--step", "3", "--out", str(out)]) == 2
    assert "2 steps are applied; there is no 3" in capsys.readouterr().err
    assert not out.exists()


def test_votes_as_jsonl_and_csv_hold_the_same(run: Path, tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv"):
        assert call(["export", str(run), "--votes", str(tmp_path / f"votes.{suffix}")]) == 0
    lines = (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    exact = [json.loads(line) for line in lines]
    with (tmp_path / "votes.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(exact) == len(table) == 8
    assert [row["verdict"] for row in exact] == [row["verdict"] for row in table]
    assert all(row["counted"] is True for row in exact)
    assert len(exact[0]["plus"]) == 2  # JSONL carries the texts of both rows


def test_sample_pairs_base_and_tuned(run: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert call(["sample", str(run), "-p", "w20 w21", "-p", "w30", "-n", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["prompt"] for entry in found] == ["w20 w21", "w30"]
    assert all(len(entry[side]) == 2 for entry in found for side in ("base", "tuned"))
    with Ledger.open(run, readonly=True) as ledger:
        policy = assemble.reopen(ledger, panel=False, say=lambda text: None).language
    again = policy.sample([Prompt.user("w20 w21"), Prompt.user("w30")], 2, seed=0, base=True)
    assert [entry["base"] for entry in found] == [[a.text for a in row] for row in again]


def test_export_refuses_to_overwrite(run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert call(["export", str(run), "--out", str(out)]) == 4
    assert "exists; give another --out" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "keep"


def test_starting_adapter_is_where_a_run_begins(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert call(["export", str(run), "--out", str(out)]) == 0
    model_folder = run.parent.parent / "llama"
    second = folder_run.make(
        tmp_path, f"model.adapter={out}", "run.votes=4", model_folder=model_folder
    )
    with Ledger.open(run, readonly=True) as ledger:
        ended = assemble.reopen(ledger, panel=False, say=lambda text: None).language
    with Ledger.open(second, readonly=True) as ledger:
        begun = assemble.reopen(ledger, until=0, panel=False, say=lambda text: None).language
    asked = [Prompt.user("w20 w21"), Prompt.user("w40")]
    assert begun.sample(asked, 2, seed=3) == ended.sample(asked, 2, seed=3)


@pytest.mark.parametrize("sets", [("subspace.kind=random",), ("subspace.kind=full",),
                                  ("adapter.init=random", "adapter.rank=2"),
                                  ("subspace.kind=full", "adapter.train=AB")])  # fmt: skip
def test_other_coordinates_run_and_verify(
    run: Path, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    path = folder_run.make(tmp_path, *sets, model_folder=run.parent.parent / "llama")
    assert call(["verify", str(path)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        assert parts.policy.digest() == theta_digests(ledger)[-1]
