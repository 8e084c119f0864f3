"""Every figure of the documents stands over the command that draws it, and none is left over."""

import re
from pathlib import Path

import pytest

from szpo.plugins import names

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = sorted((DOCS / "figures").glob("*"))
SHOWN = re.compile(r"^!\[(?P<text>[^\]]*)\]\(figures/(?P<file>[^)]+)\)\n+(?P<under>.*)$", re.M)
COMMAND = re.compile(
    r"^`szpo (?:bench (?P<bench>[a-z-]+)|compare)(?P<options>( --[a-z-]+( [\w./-]+)?)*)`"
)


def shown():
    """Every figure of every document with the line under it."""
    for page in sorted(DOCS.glob("*.md")):
        yield from SHOWN.finditer(page.read_text(encoding="utf-8"))


def test_every_figure_carries_its_command():
    found = list(shown())
    assert found
    for figure in found:
        command = COMMAND.match(figure["under"])
        assert command, f"{figure['file']}: the line under it is {figure['under']!r}"
        assert command["bench"] in (None, *names("szpo.benches")), figure["file"]
        assert "--figures docs/figures" in command["options"], figure["file"]
        assert len(figure["text"]) > 20, f"{figure['file']}: say in words what it shows"


def test_every_file_is_shown_and_every_shown_file_exists():
    assert {figure["file"] for figure in shown()} == {path.name for path in FIGURES}


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_figures_are_small_and_say_nothing_of_the_machine(path):
    text = path.read_text(encoding="utf-8")
    assert path.suffix == ".svg" and len(text) < 300_000
    assert not re.search(r"dc:date|/work|/tmp|/home|/root", text)
