"""Tables of measured results on the pages are those that the stored results give."""

from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def page_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    return import_module("page_tables")


@pytest.mark.parametrize("name", ["frontier.md", "compare.md"])
def test_a_page_has_the_tables_of_its_stored_results(page_tables, name):
    """A result stored later makes this fail until ``docs/tools/page_tables.py`` has run."""
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page_tables.replace(page, page_tables.PAGES[name]()) == page


def test_a_tables_rows_take_the_place_of_those_below_its_heading(page_tables):
    above = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    page = f"Text.\n\n{above}\n\n| a | c |\n|---|---|\n| 5 | 6 |\n\nText.\n"
    found = page_tables.replace(page, {"a | c": [["7", "8"], ["9", "0"]]})
    assert found == page.replace("| 5 | 6 |", "| 7 | 8 |\n| 9 | 0 |")


def test_a_page_without_a_table_is_refused(page_tables):
    with pytest.raises(ValueError, match=r"no table begins with: \| x \|"):
        page_tables.replace("Text.\n", {"x": []})
