"""What mkdocs does beside its plugins: pages made by running code, equations, links.

The gallery's pages are made by running its scripts, each in a process and a folder of its own.
The notebooks become pages of their cells. Equations become MathML, which browsers draw without a
script. A page that names another as ``docs/NAME.md`` links it, and links that lead out of docs
lead to a copy of that page on the site, or of that file of experiments.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

import gallery_pages
import notebook_pages
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
TAKEN_IN = {
    "../README.md": "index.md",
    "../SECURITY.md": "security.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../experiments/LOG.md": "experiments.md",
}
"""Pages from elsewhere in the repository, as docs link them, and their names on the site."""
WEIGHTS = {
    "reference/glossary": 4.0, "how-to/your-model": 4.0, "explanation/what-a": 3.0,
    "gallery/": 0.2, "reference/": 0.01, "changelog": 0.01, "experiments": 0.01,
}  # fmt: skip
"""How pages count in the search: terms first. A heading's words count a thousandfold."""
EQUATIONS = {"explanation/how-it-works.md", "reference/glossary.md"}
NAMED = re.compile(r"(?<![\[`\w])`docs/([\w/-]+\.md)`(?!\])")
DATA = re.compile(r"\]\((?:\.\./)*(experiments/\w+/[\w-]+\.csv)\)")
BLOCK = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<![\\$`\w])\$([^$\n`]+)\$(?![\w$])")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Give pages that the navigation does not name a place at its end."""
    named = str(config["nav"])
    found = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    more = [page for page in found if f"'{page}'" not in named]
    more += [
        f"notebooks/{path.stem}.md"
        for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
        if f"'notebooks/{path.stem}.md'" not in named
    ]
    if more:
        config["nav"].append({"More": more})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file of docs holds."""
    made: dict[str, str | bytes] = {
        name: (ROOT / link.removeprefix("../")).read_text(encoding="utf-8")
        for link, name in TAKEN_IN.items()
    }
    made |= gallery_pages.pages(ROOT / "examples" / "gallery")
    made |= notebook_pages.pages(ROOT / "examples" / "notebooks")
    pages = ((ROOT / "docs").rglob("*.md"), [ROOT / "README.md"])
    linked_to = (DATA.findall(page.read_text(encoding="utf-8")) for part in pages for page in part)
    made |= {name: (ROOT / name).read_bytes() for found in linked_to for name in found}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def linked(text: str, page: str) -> str:
    """The page with links to pages that it only names, and to those taken in."""

    def to(name: str) -> str:
        return relpath(name, dirname(page) or ".")

    def link(named: re.Match[str]) -> str:
        """A change log may name a page that is gone: its name stays a name."""
        there = (ROOT / "docs" / named[1]).exists()
        return f"[{named[0]}]({to(named[1])})" if there else named[0]

    text = DATA.sub(lambda found: f"]({to(found[1])})", NAMED.sub(link, text))
    for path, name in TAKEN_IN.items():
        up = "../" * page.count("/")
        text = text.replace(f"]({up}{path}", f"]({to(name)}")
    if page in TAKEN_IN.values():  # their own links start at the repository's root
        for path, name in TAKEN_IN.items():
            text = text.replace(f"]({path.removeprefix('../')}", f"]({name}")
        text = re.sub(r"\]\(examples/(gallery/\w+)\.py\)", r"](\1.md)", text)
        text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    return text


def _block(equation: str) -> str:
    """An equation on lines of its own; where it scrolls, the keyboard must reach it."""
    found: str = convert(equation, display="block")
    return found.replace("<math ", '<math tabindex="0" ', 1)


def _inline(equation: str) -> str:
    """An equation in a line; in a span, since ``<math`` at its beginning would end the text."""
    return f"<span>{convert(equation)}</span>"


def drawn(text: str) -> str:
    """The page with its equations as MathML: ``$$`` lines around a block, ``$…$`` in a line."""
    text = BLOCK.sub(lambda found: f"\n{_block(found[1])}\n", text)
    parts = CODE.split(text)
    parts[::2] = [INLINE.sub(lambda found: _inline(found[1]), part) for part in parts[::2]]
    return "".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links first, then equations; and the page's weight in the search."""
    source = page.file.src_uri
    weight = next((WEIGHTS[start] for start in WEIGHTS if source.startswith(start)), 1.0)
    page.meta["search"] = {"boost": weight}
    text = linked(markdown, source)
    return drawn(text) if source in EQUATIONS else text


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name the theme's search dialog, for screen readers."""
    bare = 'data-md-component="search" role="dialog"'
    return output.replace(bare, f'{bare} aria-label="Search"')
