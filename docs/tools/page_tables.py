"""Write the measured tables of docs/frontier.md and docs/compare.md from stored results.

    python docs/tools/page_tables.py

A table is known by its heading row and takes the place of the one under that heading row. The text
around the tables is written by hand. Where a command prints a column, the page has it in the same
words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szpo_simulators.bench.frontier import plan, summary
from szpo_simulators.bench.frontier.show import PAIRED
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.compare.show import GAINED, SPENT
from szpo_simulators.study import format_cells

ROOT = Path(__file__).parents[2]
Tables = Mapping[str, list[list[str]]]
"""Rows of cells by the heading row of their table."""
MEASURED = (
    "votes | seeds | gain | KL (largest) | lowest gain | guards | topic | unseen | from five"
)
COMPARED = ("gain", "votes to +0.15", "wins", "KL", "guards", "labels")
COST = ("tokens, k", "cpu s", "added")


def read_frontier() -> Tables:
    """The frontier: what was asked, comparisons, groups, trials, the best of n."""
    frozen = plan.read(ROOT / "experiments" / "frozen" / "frontier.toml")
    rows = summary.read_rows(frozen, CellStore(ROOT / "experiments" / "frontier"))
    lines = summary.summarise(frozen, rows)
    best = [line for line in lines if "kl_most" not in line]
    cells = [line for line in lines if "kl_most" in line]
    return {
        "group | what | asked | found | verdict": [
            [each.group, each.what, each.asked, each.found, each.word]
            for each in summary.judge_targets(frozen, rows)
        ],
        "ours | theirs | where | seeds | gains | ours less theirs | ratio | asked | verdict": [
            format_cells(line, PAIRED) for line in summary.judge_comparisons(frozen, rows)
        ],
        f"group | {MEASURED}": [row_of_cell(line) for line in cells if line["part"] != "T"],
        f"trial | {MEASURED}": [row_of_cell(line) for line in cells if line["part"] == "T"],
        "picked | votes | seeds | gain | KL at most": [
            [*first_cells(line), f"{line['kl']:.2f}"] for line in best
        ],
    }


def first_cells(line: Mapping[str, Any]) -> list[str]:
    """Group, votes, seeds and gain."""
    around = "" if line["low"] is None else f" [{line['low']:+.2f}, {line['high']:+.2f}]"
    seeds = f"{line['seeds']} of {line['of']}"
    return [line["group"], str(line["checkpoint"]), seeds, f"{line['mean']:+.3f}{around}"]


def row_of_cell(line: Mapping[str, Any]) -> list[str]:
    guards = f"{line['first_three']}, {line['all_four']}"
    topic = "" if line["topic"] is None else f"{line['topic']:.2f}"
    unseen = "" if line["unseen"] is None else f"{line['unseen']:+.3f}"
    kl, lowest, few = f"{line['kl']:.2f} ({line['kl_most']:.2f})", line["lowest"], line["few"]
    return [*first_cells(line), kl, f"{lowest:+.3f}", guards, topic, unseen, f"{few:+.3f}"]


def read_tiny() -> Tables:
    """The comparison on the tiny model: batches first, each by its gain."""
    stored = ROOT / "experiments" / "compare-tiny" / "compare-tiny.json"
    found = json.loads(stored.read_text(encoding="utf-8"))
    apart = {(each["method"], each["ask"]): each for each in found["differences"]}

    def against(row: Mapping[str, Any]) -> str:
        line = apart.get((row["method"], row["ask"]))
        return "" if line is None else "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**line)

    columns = {
        "method": "title",
        "ask": "ask",
        **{name: GAINED[name] for name in COMPARED},
        "against SZPO, bayes, batch": against,
        **{name: SPENT[name] for name in COST},
    }
    best_first = sorted(found["rows"], key=lambda row: (row["ask"], -row["mean"]))
    return {" | ".join(columns): [format_cells(row, columns) for row in best_first]}


PAGES = {"frontier.md": read_frontier, "compare.md": read_tiny}
"""What reads the tables of each page."""


def replace(page: str, tables: Tables) -> str:
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
        page = ROOT / "docs" / name
        page.write_text(replace(page.read_text(encoding="utf-8"), read_tables()), encoding="utf-8")


if __name__ == "__main__":
    main()
