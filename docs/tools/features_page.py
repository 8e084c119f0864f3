"""Write the table of docs/reference/features.md and the golden values of the dictionary's texts.

    python docs/tools/features_page.py

A changed value changes the dictionary's digest: look at the difference before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path

from szpo.features.dictionary import ENTRIES, GROUPS, ratios

ROOT = Path(__file__).parents[2]
PAGE, GOLDEN = ROOT / "docs/reference/features.md", ROOT / "szpo/features/golden.json"
LEGEND = "By group; `szpo taste --list` says what more of each is called, and its unit.\n"
LANGUAGES = {"any": "All languages", "spaced": "Languages with spaces", "en": "English"}


def table() -> str:
    """The entries by language and group, as the page shows them."""
    parts = [LEGEND]
    for language, title in LANGUAGES.items():
        rows = {
            group: [f"`{e.name}`" for e in ENTRIES if (e.group, e.languages) == (group, language)]
            for group in GROUPS
        }
        lines = [f"- *{group}*: {', '.join(each)}\n" for group, each in rows.items() if each]
        parts.append(f"### {title}\n\n{''.join(lines)}")
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
