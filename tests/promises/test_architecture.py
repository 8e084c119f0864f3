"""The arrows between the parts, read from the source: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "szpo": ROOT / "szpo",
    "szpo_ui": ROOT / "ui" / "szpo_ui",
    "szpo_simulators": ROOT / "simulators" / "szpo_simulators",
}
SOURCES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]

PURE = ("types", "errors", "seeds", "intervals", "metrics", "aggregation", "optim")
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "safetensors", "accelerate"}
BORROWED = {"szpo.metrics": {"vaderSentiment"}}
"""What single files of the pure core may load beside NumPy and SciPy."""
# No file, no clock, no chance, no other process inside the pure core.
IMPURE = {
    "os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "sqlite_utils", "time", "datetime",
    "random", "secrets", "socket", "subprocess", "threading", "multiprocessing", "logging",
}  # fmt: skip
LIGHT = [
    "ledger", "ledger.database", "voting.service", "replay.verification", "training.controller",
    "evaluators.panel_evaluator", "config", "config.settings_file", "optim", "optim.optimizer",
    "reports.dataframes", "vector", "testing", "cli", "cli.app",
]  # fmt: skip


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name a file imports, also inside functions, with its line."""
    for node in ast.walk(parsed(path)):
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
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                lines.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    return lines


@pytest.mark.full
def test_packages_know_only_those_below_them():
    allowed = {
        "szpo": {"szpo"},
        "szpo_ui": {"szpo", "szpo_ui"},
        "szpo_simulators": {"szpo", "szpo_simulators"},
    }
    wrong = []
    for path in SOURCES:
        mine = package(path)
        for module, line in imports(path):
            root = module.split(".")[0]
            above = root in PACKAGES and root not in allowed[mine]
            apart = root in {"tests", "experiments", "examples", "ui", "simulators"}
            if above or apart or (root == "gradio" and mine != "szpo_ui"):
                wrong.append(f"{name(path)}:{line} imports {module}")
    assert not wrong


FILES = {
    ".".join(path.relative_to(PACKAGES[package(path)].parent).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in SOURCES
}
"""Every module of the three trees, by its dotted name."""


def edges(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of the three trees that a file imports, wherever in it, with the line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else str(node.module), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name in FILES)


DOORS = {"szpo", "szpo.plots", "szpo.testing"}
INNER = [module for module in FILES if module not in DOORS]


@pytest.mark.full
def test_no_module_imports_a_door():
    """Public names are for users; inside, a name comes from where it is defined."""
    for module in INNER:
        for node in ast.walk(parsed(FILES[module])):
            if isinstance(node, ast.ImportFrom) and node.module in DOORS:
                names = {alias.name for alias in node.names}
                outer = {n for n in names if f"{node.module}.{n}" not in FILES}
                where = f"{name(FILES[module])}:{node.lineno}"
                assert outer <= {"__version__"} and "testing" not in names, where


@pytest.mark.full
def test_no_circle_between_files_nor_between_packages():
    files = {m: {to for to, _ in edges(FILES[m])} - {m} for m in INNER}
    packages: dict[str, set[str]] = {}
    for module, targets in files.items():
        mine, *others = (".".join(each.split(".")[:2]) for each in (module, *targets))
        packages.setdefault(mine, set()).update(set(others) - {mine})
    require_order(files)
    require_order(packages)


def require_order(arrows: Mapping[str, set[str]]) -> None:
    """No way along the arrows comes back to where it began."""
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module in done or module not in arrows:
            return
        for to in sorted(arrows[module]):
            walk(to, (*way, module))
        done.add(module)

    for module in sorted(arrows):
        walk(module, ())


def test_core_is_pure():
    for module in INNER:
        if module.startswith("szpo.") and module.split(".")[1] in PURE:
            check_pure(module)


def check_pure(module: str) -> None:
    path = FILES[module]
    for imported, line in imports(path):
        parts = imported.split(".")
        where = f"{name(path)}:{line} imports {imported}"
        if parts[0] == "szpo":
            assert len(parts) == 1 or parts[1] in PURE, where
        else:
            allowed = sys.stdlib_module_names | {"numpy", "scipy"} | BORROWED.get(module, set())
            assert parts[0] in allowed, where
            assert parts[0] not in IMPURE, where
    calls = [
        node
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in {"open", "print", "input"}
    ]
    assert not calls, f"{name(path)}:{calls[0].lineno} leaves the pure core"


@pytest.mark.full
def test_every_public_name_is_there():
    for module in DOORS - {"szpo.plots"}:  # which has its functions itself
        check_public(module)


def check_public(module: str) -> None:
    found = import_module(module)
    assert found.__all__
    for public in found.__all__:
        assert getattr(found, public) is not None
        assert f"{module}.{public}" not in INNER, f"{module}: {public} is a module as well"
        assert public in dir(found)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        found.nothing_of_this_name  # noqa: B018


def module_level(path: Path) -> set[str]:
    """Names of szpo's own modules that load together with a file."""
    tree = parsed(path)
    lazy = typing_only(path) | {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return {module for module, line in imports(path) if line not in lazy}


@pytest.mark.full
def test_torch_stays_on_the_policy_side():
    """What the run's side loads names no tensor library, not even inside a function."""
    waiting = ["szpo", *(f"szpo.{part}" for part in LIGHT)]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in FILES or not module.startswith("szpo"):
            continue
        seen.add(module)
        path = FILES[module]
        for imported, line in imports(path):
            heavy = imported.split(".")[0] in HEAVY and line not in typing_only(path)
            assert not heavy, f"{name(path)}:{line} imports {imported}"
        waiting += module_level(path)
    assert {
        "szpo.policies.lora_policy",
        "szpo.models.loading",
        "szpo.policies.subspaces",
    }.isdisjoint(seen)
    assert len(seen) > 30


@pytest.mark.spine
def test_import_loads_no_torch():
    """In a fresh interpreter; ``szpo --help`` must not wait for a tensor library."""
    modules = ["szpo", *(f"szpo.{name}" for name in LIGHT)]
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    if heavy := {HEAVY!r} & set(sys.modules):\n"
        "        sys.exit(f'{module} loads {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_replace_into_append_only_tables():
    """REPLACE deletes before it inserts, which would rewrite history behind the triggers."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for word in ("INSERT OR REPLACE", "REPLACE INTO", "replace=True", ".upsert("):
            assert word not in text, f"{name(path)} uses {word}"


@pytest.mark.full
def test_entry_points_name_files_that_exist():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(groups) <= {
        "szpo.commands", "szpo.benches", "szpo.evaluators", "szpo.rewards", "szpo.policies",
        "szpo.features", "szpo.rules", "szpo.engines",
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
