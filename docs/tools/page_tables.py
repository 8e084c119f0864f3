"""Write the measured tables of the pages from stored results.

    python docs/tools/page_tables.py [--check]

A table is on its page between ``<!-- table NAME -->`` and ``<!-- end -->`` and is written with its
heading; the text around it is written by hand. ``--check`` writes nothing and ends with 1
if a page does not have the tables that the stored results give.
"""

from __future__ import annotations

import csv
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from szpo.policies import subspace_cache, teachable
from szpo_simulators.compare import frontier_plan as plan
from szpo_simulators.compare import frontier_summary as summary
from szpo_simulators.compare import summary as compared
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.compare.presets import METHODS as METHODS_BY_NAME
from szpo_simulators.compare.presets import find_preset
from szpo_simulators.compare.show import GAINED, SPENT
from szpo_simulators.study import format_cells

ROOT = Path(__file__).parents[2]
Table = tuple[tuple[str, ...], list[list[str]]]
"""The heading's cells, and rows of cells."""
METHODS = ("regression", "iterative-dpo", "dpo", "rm+ppo")
GROUPS = {
    *(f"sentiment-{method}" for method in METHODS),
    "null-regression",
}
"""Groups that the appendix shows."""
ON_SMOLLM2 = {
    "known, as published": ("sentiment-known", "short-known"),
    "sign, as published": ("sentiment-sign", "short-sign"),
    "SZPO, regression": ("sentiment-regression",),
    "SZPO, regression on named features": ("features-regression",),
    "iterative DPO": ("sentiment-iterative-dpo",),
    "DPO": ("sentiment-dpo",),
    "reward model + PPO": ("sentiment-rm+ppo",),
}
"""Groups of both plans by what they are called beside the published rules."""
LEFT_OUT = (
    "SZPO, bayes", "reward model + PPO, long and without a KL penalty",
    "reward model + GRPO", "reward model + RLOO", "SimPO",
)  # fmt: skip
"""A rule that szpo no longer has, a variant and methods that gained nothing; the page says so."""
COMPARED = ("gain", "wins", "KL", "guards")
COST = ("cpu s", "added")


def read_frontier() -> dict[str, Table]:
    """The frontier's groups at each number of votes."""
    frozen = plan.read(ROOT / "experiments" / "frozen" / "frontier.toml")
    rows = summary.read_rows(frozen, CellStore(ROOT / "experiments" / "frontier"))
    lines = [
        line
        for line in summary.summarise(frozen, rows)
        if "kl_most" in line and line["part"] != "T" and line["group"] in GROUPS
    ]
    heading = ("group", "votes", "seeds", "gain", "KL (largest)", "guards")
    return {"groups": (heading, [row_of_group(line) for line in lines])}


def row_of_group(line: Mapping[str, Any]) -> list[str]:
    around = "" if line["low"] is None else f" [{line['low']:+.2f}, {line['high']:+.2f}]"
    return [
        line["group"],
        str(line["checkpoint"]),
        f"{line['seeds']} of {line['of']}",
        f"{line['mean']:+.3f}{around}",
        f"{line['kl']:.2f} ({line['kl_most']:.2f})",
        f"{line['first_three']}, {line['all_four']}",
    ]


def read_tiny() -> dict[str, Table]:
    """The comparison on the tiny model: batches first, each by its gain."""
    stored = ROOT / "experiments" / "compare-tiny" / "compare-tiny.json"
    found = json.loads(stored.read_text(encoding="utf-8"))
    columns = {
        "method": "title",
        "ask": "ask",
        **{name: GAINED[name] for name in COMPARED},
        **{name: SPENT[name] for name in COST},
    }
    rows = [row for row in found["rows"] if row["title"] not in LEFT_OUT]
    best_first = sorted(rows, key=lambda row: (row["ask"], -row["mean"]))
    return {"tiny": (tuple(columns), [format_cells(row, columns) for row in best_first])}


