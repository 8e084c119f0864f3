"""Examples, gallery scripts, notebooks and the tutorial of the pages run as they stand."""

import builtins
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import szpo
from szpo.cli.app import call
from szpo.models import named_models
from tests.support import yard_run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GALLERY = sorted((ROOT / "examples" / "gallery").glob("[0-9]*.py"))
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
RUN_ELSEWHERE = {"panel-screen", "plugins"}
"""Pages whose blocks need a server, an app or a package around them; other tests read them."""


def examples() -> list[tuple[str, str]]:
    found = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        if page.stem in RUN_ELSEWHERE:
            continue
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [(page.stem, block) for block in blocks]
    return found


@pytest.mark.parametrize(("page", "code"), examples(), ids=lambda each: each.split("\n")[0][:20])
def test_examples_of_the_reference_run(page, code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"docs/reference/{page}.md", "exec"), {})
    assert printed.getvalue().strip() or "check_" in code


@pytest.mark.slow
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_gallery_scripts_run(script, tmp_path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "ui", ROOT / "simulators")))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, env={**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    assert len(list(tmp_path.glob("*.svg"))) == 1


def run_cells(notebook: Path) -> dict[str, Any]:
    """Run a notebook's cells in one namespace, as a kernel would; its names at the end."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    space: dict[str, Any] = {}
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), notebook.name, "exec"), space)
    return space


@pytest.mark.full
def test_the_notebook_on_votes_reads_a_run_of_its_own():
    (notebook,) = (each for each in NOTEBOOKS if "reading" in each.stem)
    space = run_cells(notebook)
    counted = space["votes"].groupby("panelist").size()
    assert counted.sum() == 24 and len(counted) == 5
    assert space["report"].ok
    space["run"].close()


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_run(notebook):
    assert len(NOTEBOOKS) == 4
    assert run_cells(notebook)


@pytest.mark.slow
def test_the_tutorial_can_be_followed(tmp_path, monkeypatch):
    """Its commands in order to the loaded adapter, as far as no network and no voter is needed."""
    text = (DOCS / "tutorials" / "first-run.md").read_text(encoding="utf-8").partition("## 8.")[0]
    lines = re.findall(r"^szpo (.+)$", text, re.MULTILINE)
    prompts = ROOT / "examples" / "tutorial" / "prompts.csv"
    assert len(prompts.read_text(encoding="utf-8").splitlines()) == 121
    (tmp_path / "prompts.csv").write_text(prompts.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert call(shlex.split(line)) == 0, line
    (load,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    base = str(named_models.locate("smollm2"))
    done = subprocess.run(
        [sys.executable, "-c", load, base, "runs/garden-adapter"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "What can I plant in October?" in done.stdout


BASELINES = re.findall(
    r"^szpo ((?:.*\\\n)*.*)$",
    (DOCS / "how-to" / "compare-with-dpo.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.slow
def test_the_commands_of_the_page_of_baselines_run(tmp_path, monkeypatch):
    """As printed, on the tiny model and with few steps."""
    monkeypatch.chdir(tmp_path)
    asked = "\n\nHuman: Is it raining?\n\nAssistant:"
    for name, record in (
        ("hh", {"chosen": f"{asked} Yes, take a coat.", "rejected": f"{asked} No."}),
        ("pairs", {"prompt": "Say hello.", "chosen": "Hello there.", "rejected": "No."}),
        ("good", {"prompt": "Say hello.", "completion": "Hello there."}),
        ("seed", {"prompt": "Say hello.", "completion": "Hello there."}),
    ):
        Path(f"{name}.jsonl").write_text(f"{json.dumps(record)}\n" * 8, encoding="utf-8")
    assert call(["run", "--preset", "tiny", "--set", "run.votes=8", "--set", "run.name=name"]) == 0
    for printed in BASELINES:
        words = shlex.split(printed.replace("\\\n", " ").replace("NAME", "name"), comments=True)
        if "--run" not in words:
            words += ["--preset", "tiny"]
        if words[0] == "run":
            words += ["--set", "run.votes=8"]
        elif words[1] in ("dpo", "grpo", "sft", "notebook-dpo"):
            shutil.rmtree(Path("baselines") / words[1], ignore_errors=True)
            words += ["--recipe", "steps=2"]
        elif words[1] == "self-rewarding":
            words += ["--recipe", "prompts=2", "--recipe", "judge_tokens=20"]
        judged = words[1] == "self-rewarding"  # it ends as the page says: no judgement has a score
        assert call(words) == (1 if judged else 0), printed


@pytest.mark.spine
def test_own_run_goes_through_from_the_written_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = [*yard_run.SETS, f"prompts.path={yard_run.prompts(tmp_path)}", "run.votes=16"]
    assert call(["init", "run.toml", *(w for s in sets for w in ("--set", s))]) == 0
    assert call(["run", "run.toml", "--plan"]) == 0
    assert call(["run", "run.toml"]) == 0
    assert call(["verify"]) == 0
    assert call(["report"]) == 0
    assert list((tmp_path / "runs").glob("*.html"))


NAMES = "README.md", "docs/tutorials/python.md"
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
EXAMPLES = [
    pytest.param(code, id=f"{page}-{i}")
    for page, text in PAGES.items()
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
]
SMALL = {
    "model.dtype": "fp32", "optimizer.K": 2, "optimizer.D": 2,
    "generation.max_new_tokens": 6, "subspace.dim": 4, "subspace.samples": 16,
}  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """The tuners that an example makes, quick ones, closed at the end."""
    found: list[szpo.Tuner] = []
    begin = szpo.Tuner.__init__

    def quick(self: szpo.Tuner, *args: Any, **named: Any) -> None:
        begin(self, *args, **{**named, "votes": 4}, settings=SMALL)
        found.append(self)

    monkeypatch.setattr(szpo.Tuner, "__init__", quick)
    yield found
    for tuner in found:
        tuner.close()


@pytest.mark.full
@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs_as_it_stands(code, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda question: "b")
    names: dict[str, Any] = {"szpo": szpo}
    exec(compile(code, "example", "exec"), names)
    if "range(60)" in code:
        assert np.abs(names["opt"].best - [1, -2]).max() < 0.5
    if "save_adapter" in code:
        assert (tmp_path / "adapter" / "adapter_config.json").exists()
    for tuner in made:
        assert tuner.outcome is not None and tuner.outcome.status == "finished"
        assert 2 <= tuner.outcome.votes <= 4  # equal answers are shown to nobody


def test_the_example_of_three_optimizers_runs():
    done = subprocess.run(
        [sys.executable, "three_optimizers.py", "szpo"], cwd=ROOT / "examples",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "votes in the median" in done.stdout
