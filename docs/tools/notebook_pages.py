"""The notebooks as pages of the site: their cells, in order, without outputs."""

from __future__ import annotations

import json
from pathlib import Path


def page(notebook: Path) -> str:
    """A notebook's cells in Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    parts.append(f"The notebook: `examples/notebooks/{notebook.name}`")
    return "\n\n".join(parts) + "\n"


def pages(folder: Path) -> dict[str, str | bytes]:
    """Every notebook's page by its name on the site."""
    return {f"notebooks/{each.stem}.md": page(each) for each in sorted(folder.glob("*.ipynb"))}
