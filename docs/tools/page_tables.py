"""Write the measured tables of the pages from the CSV files of experiments/cells and tables.

    python docs/tools/page_tables.py [--check]

A table is on its page between ``<!-- table NAME -->`` and ``<!-- end -->`` and is written with its
heading; the text around it is written by hand. Those of `MADE` are worked out from one row a cell
(a method, a seed, a number of votes), the others stand in ``tables/NAME.csv`` as they are. The
first lines of a file say which command, commit and machine made it, and when. ``--check`` writes
nothing and ends with 1 if a page does not have the tables of the files.

Gains count from eighty answers of the base to each prompt: cells hold those from the few (five,
of tiny four) that each was measured beside, ``cells/base.csv`` what lies between. Brackets are a
95 % interval (bootstrap of seeds and prompts), parentheses the range of fewer than `FEW` seeds.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np

from szpo.types import Floats
from szpo_simulators.summary import bootstrap

DOCS = Path(__file__).parents[1]
EXPERIMENTS = DOCS.parent / "experiments"
MARKED = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end -->", re.DOTALL)
HEAD = ("# command: ", "# commit: ", "# machine: ", "# date: ")
FEW = 5
FIVE = "gain by prompt, from five base answers"
METHODS = {
    "known, as published": ("sentiment-known", "short-known"),
    "sign, as published": ("sentiment-sign", "short-sign"),
    "SZPO, regression": ("sentiment-regression",),
    "SZPO, regression on named features": ("features-regression",),
    "iterative DPO": ("sentiment-iterative-dpo",),
    "DPO": ("sentiment-dpo",),
    "reward model + PPO": ("sentiment-rm+ppo",),
}
"""Groups of the other frozen plans."""
BEST = "best of n, true reward"
OF_FOUR = "0.6363"
"""Its KL bound where n is four: log 4 − ¾."""
EQUAL = {
    "szpo, default rule": ("sentiment-rows-regression", "0.25", "1.0"),
    "iterative DPO": ("trial-sentiment-0-iterative-dpo", "1.0"),
    "DPO": ("trial-sentiment-0-dpo", "1.0"),
}
"""Groups of the frozen plan of adapters, and the shares of their votes shown."""
TUNED = {
    "`regression`, named features": "z-features-{}-regression",
    "`known`, all weights": "z-all-{}-known",
    "DPO": "{}-dpo",
    "iterative DPO": "{}-iterative-dpo",
    "reward model + PPO": "{}-rm+ppo",
    "the same, ten small steps": "g-{}-rm+ppo",
    "reward model + RLOO": "{}-rloo",
}
"""Groups of the plan of rivals; {}: the taste."""
SAME = {
    "`regression`": ("z-adapters-{}-regression", "0.08333333333333333", "0.3333333333333333"),
    "the same, without features": (
        "m-adapters-{}-regression", "0.08333333333333333", "0.3333333333333333",
    ),
    "iterative DPO": ("s-a-{}-iterative-dpo", "0.25", "1.0"),
}  # fmt: skip
"""Groups of that plan that ran on another machine, and shares of them at two looks."""
MIXING = {
    "sentiment": ("sentiment-rows-regression", "sentiment-regression"),
    "no comma": ("no-comma-rows-regression", "no-comma-regression"),
    "first person": ("first-person-rows-regression", "first-person-regression"),
    "reader": ("reader-rows-regression", "reader-regression"),
    "sentiment and no comma": ("rows-both-regression", ""),
    "first person less sentiment": ("rows-without-regression", ""),
    "*last line*": ("", "sealed-last-line-regression"),
    "*sound echo*": ("", "sealed-sound-echo-regression"),
    "*deeds*": ("", "sealed-deeds-regression"),
    "*two sides*": ("", "sealed-two-sides-regression"),
    "*draws me in*": ("", "sealed-draws-me-in-regression"),
    "*when and where*": ("", "sealed-when-and-where-regression"),
}
"""Groups of the frozen plans of adapters and of improving; sealed tastes are in italics."""
NOTES_AT = {"0.3333333333333333": "640", "1.0": "1,920"}
"""Answers read at two shares of that part's cells."""
Table = tuple[Sequence[str], list[list[str]]]
"""The heading's cells, and rows of cells."""
Cells = Sequence[Mapping[str, str]]


