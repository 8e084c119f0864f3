"""The table of the tiny model's comparison, for page_tables.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORED = Path(__file__).parents[2] / "experiments" / "compare-tiny" / "compare-tiny.json"
HEADING = (
    "method | ask | gain | against SZPO, bayes, batch | votes to +.15 | tokens "
    "| processor s | added MiB | KL | wins | labels | guards"
)
SHORT = {"reward model + PPO, long and without a KL penalty": "PPO, long, no penalty"}


def read_tables() -> dict[str, list[list[str]]]:
    """The rows of the table by its heading, batches first, each by its gain."""
    found = json.loads(STORED.read_text(encoding="utf-8"))
    apart = {(each["method"], each["ask"]): each for each in found["differences"]}
    best_first = sorted(found["rows"], key=lambda row: (row["ask"], -row["mean"]))
    return {HEADING: [cells(row, apart.get((row["method"], row["ask"]))) for row in best_first]}


def cells(row: Mapping[str, Any], apart: Mapping[str, Any] | None) -> list[str]:
    """One method under one way of asking."""
    half, stopped, ended = (row["high"] - row["low"]) / 2, len(row["stopped"]), row["n"]
    gain = f"{row['mean']:.3f} ± {half:.3f}"
    reached = [votes for votes in row["votes_to_target"] if votes is not None]
    median = row["median_votes_to_target"]
    few = f"{len(reached)} of {ended + stopped}" if reached else "none"
    labels = row.get("agreement")
    return [
        SHORT.get(row["title"], row["title"]),
        row["ask"],
        f"{gain} ({stopped} of {ended + stopped} stopped)" if stopped else gain,
        "" if apart is None else "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**apart),
        few if median is None else f"{median:,.0f} ({len(reached)})",
        f"{round(row['tokens'], -3):,.0f}",
        f"{row['cpu_seconds']:.0f}",
        f"{row['added_bytes'] / 2**20:.0f}",
        f"{row['kl']:.1f}",
        f"{row['win_rate']:.0%}",
        "" if labels is None else f"{labels:.0%}",
        str(row["guards_held"]) if not stopped else f"{row['guards_held']} of {ended}",
    ]
