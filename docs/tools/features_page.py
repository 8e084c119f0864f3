"""Write the table of docs/features.md and the golden values of the dictionary's texts.

    python docs/tools/features_page.py

A changed value changes the dictionary's digest: look at the difference before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path

from szpo.features.dictionary import ENTRIES, GROUPS, ratios

ROOT = Path(__file__).parents[2]
PAGE, GOLDEN = ROOT / "docs/features.md", ROOT / "szpo/features/golden.json"
HEAD = "| feature | less | more | unit | languages |\n|---|---|---|---|---|\n"
LANGUAGES = {"any": "all", "spaced": "with spaces", "en": "English"}


def table() -> str:
    """The entries by group, as the page shows them."""
    parts = []
    for group in GROUPS:
        rows = "".join(
            f"| `{e.name}` | {e.fewer} | {e.more} | {e.unit} | {LANGUAGES[e.languages]} |\n"
            for e in ENTRIES
            if e.group == group
        )
        parts.append(f"### {group[0].upper()}{group[1:]}\n\n{HEAD}{rows}")
    return "\n".join(parts)


def golden() -> str:
    """The texts with all their ratios, numerator and denominator in turn; one text a line."""
    texts = [(prompt, answer) for prompt, answer, *_ in json.loads(GOLDEN.read_text("utf-8"))]
    lines = [
        json.dumps(
            [prompt, answer, [n for ratio in ratios(prompt, answer) for n in ratio]],
            separators=(",", ":"),
        )
        for prompt, answer in texts
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main() -> None:
    """Write both."""
    head, mark, _ = PAGE.read_text("utf-8").partition("## The entries\n\n")
    PAGE.write_text(head + mark + table(), "utf-8")
    GOLDEN.write_text(golden(), "utf-8")


if __name__ == "__main__":
    main()
