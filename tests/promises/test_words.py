"""The words of names, docstrings and comments: the field's terms, one word for one thing.

The words below once meant several things, or nothing to a reader who knows the field. Strings and
templates, which people read on a screen, are searched for `MESSAGES`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("szpo", "ui", "simulators")
SOURCES = [path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))]

PROSE = re.compile(r"\b(so many|told|retold|said|alike|reckon\w*|learnt|kept|who steers)\b", re.I)
"""Write instead: n, reported, answered, identical, count, learned, stored, operator."""
MESSAGES = re.compile(
    r"\b(learnt|reckon\w*|so many|cannot be told|told apart|heard of|been told|so far are kept"
    r"|leave [^.;:]{1,50} away)\b",
    re.I,
)
"""Write instead: trained on, compute, n, cannot check, distinguish, answered, leave out."""
PARTS = {"told", "said", "alike", "reckon", "reckoned", "learnt", "kept", "retell", "unlike"}
"""Parts of names, between underscores, that are no term of the field."""
HOMONYMS = {
    "ballot", "ballots", "board", "place", "plan", "settings", "fold", "folding", "panel", "known",
    "selection",
}  # fmt: skip
"""Names of functions and classes that once stood for several things, in any capitals."""
ONE_PLACE = {
    ("Panel", "szpo/config/run_sections.py"),
    ("Selection", "szpo/config/optimizer_sections.py"),
    ("Selection", "szpo/optim/settings.py"),
    ("Settings", "szpo/optim/settings.py"),
    ("fold", "szpo/replay/replay.py"),
}
"""Where such a name has the one meaning that is left: sections of the settings and the optimizer's
own, and the replay's folding of updates."""
IRREGULAR = {
    "begun", "born", "bought", "built", "caught", "chosen", "cut", "done", "drawn", "found",
    "given", "gone", "held", "kept", "known", "laid", "lost", "made", "met", "paid", "said",
    "seen", "sent", "shown", "spent", "taken", "told", "worn", "thrown", "written",
}  # fmt: skip
NO_PARTICIPLE = {"seed", "speed", "need", "feed", "embed", "exceed", "proceed", "shed", "shared"}


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for part in body if isinstance(body, list) else []:
            if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                text = part.value.value
                yield from (
                    enumerate(text.splitlines(), part.lineno) if isinstance(text, str) else ()
                )


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute():
                yield node.lineno, node.attr
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name
            case _:
                pass


def is_predicate(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """It answers yes or no, or is read like a field: then a participle is its right name."""
    marks = [ast.unparse(each).rpartition(".")[2] for each in node.decorator_list]
    returned = "" if node.returns is None else ast.unparse(node.returns)
    return returned == "bool" or bool({"property", "cached_property"} & set(marks))


def participles(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_predicate(node):
            name = node.name.strip("_")
            regular = name.endswith("ed") and "_" not in name and name not in NO_PARTICIPLE
            if (regular or name in IRREGULAR) and name != "counted":
                yield node.lineno, node.name


def found_in(path: Path, source: str) -> list[str]:
    """Every word of a file that is not to stand in it, as "line: word"."""
    tree, place = ast.parse(source), path.as_posix()
    # Few files have such a word anywhere, strings included; only those are read by tokens.
    lines = [*docstrings(tree), *comments(source)] if PROSE.search(source) else []
    found = [(line, match[0]) for line, text in lines for match in PROSE.finditer(text)]
    found += [(line, name) for line, name in names(tree) if PARTS & set(name.lower().split("_"))]
    found += participles(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_homonym = node.name.strip("_").lower() in HOMONYMS
            if is_homonym and (node.name, place) not in ONE_PLACE:
                found.append((node.lineno, node.name))
    return [f"{line}: {word}" for line, word in sorted(set(found))]


@pytest.mark.parametrize("tree", TREES)
def test_names_and_docstrings_use_the_fields_words(tree: str) -> None:
    of_tree = [path for path in SOURCES if path.is_relative_to(ROOT / tree)]
    assert len(of_tree) > 5
    found = {
        str(path.relative_to(ROOT)): words
        for path in of_tree
        if (words := found_in(path.relative_to(ROOT), path.read_text(encoding="utf-8")))
    }
    assert found == {}


def messages(source: str) -> Iterator[str]:
    """Constant strings of more than one word; the parts of an f-string are joined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def test_messages_and_templates_use_plain_words() -> None:
    found = {}
    for tree in ("szpo", "ui", "simulators"):
        for path in sorted((ROOT / tree).rglob("*.*")):
            # Names of recorded results stay as they are.
            if path.suffix not in {".py", ".html", ".toml"} or "bench" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            # Few files have such words at all; only in those are messages told from code.
            texts = messages(text) if path.suffix == ".py" and MESSAGES.search(text) else [text]
            words = [match[0] for each in texts for match in MESSAGES.finditer(each)]
            if words:
                found[str(path.relative_to(ROOT))] = words
    assert found == {}


def test_the_search_finds_messages() -> None:
    source = 'x = f"{a} pairs learnt"\ny = ("leave --a "\n "and --b away")\nz = "learnt"\n'
    found = {match[0] for text in messages(source) for match in MESSAGES.finditer(text)}
    assert found == {"leave --a and --b away", "learnt"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('def f():\n    """After so many votes."""\n', ["2: so many"]),
        ("x = 1  # kept for later\n", ["1: kept"]),
        ("def f(told): ...\n", ["1: told"]),
        ("class _Place: ...\n", ["1: _Place"]),
        ("def drawn() -> list[int]: ...\n", ["1: drawn"]),
        ("def drawn() -> bool: ...\n", []),
        ("def seed() -> int: ...\n", []),
        ('def f():\n    return "said"\n', []),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, words: list[str]) -> None:
    assert found_in(Path("szpo/some.py"), source) == words
