"""Write the measured tables of the pages from the CSV files of experiments/tables.

    python docs/tools/page_tables.py [--check]

A table is on its page between ``<!-- table NAME -->`` and ``<!-- end -->`` and is written with its
heading from ``NAME.csv``; the text around it is written by hand. The first lines of a file say
which command, commit and machine made it, and when. ``--check`` writes nothing and ends with 1 if
a page does not have the tables of the files.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1]
TABLES = DOCS.parent / "experiments" / "tables"
MARKED = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end -->", re.DOTALL)
HEAD = ("# command: ", "# commit: ", "# machine: ", "# date: ")


def read(name: str) -> list[list[str]]:
    """The heading and the rows of a file; ends the program if its first lines do not say all."""
    lines = (TABLES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    for line, start in zip(lines, HEAD, strict=False):
        if not line.startswith(start):
            sys.exit(f"experiments/tables/{name}.csv: begin it with the lines {' '.join(HEAD)}")
    return list(csv.reader(lines[len(HEAD) :]))


def table(mark: re.Match[str]) -> str:
    """A table with its marks, in place of what is between them."""
    heading, *rows = read(mark[1])
    lines = [f" {' | '.join(heading)} ", "|".join("---" for _ in heading)]
    lines += [f" {' | '.join(row)} " for row in rows]
    shown = "".join(f"|{line}|\n" for line in lines)
    return f"<!-- table {mark[1]} -->\n\n{shown}\n<!-- end -->"


def main(arguments: list[str]) -> int:
    for file in TABLES.glob("*.csv"):
        read(file.stem)
    old = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = MARKED.sub(table, text)
        if new != text:
            old.append(f"docs/{page.name}")
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    if old and "--check" in arguments:
        print(f"tables are out of date: {', '.join(old)}; run python docs/tools/page_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
