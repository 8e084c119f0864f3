"""Count the house: lines, syntax nodes, tests, settings, commands, benches, words, packages.

    python docs/tools/size.py [folder]        the counts of a checkout, one a line

A line is a physical line, blanks and comments included. Nothing of the project is imported, so
that an older checkout is counted the same way; generated and downloaded folders are left out.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

TREES = ("szpo", "ui", "simulators", "experiments", "examples", "docs/tools")
LAYERS = ("szpo", "ui", "simulators")
SUFFIXES = {".py", ".js", ".css", ".html", ".sql", ".toml"}
NOT_OURS = (".venv", "build", "dist", ".git")
RECORDS = {"CHANGELOG.md", "LOG.md"}


def main(root: Path) -> None:
    """Print every count of the checkout at `root`."""
    product = [path for tree in TREES for path in files(root / tree, SUFFIXES)]
    layers = [path for tree in LAYERS for path in files(root / tree, {".py"})]
    tests = list(files(root / "tests", {".py"}))
    lines = [line for path in layers for line in path.read_text("utf-8").splitlines()]
    written = [line for line in lines if line.strip()]
    print(f"lines, all product files      {sum(map(length, product))}")
    print(f"lines, Python of three trees  {len(lines)}")
    print(f"lines, Python of tests        {sum(map(length, tests))}")
    print(f"characters a written line     {sum(map(len, written)) / len(written):.1f}")
    print(f"share of blank lines          {1 - len(written) / len(lines):.1%}")
    print(f"syntax nodes, three trees     {sum(map(nodes, layers))}")
    print(f"syntax nodes, tests           {sum(map(nodes, tests))}")
    print(f"test functions                {sum(map(test_functions, tests))}")
    print(f"modules, three trees          {len(layers)}")
    print(f"packages, three trees         {sum(path.name == '__init__.py' for path in layers)}")
    print(f"dataclasses and their kin     {sum(map(records, layers))}")
    print(f"settings keys                 {settings(root / 'szpo' / 'config')}")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    print(f"benches                       {len(project['entry-points']['szpo.benches'])}")
    print(f"commands                      {commands(root / 'szpo' / 'cli' / 'app.py')}")
    print(f"words of pages                {words(root)}")
    longest = max(layers, key=length)
    print(f"longest file                  {longest.relative_to(root)} {length(longest)}")
    name, size = max((found for path in layers for found in functions(path)), key=lambda f: f[1])
    print(f"longest function              {name} {size}")


def files(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """Files below `folder` with one of `suffixes` that the project wrote."""
    for path in sorted(folder.rglob("*")):
        ours = not str(path.relative_to(folder)).startswith(NOT_OURS)
        if path.suffix in suffixes and ours and ".min." not in path.name:
            yield path


def length(path: Path) -> int:
    """Physical lines of a file."""
    return len(path.read_text("utf-8").splitlines())


def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text("utf-8"))


def nodes(path: Path) -> int:
    """Nodes of a file's syntax tree, docstrings left out."""
    return sum(not is_docstring(node) for node in ast.walk(tree(path)))


def is_docstring(node: ast.AST) -> bool:
    """Whether `node` is an expression of one string, as docstrings are."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of every function of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            yield f"{path.name}:{node.name}", node.end_lineno - node.lineno + 1


def test_functions(path: Path) -> int:
    """Functions of a file whose name begins with `test`."""
    return sum(name.split(":")[1].startswith("test") for name, _ in functions(path))


def records(path: Path) -> int:
    """Dataclasses, NamedTuples, TypedDicts and pydantic models that a file defines."""
    bases = {"NamedTuple", "TypedDict", "BaseModel", "Section"}
    return sum(
        any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
        or bool(bases & {ast.unparse(base).split(".")[-1] for base in node.bases})
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    )


def settings(folder: Path) -> int:
    """Keys of run.toml: fields of the sections; one that several rules have counts once."""
    found = set()
    for path in folder.glob("*.py"):
        for node in tree(path).body:
            if not isinstance(node, ast.ClassDef) or not node.bases or node.name == "Config":
                continue
            rule = "of rules" if path.stem == "optimizer" else node.name
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and "ClassVar" not in ast.unparse(part):
                    found.add((path.stem, rule, ast.unparse(part.target)))
    return len(found)


def commands(table: Path) -> int:
    """Commands in the table that the program prints its help from."""
    return len(re.findall(r'^        \("\w', table.read_text("utf-8"), re.MULTILINE))


def words(root: Path) -> int:
    """Words of every page but the changelog and the log, and of the prose in gallery scripts."""
    pages = (path for path in files(root, {".md"}) if path.name not in RECORDS)
    total = sum(len(path.read_text("utf-8").split()) for path in pages)
    for script in files(root / "examples" / "gallery", {".py"}):
        text = script.read_text("utf-8")
        prose = [ast.get_docstring(ast.parse(text)) or "", *re.findall(r"^# (.*)", text, re.M)]
        total += sum(len(part.split()) for part in prose)
    return total


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2])
