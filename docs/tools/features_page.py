"""Write the table of docs/reference/features.md and the golden values of the dictionary's texts.

    python docs/tools/features_page.py

A changed value changes the dictionary's digest: look at the difference before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path

from szpo.features.dictionary import ENTRIES, GROUPS, Entry, ratios

ROOT = Path(__file__).parents[2]
PAGE, GOLDEN = ROOT / "docs/reference/features.md", ROOT / "szpo/features/golden.json"
LEGEND = """\
By group: what less and more of each is called. *Hyphenated words* stands for fewer and more of
them; where a name says it all, it stands alone. `szpo taste --list` has the units.
"""
LANGUAGES = {"any": "All languages", "spaced": "Languages with spaces", "en": "English"}


def table() -> str:
    """The entries by language and group, as the page shows them."""
    parts = [LEGEND]
    for language, title in LANGUAGES.items():
        rows = {
            group: [shown(e) for e in ENTRIES if (e.group, e.languages) == (group, language)]
            for group in GROUPS
        }
        lines = [f"- *{group}*: {'; '.join(each)}\n" for group, each in rows.items() if each]
        parts.append(f"### {title}\n\n{''.join(lines)}")
    return "\n".join(parts)


def shown(entry: Entry) -> str:
    """An entry's name, and its ends where they say more."""
    said = ends(entry)
    bare = said.removeprefix("says ").strip('"').casefold().replace(" ", "-")
    is_plain = bare in (entry.name, f"{entry.name}s")
    return f"`{entry.name}`" if is_plain else f"`{entry.name}`: {said}"


def ends(entry: Entry) -> str:
    """What less and more of an entry are called; once where only "fewer" or "less" differs."""
    less, more = entry.fewer.partition(" "), entry.more.partition(" ")
    usual = less[0] in ("fewer", "less") and more[0] == "more" and less[2] == more[2] != ""
    for end in ("", " often"):
        stem = entry.fewer.removesuffix(f" less{end}")
        if (f"{stem} less{end}", f"{stem} more{end}") == (entry.fewer, entry.more):
            return stem
    return less[2] if usual else f"{entry.fewer}, {entry.more}"


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
