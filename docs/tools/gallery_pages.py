"""The gallery: every script of examples/gallery is run, and becomes a page.

The docstring's first line is the page's title, the rest its text; then come the code, what it
printed, and every picture that it wrote into its folder.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SECONDS = 600
"""Longest time that a script may take: a busy machine that trains the tiny model first."""


@dataclass(frozen=True)
class Shown:
    """A script, and what a run of it gave."""

    name: str
    title: str
    text: str
    code: str
    printed: str
    pictures: dict[str, bytes]


def run(script: Path) -> Shown:
    """Run one script in a folder of its own.

    Raises:
        RuntimeError: it failed, printed a warning, or drew nothing.
    """
    source = script.read_text(encoding="utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    code = source.partition('"""')[2].partition('"""')[2].strip()
    root = script.parents[2]
    path = os.pathsep.join(map(str, (root, root / "ui", root / "simulators")))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        pictures = {each.name: each.read_bytes() for each in sorted(Path(folder).glob("*.svg"))}
    if done.returncode or done.stderr or not pictures:
        raise RuntimeError(f"{script.name}: {done.stderr or 'it drew nothing'}")
    return Shown(script.stem, title.rstrip("."), text.strip(), code, done.stdout, pictures)


def page(shown: Shown) -> str:
    """A script's page in Markdown."""
    parts = [f"# {shown.title}", shown.text, f"```python\n{shown.code}\n```"]
    if shown.printed:
        parts.append(f"It prints:\n\n```text\n{shown.printed.rstrip()}\n```")
    parts += [f"![{shown.title}]({name})" for name in shown.pictures]
    parts.append(f"Run it: `python examples/gallery/{shown.name}.py`")
    return "\n\n".join(parts) + "\n"


def index(all_shown: list[Shown]) -> str:
    """The gallery's first page: a picture of each script, with its title."""
    cards = "\n".join(
        f"<li markdown>[![{each.title}]({next(iter(each.pictures))}){{ loading=lazy }}<br>"
        f"{each.title}]({each.name}.md)</li>"
        for each in all_shown
    )
    return (
        "# Gallery\n\nEach script runs in seconds and needs no accelerator. The pictures and "
        "outputs were made when this site was built.\n\n"
        f'<ul class="cards" markdown>\n{cards}\n</ul>\n'
    )


def pages(folder: Path) -> dict[str, str | bytes]:
    """Every file of the gallery by its name on the site."""
    all_shown = [run(script) for script in sorted(folder.glob("[0-9]*.py"))]
    made: dict[str, str | bytes] = {"gallery/index.md": index(all_shown)}
    for each in all_shown:
        made[f"gallery/{each.name}.md"] = page(each)
        made |= {f"gallery/{name}": picture for name, picture in each.pictures.items()}
    return made
