"""The examples of the README's library section and of docs/library.md run as they stand."""

from __future__ import annotations

import builtins
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
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
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """In place of the model "tiny", which would be trained first."""
    return str(folder_run.model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[szpo.Tuner]]:
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
def test_an_example_runs_as_it_stands(
    code: str, model: str, made: list[szpo.Tuner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def beside() -> dict[str, tuple[int, ...]]:
    """The page's table beside other optimizers: median, least and most votes by name."""
    rows = re.findall(
        r"^\| (szpo|cmaes|optuna)[^|]*\| \d+ \| (\d+) \| (\d+), (\d+) \| [^|]+ \|$",
        PAGES["docs/library.md"], re.M,
    )  # fmt: skip
    return {name: tuple(map(int, votes)) for name, *votes in rows}


def find_votes(*names: str) -> dict[str, tuple[int, ...]]:
    """The same, of the example as it runs now."""
    done = subprocess.run(
        [sys.executable, "three_optimizers.py", *names], cwd=ROOT / "examples",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.findall(r"(\w+): (\d+) votes in the median, (\d+) to (\d+)", done.stdout)
    return {name: tuple(map(int, votes)) for name, *votes in found}


def test_the_table_beside_cmaes_is_what_the_example_finds() -> None:
    assert len(beside()) == 3
    for name, votes in find_votes("szpo", "cmaes").items():
        assert beside()[name] == votes
    code = (ROOT / "examples" / "three_optimizers.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) < 100


@pytest.mark.slow
def test_the_table_beside_optuna_is_what_the_example_finds() -> None:
    assert find_votes("optuna") == {"optuna": beside()["optuna"]}


def test_public_names_of_the_page_exist() -> None:
    for name in set(re.findall(r"`(szpo\.[A-Za-z_.]+)`", PAGES["docs/library.md"])):
        if name == "szpo.trackers":  # an entry point
            continue
        at: Any = importlib.import_module("szpo")
        for part in name.split(".")[1:]:
            at = (
                getattr(at, part) if hasattr(at, part) else importlib.import_module(f"szpo.{part}")
            )
