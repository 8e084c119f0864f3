"""The arrows between the parts, read from the source: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "szpo": ROOT / "szpo",
    "szpo_ui": ROOT / "ui" / "szpo_ui",
    "szpo_simulators": ROOT / "simulators" / "szpo_simulators",
}
SOURCES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]

CORE = {
    "types", "errors", "seeds", "directions", "coordinates", "links", "estimators", "optimizer",
    "bayes", "settings", "stepsize", "steering", "momentum", "weighting", "weighed",
    "rationality", "onecoin",
}  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "safetensors", "accelerate"}
# No file, no clock, no chance, no other process inside the pure core.
IMPURE = {
    "os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "sqlite_utils", "time", "datetime",
    "random", "secrets", "socket", "subprocess", "threading", "multiprocessing", "logging",
}  # fmt: skip
LIGHT = ["ledger", "votes", "replay", "controller", "evaluators", "config", "cli", "tables"]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def package(path: Path) -> str:
    return next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def typing_only(path: Path) -> set[int]:
    """Lines under ``if TYPE_CHECKING``: they load nothing."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                lines.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_packages_know_only_those_below_them(path: Path) -> None:
    allowed = {
        "szpo": {"szpo"},
        "szpo_ui": {"szpo", "szpo_ui"},
        "szpo_simulators": {"szpo", "szpo_simulators"},
    }[package(path)]
    for module, line in imports(path):
        root = module.split(".")[0]
        assert root not in PACKAGES or root in allowed, f"{name(path)}:{line} imports {module}"
        assert root != "gradio" or package(path) == "szpo_ui", f"{name(path)}:{line}"
        assert root not in {"tests", "experiments", "examples", "ui", "simulators"}


@pytest.mark.parametrize("module", sorted(CORE))
def test_core_is_pure(module: str) -> None:
    path = PACKAGES["szpo"] / f"{module}.py"
    for imported, line in imports(path):
        parts = imported.split(".")
        where = f"{name(path)}:{line} imports {imported}"
        if parts[0] == "szpo":
            assert len(parts) == 1 or parts[1] in CORE, where
        else:
            assert parts[0] in sys.stdlib_module_names | {"numpy", "scipy"}, where
            assert parts[0] not in IMPURE, where
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in {"open", "print", "input"}
    ]
    assert not calls, f"{name(path)}:{calls[0].lineno} leaves the pure core"


def module_level(path: Path) -> set[str]:
    """Names of szpo's own modules that load together with a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = typing_only(path) | {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return {module for module, line in imports(path) if line not in lazy}


def test_torch_stays_on_the_policy_side() -> None:
    """What the run's side loads names no tensor library, not even inside a function."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGES["szpo"].rglob("*.py")
    }
    waiting = ["szpo", *(f"szpo.{part}" for part in (*LIGHT, *CORE))]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in files:
            continue
        seen.add(module)
        path = files[module]
        for imported, line in imports(path):
            heavy = imported.split(".")[0] in HEAVY and line not in typing_only(path)
            assert not heavy, f"{name(path)}:{line} imports {imported}"
        waiting += module_level(path)
    assert {"szpo.lora", "szpo.models", "szpo.subspaces"}.isdisjoint(seen)
    assert len(seen) > 30


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, "split by concept"


@pytest.mark.parametrize("module", ["szpo", *(f"szpo.{name}" for name in LIGHT)])
def test_import_loads_no_torch(module: str) -> None:
    """In a fresh interpreter; ``szpo --help`` must not wait for a tensor library."""
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def test_no_replace_into_append_only_tables() -> None:
    """REPLACE deletes before it inserts, which would rewrite history behind the triggers."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for word in ("INSERT OR REPLACE", "REPLACE INTO", "replace=True", ".upsert("):
            assert word not in text, f"{name(path)} uses {word}"


def test_entry_points_name_files_that_exist() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(groups) <= {
        "szpo.commands", "szpo.benches", "szpo.evaluators", "szpo.rewards", "szpo.policies",
        "szpo.features",
    }  # fmt: skip
    for group, entries in groups.items():
        for entry, target in entries.items():
            module, _, attribute = target.partition(":")
            folder = PACKAGES[module.split(".")[0]].parent
            stem = folder.joinpath(*module.split("."))
            files = [f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.exists()]
            assert files, f"{group}: {entry} names {module}, which does not exist"
            top = {
                getattr(node, "name", None)
                or ast.unparse(node).split("=")[0].split(":")[0].strip()
                for node in ast.parse(files[0].read_text(encoding="utf-8")).body
            }
            assert attribute in top, f"{group}: {entry} names {attribute}, not in {files[0].name}"