def read_smollm2() -> dict[str, Table]:
    """The comparison on SmolLM2, seeds 0 to 4."""
    stored: dict[tuple[str, str], list[Any]] = {}
    for path in sorted((ROOT / "experiments" / "compare-smollm2" / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        asked = cell["asked"]
        if asked["method"] != "base" and asked["seed"] < 5:
            found = {"stopped": None, **cell["found"], "asked": asked}
            stored.setdefault((asked["method"], asked["ask"]), []).append(found)
    titles = {name: method.title for name, method in METHODS_BY_NAME.items()} | {"szpo": "SZPO"}
    rows = compared.summarise(stored, titles)
    order = list(titles)
    rows.sort(key=lambda row: (row["ask"], order.index(row["method"])))
    columns = {
        "method": "title",
        "ask": "ask",
        "gain": GAINED["gain"],
        **{name: GAINED[name] for name in (f"votes to +{compared.TARGET:g}", "KL", "guards")},
        "peak MiB": SPENT["peak MiB"],
    }
    return {"smollm2": (tuple(columns), [format_cells(row, columns) for row in rows])}


def read_compared() -> dict[str, Table]:
    """Both tables of the comparison."""
    return {**read_tiny(), **read_smollm2()}


def read_published() -> dict[str, Table]:
    """The published rules and each departure from them: on the tiny model, and on SmolLM2."""
    preset = find_preset("published")
    found: dict[str, list[Any]] = {}
    for path in sorted((ROOT / "experiments" / "compare-published" / "cells").glob("*-batch-*")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(cell["asked"]["method"], []).append(cell["found"]["course"])
    tiny = [
        row_of_rule(METHODS_BY_NAME[method].title, [course[at] for course in found[method]])
        for method in preset.methods
        for at in (1, 2)
    ]
    store, rows, groups = CellStore(ROOT / "experiments" / "frontier"), {}, {}
    for name in ("frontier", "published"):
        frozen = plan.read(ROOT / "experiments" / "frozen" / f"{name}.toml")
        rows |= summary.read_rows(frozen, store)
        groups |= {group.label: group for group in frozen.groups}
    real = []
    for votes in (240, 2400):
        for title, labels in ON_SMOLLM2.items():
            each = [
                row
                for label in labels
                if votes in summary.checkpoints_of(groups[label])
                for row in summary.checkpoint(rows[label], groups[label], votes)
            ]
            if each:
                paired = f"{mean(row['gain_few'] for row in each):+.3f}"
                real.append([*row_of_rule(title, each, f"{votes:,}"), paired])
    heading = ("method", "votes", "answers read", "seeds", "gain", "KL", "guards")
    return {"published": (heading, tiny), "published-smollm2": ((*heading, "paired"), real)}


def row_of_rule(title: str, each: Sequence[Mapping[str, Any]], votes: str = "") -> list[str]:
    """A row from the measurements of several seeds; guards are fluency, variety and length."""
    gains = sorted(row["gain"] for row in each)
    spread = f" ({gains[0]:+.3f} to {gains[-1]:+.3f})" if len(each) > 1 else ""
    held = sum(summary.guards_held(row, 3) for row in each)
    return [
        title,
        votes or f"{each[0]['votes']:,.0f}",
        f"{mean(row['answers_read'] for row in each):,.0f}",
        str(len(each)),
        f"{mean(gains):+.3f}{spread}",
        f"{mean(row['kl'] for row in each):.1f}",
        f"{held} of {len(each)}",
    ]


def read_surrogate() -> dict[str, Table]:
    """How often what runs over recorded answers say is right."""

    def load(name: str) -> list[dict[str, str]]:
        with (ROOT / "experiments" / "surrogate" / f"{name}.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def around(row: Mapping[str, str]) -> str:
        return "[{:.0%}, {:.0%}]".format(float(row["low"]), float(row["high"]))

    said = [
        [
            row["votes"],
            f"{float(row['said']):.0%}",
            row["claims"],
            f"{float(row['right']):.0%} {around(row)}",
        ]
        for row in load("calibration")
    ]
    shown: dict[str, list[str]] = {}
    ways: dict[str, None] = {}
    for row in load("tastes"):
        shown.setdefault(row["taste"], [row["taste"]]).append(row["shown"])
        ways[row["asked"]] = None
    classes: dict[str, list[dict[str, str]]] = {}
    for row in load("classes"):
        classes.setdefault(row["class"], []).append(row)
    gains = [
        [kind]
        + [f"{mean(float(row[name]) for row in each):+.2f}" for name in GAINED_ON]
        + [f"{sum(int(row['said']) for row in each)} of {sum(int(row['seeds']) for row in each)}"]
        for kind, each in classes.items()
    ]
    return {
        "classes": (("class of tastes", *GAINED_ON.values(), "name something"), gains),
        "said": (("votes", "said, on average", "claims", "right"), said),
        "shown": (("taste", *ways), [*shown.values()]),
    }


GAINED_ON = {
    "features 40": "40 votes",
    "scores 40": "on scores",
    "features 120": "120 votes",
    "scores 120": "on scores",
}
CALLED = {
    "length-12": "twelve words",
    "readability": "Flesch, hundredths",
    "word-length": "letters a word",
}
"""Tastes of the frozen plan of named features by what their gain counts."""
WAYS = {
    "two": "two prompts",
    "lag": "lag 1",
    "shipped": "the set-up that ships",
    "64": "64 tokens",
}
"""What differs from the first part of the frozen plan: how is asked, or the set-up."""


BESIDE = {"classes": 120, "dropped": 120, "reading": 64}
"""Parts that ran on score components too, and the votes after which the two are compared."""
LONG = (*BESIDE, "scores", "null", "lapse10", "hostile", "mtbench", "half")
"""Parts of 120 votes: a table of their own, or the text, names them."""
TASTES = {
    "named": "named",
    "near": "near",
    "parts": "parts",
    "absent": "absent",
    "dropped": "own entries dropped",
    "reading": "four prompts, 64 votes",
}
"""Rows of the table beside score components."""


def read_features() -> dict[str, Table]:
    """The frozen plan of named features: a taste in a row, other ways of asking apart."""
    experiments = ROOT / "experiments"
    planned = tomllib.loads((experiments / "frozen" / "features.toml").read_text("utf-8"))
    asked = {
        group["name"]: f"{group['targets'][0]['gain']:+.2f}"
        for group in planned["group"]
        if "gain" in group.get("targets", [{}])[0]
    }
    cells: dict[str, dict[int, Any]] = {}
    for path in sorted((experiments / "features" / "cells").glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        label = path.name.split("-regression-")[0].removeprefix("more-")
        label = label.replace("64-tokens", "64-sentiment")
        cells.setdefault(label, {})[cell["asked"]["seed"]] = cell["found"]["rows"]
    plain, changed = [], []
    beside: dict[str, list[str]] = {}
    for label, rows in cells.items():
        way, _, taste = label.partition("-")
        if way in BESIDE:
            kind, _, rest = taste.partition("-") if way == "classes" else (way, "", taste)
            other = cells[f"scores-{label}"]
            both, votes = sorted(rows.keys() & other.keys()), BESIDE[way]
            ours, theirs = (gain_at(found, both, votes) for found in (rows, other))
            beside.setdefault(kind, []).append(
                f"{rest.replace('-', ' ')} {ours:+.2f} ({theirs:+.2f})"
            )
        if way in LONG:
            continue
        found = {seed: each[-1] for seed, each in rows.items()}
        hold = sum(all(guard["ok"] for guard in last["guards"]) for last in found.values())
        gains = [
            f"{mean(last['gain'] for last in found.values()):+.2f}",
            ", ".join(f"{found[seed]['gain']:+.2f}" for seed in sorted(found)),
            f"{mean(last['kl'] for last in found.values()):.1f}",
            f"{hold} of {len(found)}",
        ]
        if way in WAYS:
            here = [cells[taste][seed][-1]["gain"] for seed in found]
            changed.append([WAYS[way], taste.replace("-", " "), f"{mean(here):+.2f}", *gains[:-1]])
        else:
            votes = next(iter(found.values()))["votes"]
            called = CALLED.get(label, label.replace("-", " ")) + (
                f", {votes:.0f} votes" if votes != 40 else ""
            )
            plain.append([called, asked.get(label, ""), *gains])
    head = ("mean gain", "each seed", "mean KL", "all four guards hold")
    return {
        "forty": (("taste", "asked", *head), plain),
        "ways": (("changed", "taste", "unchanged", *head[:-1]), changed),
        "beside": (
            ("tastes", "gain on named features (on score components)"),
            [[TASTES[kind], "; ".join(beside[kind])] for kind in TASTES],
        ),
    }


def gain_at(found: Mapping[int, Any], seeds: Sequence[int], votes: int) -> float:
    """Mean over these seeds of the gain after so many votes; by seed the rows of its cell."""
    return mean(row["gain"] for seed in seeds for row in found[seed] if row["votes"] == votes)


def read_preferences() -> dict[str, Table]:
    """Fits of few votes, scored on recorded votes of people."""
    file = ROOT / "experiments" / "preferences" / "pandalm.csv"
    with file.open(encoding="utf-8") as opened:
        fitted = list(csv.DictReader(opened))
    votes = list(dict.fromkeys(row["votes"] for row in fitted))
    nats = {(row["fit"], row["votes"]): float(row["mean"]) for row in fitted}
    rows = [
        [fit, *(f"{nats[fit, each]:.3f}" for each in votes)]
        for fit in dict.fromkeys(row["fit"] for row in fitted)
    ]
    return {"people": (("fit", *(f"{each} votes" for each in votes)), rows)}


def read_ruler() -> dict[str, Table]:
    """The answers that ship with the usual coordinates, so many nats from the base."""
    index = json.loads((subspace_cache.SHIPPED / "index.json").read_text(encoding="utf-8"))
    name = next(name for name, facts in index.items() if facts["preset"] == "default")
    (_, prompt), *rows = teachable.ruler(subspace_cache.read(subspace_cache.SHIPPED / name).report)
    return {"ruler": (("along one direction", prompt), [list(row) for row in rows])}


READERS = (
    read_published, read_features, read_preferences, read_surrogate, read_frontier, read_compared,
    read_ruler,
)  # fmt: skip
PAGES = {
    "hundred-votes.md": ("ruler",),
    "results.md": ("published-smollm2", "forty", "ways", "classes", "beside"),
    "appendix.md": ("published", "shown", "said", "people", "groups", "tiny", "smollm2"),
}
"""The tables that each page shows."""


def replace(page: str, tables: Mapping[str, Table]) -> str:
    """The page with each table in place of what is between its marks.

    Raises:
        ValueError: the page has no mark of a table.
    """
    for name, (heading, rows) in tables.items():
        begin, end = f"<!-- table {name} -->\n", "\n<!-- end -->"
        above, found, rest = page.partition(begin)
        _, closed, below = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"a page lacks the lines {begin.strip()} and {end.strip()}; add them")
        lines = [" | ".join(heading), "|".join("---" for _ in heading), *map(" | ".join, rows)]
        lines[0], lines[2:] = f" {lines[0]} ", [f" {line} " for line in lines[2:]]
        page = above + begin + "\n" + "".join(f"|{line}|\n" for line in lines) + end + below
    return page


def main(arguments: list[str]) -> int:
    old = []
    tables = {name: table for read in READERS for name, table in read().items()}
    for name, shown in PAGES.items():
        page = ROOT / "docs" / name
        text = page.read_text(encoding="utf-8")
        new = replace(text, {each: tables[each] for each in shown})
        if new != text:
            old.append(name)
        if new != text and "--check" not in arguments:
            page.write_text(new, encoding="utf-8")
    if old and "--check" in arguments:
        names = ", ".join(f"docs/{name}" for name in old)
        print(
            f"tables are out of date: {names}; write them with: python docs/tools/page_tables.py"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
