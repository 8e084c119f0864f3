"""The site: what its pages name is there. Read from the Markdown, so no site has to be built."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from szpo.cli.app import call
from szpo.models import loading

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(DOCS.rglob("*.md"))
GALLERY = sorted((ROOT / "examples" / "gallery").glob("[0-9]*.py"))
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
FENCE = re.compile(r"^```.*?^```[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TAKEN_IN = {"security.md", "contributing.md", "changelog.md", "experiments.md"}
"""Pages that the build takes from elsewhere (docs/tools/site_hooks.py)."""


def config() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def entries(nav: Any) -> Iterator[str]:
    """Every page that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from entries(part)


def made() -> set[str]:
    """Pages that the build makes from scripts and notebooks."""
    return {
        "gallery/index.md",
        *(f"gallery/{script.stem}.md" for script in GALLERY),
        *(f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOKS),
    }


def slug(heading: str) -> str:
    """The anchor that the site gives to a heading."""
    text = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading)).encode("ascii", "ignore")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text.decode()).strip().lower())


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    names = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    return names | {slug(each) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_every_entry_of_the_navigation_is_a_page() -> None:
    named = list(entries(config()["nav"]))
    assert len(named) == len(set(named)) > 40
    for page in named:
        assert (DOCS / page).exists() or page in made() | TAKEN_IN, page
    assert {f"gallery/{script.stem}.md" for script in GALLERY} <= set(named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in made() | TAKEN_IN:
            continue
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_falls_out_of_its_list(page: Path) -> None:
    """The site's Markdown wants four spaces; with three, numbers begin again after the block."""
    lines = ["", *FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()]
    fallen = [
        line
        for before, line in itertools.pairwise(lines)
        if not before and re.match(r" {1,3}\S", line)
    ]
    assert fallen == []


def test_nothing_comes_from_another_host() -> None:
    site = config()
    assert site["theme"]["font"] is False
    assert "repo_url" not in site  # the theme would ask that host for its stars
    named = site.get("extra_css", []) + site.get("extra_javascript", [])
    assert not [each for each in named if "//" in each]
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    # The theme fetches the program that draws mermaid from elsewhere.
    assert "```mermaid" not in text and not re.search(r"!\[[^\]]*\]\(http|<script|<iframe", text)


def top_level(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def handed_on(door: Path) -> Iterator[str]:
    """The full names that a package hands on, read from what a type checker sees."""
    for node in ast.walk(top_level(door)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for each in node.body:
                if isinstance(each, ast.ImportFrom):
                    yield from (f"{each.module}.{alias.name}" for alias in each.names)


def defines(name: str) -> bool:
    """Whether a module defines the name, read from its source: nothing heavy is loaded."""
    module, _, attribute = name.rpartition(".")
    for node in top_level(ROOT / f"{module.replace('.', '/')}.py").body:
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                pass
            case (
                ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found))
            ):
                pass
            case _:
                continue
        if found == attribute:
            return True
    return False


def test_every_public_name_has_its_entry_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert not [name for name in shown if not defines(name)]
    doors = [*sorted((ROOT / "szpo").glob("*/__init__.py")), ROOT / "szpo" / "testing.py"]
    doors = [ROOT / "szpo" / "__init__.py", *(each for each in doors if each.parent.name != "cli")]
    public = {name for door in doors for name in handed_on(door)}
    assert len(public) > 40
    guide = DOCS / "library.md"
    guided = guide.read_text(encoding="utf-8") if guide.exists() else ""
    missing = {name for name in public - set(shown) if name.rpartition(".")[2] not in guided}
    assert not missing, "give each an entry (::: module.name) on a page of docs/reference"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [(page.stem, block) for block in blocks]
    return found


@pytest.mark.parametrize(("page", "code"), examples(), ids=lambda each: each.split("\n")[0][:20])
def test_examples_of_the_reference_run(page: str, code: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"docs/reference/{page}.md", "exec"), {})
    assert printed.getvalue().strip() or "check_" in code


def run_script(script: Path, folder: Path) -> str:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "ui", ROOT / "simulators")))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder, env={**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(list(folder.glob("*.svg"))) == 1
    return done.stdout


def test_gallery_scripts_say_what_they_show() -> None:
    assert len(GALLERY) >= 8
    for script in GALLERY:
        title, _, text = (ast.get_docstring(top_level(script)) or "").partition("\n")
        assert title.endswith((".", "?")) and len(title) < 70 and len(text.split()) > 20, (
            script.name
        )


def test_a_saved_optimizer_goes_on_at_the_same_bits(tmp_path: Path) -> None:
    (script,) = (each for each in GALLERY if each.stem.endswith("saved_and_loaded"))
    one, two = run_script(script, tmp_path).splitlines()
    assert one.removeprefix("in one go   ") == two.removeprefix("in two parts")


@pytest.mark.slow
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_gallery_scripts_run(script: Path, tmp_path: Path) -> None:
    assert run_script(script, tmp_path)


def run_cells(notebook: Path) -> dict[str, Any]:
    """Run a notebook's cells in one namespace, as a kernel would; its names at the end."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    space: dict[str, Any] = {}
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), notebook.name, "exec"), space)
    return space


def test_the_notebook_on_votes_reads_a_run_of_its_own() -> None:
    (notebook,) = (each for each in NOTEBOOKS if "reading" in each.stem)
    space = run_cells(notebook)
    counted = space["votes"].groupby("panelist").size()
    assert counted.sum() == 24 and len(counted) == 5
    assert space["report"].ok
    space["run"].close()


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_run(notebook: Path) -> None:
    assert len(NOTEBOOKS) == 4
    assert run_cells(notebook)


@pytest.mark.slow
def test_the_tutorial_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in order to the loaded adapter, as far as no network and no voter is needed."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8").partition("## 8.")[0]
    lines = re.findall(r"^szpo (.+)$", text, re.MULTILINE)
    prompts = ROOT / "examples" / "tutorial" / "prompts.csv"
    assert len(prompts.read_text(encoding="utf-8").splitlines()) == 41
    (tmp_path / "prompts.csv").write_text(prompts.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert call(shlex.split(line)) == 0, line
    (load,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    base = str(loading.locate("tiny"))
    done = subprocess.run(
        [sys.executable, "-c", load, base, "runs/garden-adapter"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "What can I plant in October?" in done.stdout
