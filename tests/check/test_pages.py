"""What pages name exists: links, pages of the site, commands and their options, public names."""

import ast
import re
import shlex
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from szpo.cli import app
from szpo.cli.app import call

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(DOCS.rglob("*.md"))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
BUILT = {
    "index.md", "security.md", "contributing.md", "changelog.md", "experiments.md",
    "gallery/index.md",
    *(f"gallery/{path.stem}.md" for path in (ROOT / "examples" / "gallery").glob("[0-9]*.py")),
    *(f"notebooks/{path.stem}.md" for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")),
}  # fmt: skip
"""Pages that the site's build takes from elsewhere (docs/tools/site_hooks.py)."""


def entries(nav: Any) -> Iterator[str]:
    """Every page that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from entries(part)


def slug(heading: str) -> str:
    """The anchor that the site gives to a heading."""
    text = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading)).encode("ascii", "ignore")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text.decode()).strip().lower())


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    names = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    return names | {slug(each) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_the_navigation_and_the_links_of_pages_lead_somewhere():
    lost = [e for e in entries(SITE["nav"]) if not (DOCS / e).exists() and e not in BUILT]
    for page, text in TEXTS.items():
        for link in LINK.findall(FENCE.sub("", text)):
            if re.match(r"https?:|mailto:", link):
                continue
            path, _, anchor = link.partition("#")
            target = page if not path else (page.parent / path).resolve()
            if target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in BUILT:
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert not lost


def test_no_page_shows_both_sides_of_a_merge():
    assert not [page.name for page, text in TEXTS.items() if re.search("^<{7} ", text, re.M)]


def test_the_site_takes_nothing_from_another_host():
    assert SITE["theme"]["font"] is False
    assert "repo_url" not in SITE  # the theme would ask that host for its stars
    extra = SITE.get("extra_css", []) + SITE.get("extra_javascript", [])
    assert not [e for e in extra if "//" in e]
    text = "\n".join(TEXTS.values())
    # The theme fetches the program that draws mermaid from elsewhere.
    assert "```mermaid" not in text and not re.search(r"!\[[^\]]*\]\(http|<script|<iframe", text)


def written_commands() -> Iterator[tuple[str, str]]:
    """(page, command line) for each line ``szpo …`` in a block or in a sentence."""
    for page, text in TEXTS.items():
        blocks = [body for language, body in FENCE.findall(text) if language in ("", "bash")]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(szpo [^`\n]+)`", FENCE.sub("", text))
        for line in lines:
            if found := re.match(r"\s*(?:\.venv/bin/)?(szpo [a-z].*)", line.split(" #")[0]):
                yield str(page.relative_to(ROOT)), found[1]


def test_commands_of_pages_exist_with_their_options(capsys):
    @cache
    def help_of(*command: str) -> str:
        return capsys.readouterr().out if call([*command, "--help"]) == 0 else ""

    wrong = []
    for page, line in written_commands():
        try:
            _, command, *words = shlex.split(line)
        except ValueError:
            words = line.split()
            _, command, *words = words
        if command not in app.COMMANDS:
            wrong.append(f"{page}: there is no szpo {command}")
            continue
        options = [word.split("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)]
        further = words[:1] if command == "adapters" else ()
        shown = help_of(command, *further) if options and command != "bench" else ""
        wrong += [
            f"{page}: szpo {command} has no {word}"
            for word in options
            if shown and not re.search(rf"(^|[\s,]){re.escape(word)}\b", shown)
        ]
    assert not wrong


def test_every_command_is_on_the_page_of_commands():
    page = TEXTS[DOCS / "reference" / "commands.md"]
    assert not [c for c in app.COMMANDS if not re.search(rf"^szpo {c}\b", page, re.MULTILINE)]


def test_files_and_targets_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lost = []
    for page, text in TEXTS.items():
        where = page.relative_to(ROOT)
        for path in re.findall(r"`((?:docs|examples|experiments|tests)/[\w./-]*\w)`", text):
            if not (ROOT / path).exists():
                lost.append(f"{where}: {path}")
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
            if not re.search(rf"^{target}:", makefile, re.MULTILINE):
                lost.append(f"{where}: make {target}")
    assert not lost


def handed_on(stub: Path) -> Iterator[str]:
    """The full names that szpo hands on by a stub."""
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = f"szpo.{node.module}" if node.module else "szpo"
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_every_public_name_is_in_the_reference_or_the_guide_and_exists():
    text = "\n".join(each for page, each in TEXTS.items() if page.parent.name == "reference")
    shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    for name in shown:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    guide = TEXTS[DOCS / "tutorials" / "python.md"]
    public = {name for stub in (ROOT / "szpo").glob("*.pyi") for name in handed_on(stub)}
    missing = {n for n in public - set(shown) if n.rpartition(".")[2] not in guide}
    assert not missing, "give each an entry (::: module.name) on a page of docs/reference"


@pytest.mark.parametrize("name", ["step", "rooms"])
def test_a_drawn_picture_is_what_its_command_draws(monkeypatch, name):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    drawn = import_module(f"draw_{name}").draw()
    assert (DOCS / f"{name}.svg").read_text(encoding="utf-8") == drawn, f"draw_{name}.py"


def test_the_page_of_settings_is_what_the_code_says(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    made = import_module("settings_page").page()
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == made, "run python docs/tools/settings_page.py"


def test_every_figure_of_a_sentence_has_its_cells_or_its_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    wrong = import_module("prose_figures").main()
    assert not wrong, capsys.readouterr().out


def words(text: str) -> int:
    """The words of a text: what has a letter or a digit between two spaces."""
    return sum(any(map(str.isalnum, each)) for each in text.split())


def test_pages_stay_short():
    readme = TEXTS[ROOT / "README.md"]
    assert words(readme) <= 900 and len(readme.splitlines()) <= 120
    assert words((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")) <= 1_500
    assert sum(map(words, [readme, *(TEXTS[page] for page in DOCS.rglob("*.md"))])) <= 20_000
