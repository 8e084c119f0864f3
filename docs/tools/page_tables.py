"""Write the measured tables of docs/frontier.md and docs/compare.md from stored results.

    python docs/tools/page_tables.py

A table is known by its heading row and takes the place of the one under that heading row. The text
around the tables is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import compare_tables
import frontier_tables

DOCS = Path(__file__).parents[1]
PAGES = {"frontier.md": frontier_tables.read_tables, "compare.md": compare_tables.read_tables}
"""What writes the tables of each page."""


def replace(page: str, tables: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """The page with each table's rows in place of those it has.

    Raises:
        ValueError: the page has no table of a heading.
    """
    for heading, rows in tables.items():
        above = f"\n| {heading} |\n"
        if above not in page:
            raise ValueError(f"no table begins with: | {heading} |")
        start = page.index("\n", page.index(above) + len(above)) + 1  # below the rule of dashes
        end = page.index("\n\n", start)
        page = page[:start] + "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + page[end:]
    return page


def main() -> None:
    for name, read_tables in PAGES.items():
        page = DOCS / name
        page.write_text(replace(page.read_text(encoding="utf-8"), read_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