def read(name: str, folder: str = "tables") -> list[list[str]]:
    """The heading and the rows of a file; ends the program if its first lines do not say all."""
    lines = (EXPERIMENTS / folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    for line, start in zip(lines, HEAD, strict=False):
        if not line.startswith(start):
            sys.exit(f"experiments/{folder}/{name}.csv: begin it with the lines {' '.join(HEAD)}")
    return list(csv.reader(lines[len(HEAD) :]))


@cache
def read_cells(name: str) -> Cells:
    heading, *rows = read(name, "cells")
    return [dict(zip(heading, row, strict=True)) for row in rows]


def by_prompt(text: str) -> Floats:
    return np.array(text.split(), float)


@cache
def offset(reward: str, at: str) -> Floats:
    """By prompt, few answers of the base less eighty, in the mean; ``at``: tokens or plan."""
    found = {(row["reward"], row["tokens or plan"]): row for row in read_cells("base")}[reward, at]
    return by_prompt(found["mean of few by prompt"]) - by_prompt(found["mean of eighty by prompt"])


def gains(cells: Cells) -> Floats:
    """The gains of cells (seeds, prompts), from eighty answers of the base."""
    return np.array(
        [by_prompt(cell[FIVE]) + offset(cell["reward"], cell["tokens"]) for cell in cells]
    )


def spread(values: Floats) -> tuple[float, float, float]:
    """Mean of values (seeds, prompts), and the ends of their interval, or of few seeds' range."""
    found, seeds = bootstrap(values), values.mean(1)
    if len(values) >= FEW:
        return found["mean"], found["low"], found["high"]
    return found["mean"], float(seeds.min()), float(seeds.max())


def around(values: Floats, digits: int) -> str:
    """Mean of values (seeds, prompts) with their interval, or with the range of few seeds."""
    value, low, high = (f"{each:+.{digits}f}" for each in spread(values))
    if len(values) >= FEW:
        return f"{value} [{low}, {high}]"
    return value + f" ({low}…{high})" * (len(values) > 1)


def held(cells: Cells, guards: int) -> int:
    return sum("0" not in cell["guards"][:guards] for cell in cells)


def kl(cells: Cells) -> list[float]:
    return [float(cell["kl"]) for cell in cells]


def nats_of(cells: Cells) -> str:
    """Mean KL; empty where no cell has run."""
    return f"{mean(kl(cells)):.1f}" if cells else ""


def groups_of(plan: str) -> dict[str, list[Mapping[str, str]]]:
    """The cells of a frozen plan by group, in the file's order."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for cell in read_cells("frontier"):
        if cell["plan"] == plan:
            found.setdefault(cell["group"], []).append(cell)
    return found


def checkpoints(group: str) -> list[list[Mapping[str, str]]]:
    """The cells of a group by checkpoint; matched by their order, since ties use up no votes."""
    seeds: dict[str, list[Mapping[str, str]]] = {}
    for cell in groups_of("frontier")[group]:
        seeds.setdefault(cell["seed"], []).append(cell)
    most = max(map(len, seeds.values()))
    return [[each[i] for each in seeds.values() if len(each) > i] for i in range(most)]


def pair_up(group: str) -> tuple[Cells, Cells]:
    """The cells of a group on named features and on score components, of the seeds in both."""
    found = groups_of("features")
    ours, theirs = found[group], found[f"scores-{group}"]
    both = {cell["seed"] for cell in ours} & {cell["seed"] for cell in theirs}
    one, other = ([cell for cell in of if cell["seed"] in both] for of in (ours, theirs))
    return one, other


def published_smollm2() -> Table:
    """Every method after 240 batch votes, the published rules also after 2,400."""
    rows = []
    for votes in (240, 2400):
        for title, labels in METHODS.items():
            at, goes_on = [checkpoints(label) for label in labels], len(labels) == 2
            if votes == 240:
                cells = [cell for each in at for cell in each[0 if goes_on else -1]]
            else:
                cells = at[0][1] if goes_on else []
            if cells:
                row = row_of_rule(title, cells, gains(cells))
                rows.append([*row, f"{np.mean([by_prompt(cell[FIVE]) for cell in cells]):+.3f}"])
    heading = ("method", "answers read", "seeds", "gain", "KL", "guards", "paired")
    best = next(row for row in read("frontier") if row[2] == BEST and row[4] == OF_FOUR)
    name = "no step: the best of four by the reward itself"
    rows.append([name, "", "", f"{float(best[5]):+.3f}", "0.6", "", ""])
    return heading, rows


def row_of_rule(title: str, cells: Cells, values: Floats) -> list[str]:
    """A row of several seeds; guards are fluency, variety and length."""
    return [
        title,
        f"{mean(float(cell['answers read']) for cell in cells):,.0f}",
        str(len(cells)),
        around(values, 3),
        nats_of(cells),
        f"{held(cells, 3)}/{len(cells)}",
    ]


def chosen(group: str, column: str, value: str, file: str = "adapters") -> Cells:
    """The cells of a group of a file that have this value in a column."""
    return [c for c in read_cells(file) if c["group"] == group and c[column] == value]


def mean_gain(cells: Cells) -> str:
    return f"{mean(float(cell['gain']) for cell in cells):+.2f}" if cells else ""


def equal() -> Table:
    """What methods gain of sentiment and what it takes, on SmolLM2; published rules as paired."""
    rows = []
    for title, (group, *shares) in EQUAL.items():
        file = next(f for f in ("adapters", "improve") if chosen(group, "share", "1.0", f))
        for share in shares:
            at = chosen(group, "share", share, file)
            _, minutes, memory = cost_of(at).split("; ")
            good = f"{held(at, 3)}/{len(at)}"
            votes = f"{320 * float(share):.0f}"
            rows.append([title, votes, mean_gain(at), nats_of(at), minutes, memory, good])
    both = [
        [cell for label in METHODS[f"{rule}, as published"] for cell in checkpoints(label)[0]]
        for rule in ("known", "sign")
    ]
    gain = ", ".join(f"{mean(by_prompt(c[FIVE]).mean() for c in cells):+.2f}" for cells in both)
    good = f"{sum(held(cells, 3) for cells in both)}/{sum(map(len, both))}"
    title = "`known`, `sign`, as published (paired)"
    rows += [
        *read("alone")[1:],
        [title, "240 on batches of eight", gain, nats_of(both[0]), "", "", good],
        ["no training: best of eight", "80", untrained("sentiment", 80), "1.2", "", "", ""],
    ]
    rows += read("readers")[1:]
    return ("method", "votes", "gain", "nats", "minutes", "GiB", "guards"), rows


def by_reading() -> Table:
    """Share of decided pairs that each way wins against the start, read blind, by taste."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in read("reading")[1:]:
        found.setdefault((row[0], row[1]), {})[row[2]] = row
    heads = "best of eight", "tuned", "the brief as a system prompt", "DPO on the same votes"
    rows = [
        [*of, *(ways[head][5] if head in ways else "" for head in heads), ways["tuned"][6]]
        for of, ways in found.items()
    ]
    return ("taste", "votes", *heads, "tuned, overall"), rows


def untrained(taste: str, votes: int) -> str:
    """Gain of the best of eight of the base's answers by the taste of so many verdicts."""
    chosen = (taste, "best of eight", str(votes))
    rows = read_cells("untrained")
    found = [row for row in rows if (row["taste"], row["rival"], row["votes"]) == chosen]
    return f"{float(found[0]['gain']):+.2f}" if found else ""


def cost_of(cells: Cells) -> str:
    """What cells took: answers drawn, and the least and the most minutes and memory."""
    minutes = [float(cell["cpu_seconds"]) / 60 for cell in cells]
    drawn = [float(c["tokens"]) / float(c["length"]) for c in cells if c["tokens"]]
    memory = [float(c["peak_bytes"]) / 2**30 for c in cells if c["peak_bytes"]]
    some = f"{round(mean(drawn), -2):,.0f}" if drawn else "?"
    return f"{some}; {ends(minutes)}; {ends(memory)}"


def tuned() -> Table:
    """Methods on the tiny model, tuned at what they are compared at, on two tastes."""
    rows = []
    for title, group in TUNED.items():
        row = [title]
        for taste in ("sentiment", "first-person"):
            row += map(gain_and_guards, tuned_cells(group.format(taste)))
        rows.append(row)
    columns = (
        f"{taste}, {n}" for taste in ("sentiment", "first person") for n in ("640", "1,920")
    )
    return ("method", *columns), rows


def same() -> Table:
    """Methods in one set of adapters on the tiny model, on two tastes, by answers read."""
    rows = [
        [title, *(
            gain_and_guards(chosen(group.format(taste), "share", share, "mixed"))
            for taste in ("sentiment", "first-person")
            for share in shares
        )]
        for title, (group, *shares) in SAME.items()
    ]  # fmt: skip
    heads = (f"{taste}, {n}" for taste in ("sentiment", "first person") for n in ("160", "640"))
    return ("method", *heads), rows


def tuned_cells(group: str) -> tuple[Cells, Cells]:
    """The cells of a method on a taste at 640 and at 1,920 answers read.

    szpo's ran once and were looked at twice; others have settings of their own for each, of which
    `g` has those at 1,920 alone.
    """
    if group.startswith("g-"):
        return [], chosen(group, "share", "1.0", "rivals")
    if group.startswith("z-"):
        short, long = (chosen(group, "share", share, "rivals") for share in NOTES_AT)
    else:
        short, long = (chosen(f"{part}-{group}", "share", "1.0", "rivals") for part in "sl")
    return short, long


def gain_and_guards(cells: Cells) -> str:
    """Mean gain, nats, and the share of seeds on which fluency, variety and length hold."""
    return f"{gain_of(cells)}; {nats_of(cells)}; {held(cells, 3)}/{len(cells)}" if cells else ""


def ends(values: Sequence[float]) -> str:
    """The least and the most of values."""
    found = dict.fromkeys(f"{end(values):.1f}" for end in (min, max) if values)
    return "–".join(found) or "?"


def mixing() -> Table:
    """Tastes by answers read: in adapters alone, improved between votes as well, only chosen."""
    read_at, rows = ("160", "320", "640"), []
    for title, (group, improved) in MIXING.items():
        at = [chosen(group, "answers_read", n) for n in read_at]
        new = chosen(improved, "answers_read", read_at[-1], "improve")
        if any(at) or new:
            best = untrained(title.strip("*").replace(" ", "-"), 320)
            row = [title, *map(gain_of, at), nats_of(at[-1]), gain_of(new), nats_of(new), best]
            rows.append(row)
    heading = "taste", *read_at, "nats", "improved, 640", "nats", "chosen, 640"
    return heading, rows


def both() -> Table:
    """The best of eight of the improved policy's answers, beside improving and choosing alone."""
    rows = []
    for title, (_, improved) in MIXING.items():
        taste = title.strip("*").replace(" ", "-")
        new = chosen(improved, "answers_read", "640", "improve")
        for row in read_cells("untrained"):
            if (row["taste"], row["rival"]) == (taste, "both"):
                gain = f"{float(row['gain']):+.2f} ± {1.96 * float(row['stderr']):.2f}"
                nats = f"{float(row['kl']):.1f}"
                rows.append([title, gain, nats, gain_of(new), untrained(taste, 320)])
    return ("taste", "improved and chosen", "nats", "only improved", "only chosen"), rows


def gain_of(cells: Cells) -> str:
    """Mean gain, with the range of several seeds; empty where no cell has run."""
    return around(np.array([by_prompt(c["by_prompt"]) for c in cells]), 2) if cells else ""


def departures() -> dict[str, list[tuple[Cells, Floats]]]:
    """Cells and gains of the published rules, and of each departure, at both votes, on tiny."""
    found: dict[str, dict[str, list[Mapping[str, str]]]] = {}
    for cell in read_cells("published"):
        found.setdefault(cell["method"], {}).setdefault(cell["point"], []).append(cell)
    shift = offset("sentiment", "published")
    return {
        title: [
            (cells, np.array([by_prompt(cell["gain by prompt"]) for cell in cells]) + shift)
            for cells in points.values()
        ]
        for title, points in found.items()
    }


def classes() -> Table:
    """Gains by class of tastes, and in how many runs something was named."""
    columns = {"features 40": "40 votes", "scores 40": "on scores",
               "features 120": "120 votes", "scores 120": "on scores"}  # fmt: skip
    rows = []
    for kind in dict.fromkeys(row["class"] for row in read_cells("classes")):
        each = [row for row in read_cells("classes") if row["class"] == kind]
        said, runs = (sum(int(row[name]) for row in each) for name in ("said", "seeds"))
        means = [f"{mean(float(row[name]) for row in each):+.2f}" for name in columns]
        rows.append([kind, *means, f"{said}/{runs}"])
    return ("class of tastes", *columns.values(), "name something"), rows


MADE: Mapping[str, Callable[[], Table]] = {
    "published-smollm2": published_smollm2, "equal": equal,
    "mixing": mixing, "both": both, "tuned": tuned, "same": same,
    "classes": classes, "by-reading": by_reading,
}  # fmt: skip
"""Tables that are worked out from cells."""


def table(mark: re.Match[str]) -> str:
    """A table with its marks, in place of what is between them."""
    if mark[1] in MADE:
        heading, rows = MADE[mark[1]]()
    else:
        heading, *rows = read(mark[1])
    lines = [f" {' | '.join(heading)} ", "|".join("---" for _ in heading)]
    lines += [f" {' | '.join(row)} " for row in rows]
    shown = "".join(f"|{line}|\n" for line in lines)
    return f"<!-- table {mark[1]} -->\n\n{shown}\n<!-- end -->"


def main(arguments: list[str]) -> int:
    for folder in ("tables", "cells"):
        for file in (EXPERIMENTS / folder).glob("*.csv"):
            read(file.stem, folder)
    old = []
    for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        new = MARKED.sub(table, text)
        if new != text:
            old.append(str(page.relative_to(DOCS.parent)))
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    if old and "--check" in arguments:
        print(f"tables are out of date: {', '.join(old)}; run python docs/tools/page_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
