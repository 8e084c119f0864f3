"""The arrows between the parts, read from the source: who may import whom."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
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

PURE = ("types", "errors", "seeds", "metrics", "optim")
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "safetensors", "accelerate"}
BORROWED = {"szpo.metrics": {"vaderSentiment"}}
"""What single files of the pure core may load beside NumPy and SciPy."""
# No file, no clock, no chance, no other process inside the pure core.
IMPURE = {
    "os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "sqlite_utils", "time", "datetime",
    "random", "secrets", "socket", "subprocess", "threading", "multiprocessing", "logging",
}  # fmt: skip
LIGHT = [
    "ledger", "ledger.database", "voting.service", "replay.verification", "runs.controller",
    "voting.panel_evaluator", "config", "config.settings_file", "optim", "optim.optimizer",
    "analysis.dataframes", "vector_optimizer", "testing", "cli", "cli.app",
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


@pytest.mark.full
def test_packages_know_only_those_below_them():
    allowed = {"szpo": {"szpo"}}
    allowed |= {name: {"szpo", name} for name in ("szpo_ui", "szpo_simulators")}
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
    for arrows in (files, packages):
        TopologicalSorter(arrows).prepare()  # names a circle


def test_core_is_pure():
    for module in INNER:
        if not (module.startswith("szpo.") and module.split(".")[1] in PURE):
            continue
        path, allowed = FILES[module], {"numpy", "scipy"} | BORROWED.get(module, set())
        for imported, line in imports(path):
            top, *rest = imported.split(".")
            own = top == "szpo" and (not rest or rest[0] in PURE)
            found = own or top in allowed | (sys.stdlib_module_names - IMPURE)
            assert found, f"{name(path)}:{line} imports {imported}"
        for call in calls(path):
            leaves = ast.unparse(call.func) in {"open", "print", "input"}
            assert not leaves, f"{name(path)}:{call.lineno} leaves the pure core"


def test_weights_are_loaded_at_one_door():
    """It refuses files that lack a tensor."""
    loads = re.compile(r"(\w+\.)*(AutoModel|PeftModel)\w*\.from_pretrained")
    found = {
        name(path) for path in SOURCES if "from_pretrained" in path.read_text("utf-8")
        for call in calls(path) if loads.fullmatch(ast.unparse(call.func))
    }  # fmt: skip
    assert found == {"szpo/models/weight_files.py"}


@pytest.mark.full
def test_every_public_name_is_there():
    for module in DOORS - {"szpo.plots"}:  # which has its functions itself
        found = import_module(module)
        assert found.__all__
        for public in found.__all__:
            assert getattr(found, public) is not None
            assert f"{module}.{public}" not in INNER, f"{module}: {public} is a module as well"
            assert public in dir(found)
        with pytest.raises(AttributeError, match="nothing_of_this_name"):
            found.nothing_of_this_name  # noqa: B018


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


@pytest.mark.full
def test_what_holds_the_model_serves_nobody():
    """The generator's process has no port: no web server is imported outside the web's package."""
    servers = {"uvicorn", "fastapi", "starlette", "gradio", "socketserver", "aiohttp"}
    servers |= {"http.server"}
    for path in SOURCES:
        if package(path) != "szpo_ui":
            for module, line in imports(path):
                found = servers & {module, module.split(".")[0]}
                assert not found, f"{name(path)}:{line} imports {found}"


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))


def test_the_pages_write_no_value_into_a_statement():
    """SQL is put together from constants of the module and from question marks only."""
    asked = 0
    for path in PACKAGES["szpo_ui"].rglob("*.py"):
        for call in calls(path):
            if getattr(call.func, "attr", "") not in ("query", "execute") or not call.args:
                continue
            asked += 1
            for part in ast.walk(call.args[0]):
                if isinstance(part, ast.FormattedValue):
                    value = ast.unparse(part.value)
                    assert re.fullmatch(r"[A-Z_]+|marks", value), f"{name(path)}: {value}"
    assert asked >= 20


READERS_THAT_RUN = {"pickle", "cPickle", "joblib", "dill", "marshal", "shelve", "yaml"}
RUNNING = {"eval", "exec", "os.system", "torch.load", "compile"}
TRUSTING = {("allow_pickle", True), ("trust_remote_code", True), ("shell", True)}


@pytest.mark.full
def test_nothing_is_read_in_a_way_that_runs_it():
    for path in SOURCES:
        for module, line in imports(path):
            assert module.split(".")[0] not in READERS_THAT_RUN, f"{name(path)}:{line}"
        for call in calls(path):
            given = {(word.arg, getattr(word.value, "value", None)) for word in call.keywords}
            found = {ast.unparse(call.func)} & RUNNING or given & TRUSTING
            assert not found, f"{name(path)}:{call.lineno}: {found}"


def test_no_replace_into_append_only_tables():
    """REPLACE deletes before it inserts, which would rewrite history behind the triggers."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for word in ("INSERT OR REPLACE", "REPLACE INTO", "replace=True", ".upsert("):
            assert word not in text, f"{name(path)} uses {word}"


@pytest.mark.full
def test_entry_points_name_what_is_there():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(groups) <= {
        "szpo.commands", "szpo.benches", "szpo.evaluators", "szpo.rewards", "szpo.policies",
        "szpo.features", "szpo.rules", "szpo.engines",
    }  # fmt: skip
    for group, entries in groups.items():
        for entry, target in entries.items():
            module, _, attribute = target.partition(":")
            assert hasattr(import_module(module), attribute), f"{group}: {entry}"
