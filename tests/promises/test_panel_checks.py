"""The panel's list of checks: each names its tests, and what no other test holds is held here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from szpo_ui.operator import vote_filter

ROOT = Path(__file__).parents[2]
UI = ROOT / "ui" / "szpo_ui"


FILTERED = {
    "vote_pages.py": {"chosen.key", "where", "end", "votes", "meets or '1'"},
    "vote_index.py": {"where", "these", "column", "table"},
}
"""Parts of statements that `vote_filter` makes, or that the module names beside them."""


@pytest.mark.full
def test_what_holds_the_model_serves_nobody():
    """The generator's process has no port: no web server is imported outside the web's package.

    But for the stub that stands for somebody else's endpoint when judges are measured.
    """
    servers = {"uvicorn", "fastapi", "starlette", "gradio", "socketserver", "aiohttp"}
    servers |= {"http.server"}
    for folder in (ROOT / "szpo", ROOT / "simulators"):
        for path in folder.rglob("*.py"):
            if path.name == "stub_endpoint.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import)
                    else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                )  # fmt: skip
                found = servers & {part for name in names for part in (name, name.split(".")[0])}
                assert not found, f"{path.name} imports {found}"


def test_the_pages_write_no_value_into_a_statement():
    """SQL is put together from constants of the module and from question marks only."""
    asked = 0
    for path in UI.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("query", "execute") or not node.args:
                continue
            asked += 1
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.FormattedValue):
                    name = ast.unparse(part.value)
                    if path.name not in FILTERED or name not in FILTERED[path.name]:
                        assert re.fullmatch(r"_[A-Z_]+|marks", name), f"{path.name}: {name}"
    assert asked >= 20


def test_conditions_of_a_filter_have_no_value_of_it():
    """What the browser of comparisons adds to a statement is szpo's own words."""
    words = {"q": "hostile one", "panelist": "hostile two", "comparison": "hostile three"}
    chosen = vote_filter.parse([*words.items(), ("round", "987"), ("prompt", "654"),
                                ("after", "321.123"), ("sort", "split")])  # fmt: skip
    where, values = vote_filter.of_comparisons(chosen)
    end, cursor, _ = vote_filter.page_end(chosen, limit=51)
    for text in ("hostile", "987", "986", "654", "321", "123"):
        assert text not in where + end + chosen.key
    assert {986, 654, "hostile two", "hostile three"} <= set(values) and cursor == [321, 123]
