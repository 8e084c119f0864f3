"""The tables of the frontier's finished cells, for page_tables.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szpo_simulators.bench.frontier import plan, summary
from szpo_simulators.compare.cell_store import CellStore

ROOT = Path(__file__).parents[2]
MEASURED = (
    "votes | seeds | gain | KL (largest) | lowest gain | guards | topic | unseen | from five"
)


def read_tables() -> dict[str, list[list[str]]]:
    """The rows of each table of the page, by its heading row."""
    frozen = plan.read(ROOT / "experiments" / "frozen" / "frontier.toml")
    rows = summary.read_rows(frozen, CellStore(ROOT / "experiments" / "frontier"))
    lines = summary.summarise(frozen, rows)
    best = [line for line in lines if "kl_most" not in line]
    cells = [line for line in lines if "kl_most" in line]
    asked = summary.judge_targets(frozen, rows)
    compared = summary.judge_comparisons(frozen, rows)
    return {
        "group | what | asked | found | verdict": [
            [each.group, each.what, each.asked, each.found, each.word] for each in asked
        ],
        "ours | theirs | where | seeds | gains | ours less theirs | ratio | asked | verdict": [
            row_of_comparison(each) for each in compared
        ],
        f"group | {MEASURED}": [row_of_cell(line) for line in cells if line["part"] != "T"],
        f"trial | {MEASURED}": [row_of_cell(line) for line in cells if line["part"] == "T"],
        "picked | votes | seeds | gain | KL at most": [
            [*first_cells(line), f"{line['kl']:.2f}"] for line in best
        ],
    }


def first_cells(line: Mapping[str, Any]) -> list[str]:
    """Group, votes, seeds and gain."""
    seeds = f"{line['seeds']} of {line['of']}"
    return [line["group"], str(line["checkpoint"]), seeds, with_interval(line)]


def row_of_cell(line: Mapping[str, Any]) -> list[str]:
    guards = f"{line['first_three']}, {line['all_four']}"
    topic = "" if line["topic"] is None else f"{line['topic']:.2f}"
    unseen = "" if line["unseen"] is None else f"{line['unseen']:+.3f}"
    kl, lowest, few = f"{line['kl']:.2f} ({line['kl_most']:.2f})", line["lowest"], line["few"]
    return [*first_cells(line), kl, f"{lowest:+.3f}", guards, topic, unseen, f"{few:+.3f}"]


def row_of_comparison(line: Mapping[str, Any]) -> list[str]:
    gains = f"{line['mean_ours']:+.2f}, {line['mean_theirs']:+.2f}"
    asked = "ahead or level" if line["asked"] is None else f"{line['asked']:g} times"
    word = {None: "open", True: "met", False: "missed"}[line["met"]]
    apart, ratio = with_interval(line["difference"]), f"{line['ratio']['mean']:.2f}"
    names = (line["ours"], line["theirs"], line["where"], str(line["seeds"]))
    return [*names, gains, apart, ratio, asked, word]


def with_interval(found: Mapping[str, Any]) -> str:
    between = "" if found["low"] is None else f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"{found['mean']:+.3f}{between}"
