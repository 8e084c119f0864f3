"""The examples of the README's library section and of docs/library.md run as they stand."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import szpo
from tests.support import folder_run

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/library.md")
}
EXAMPLES = [
    pytest.param(code, id=f"{page}-{i}")
    for page, text in PAGES.items()
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
]
SMALL = {
    "model.dtype": "fp32", "optimizer.directions": 2, "optimizer.rows": 2,
    "generation.max_new_tokens": 6, "subspace.dim": 4, "subspace.samples": 16,
    "subspace.kl_samples": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """In place of the model "tiny", which would be trained first."""
    return str(folder_run.model(tmp_path_factory.mktemp("model")))


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
def test_an_example_runs_as_it_stands(code, model, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda question: "b")
    names: dict[str, Any] = {"szpo": szpo}
    exec(compile(code.replace('"tiny"', repr(model)), "example", "exec"), names)
    if "range(60)" in code:
        assert np.abs(names["opt"].best - [1, -2]).max() < 0.5
    if "save_adapter" in code:
        assert (tmp_path / "adapter" / "adapter_config.json").exists()
    for tuner in made:
        assert tuner.outcome is not None and tuner.outcome.votes == 4


def test_the_example_of_three_optimizers_runs():
    done = subprocess.run(
        [sys.executable, "three_optimizers.py", "szpo"], cwd=ROOT / "examples",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "votes in the median" in done.stdout
