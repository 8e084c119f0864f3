"""Check the figures in the sentences of README and docs/results.

    python docs/tools/prose_figures.py

A figure is worked out from `experiments/cells`, `tables` or `frozen` (`worked_out`), or stands in
a line of the log (`logged_figures.csv`: the page's words, then the log's), or is set, not measured
(no words of the log). Ends with 1 where no page says so, or a page has a decimal or a percentage
of none of these.
"""

from __future__ import annotations

import csv
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean

from page_tables import (
    DOCS,
    EXPERIMENTS,
    MIXING,
    Cells,
    by_prompt,
    checkpoints,
    chosen,
    cost_of,
    departures,
    gains,
    groups_of,
    kl,
    offset,
    read,
    read_cells,
)  # fmt: skip

PAGES = (DOCS.parent / "README.md", *sorted((DOCS / "results").glob("*.md")))
LOGGED = Path(__file__).with_name("logged_figures.csv")
FIGURE = re.compile(r"(?<![\w./−])[+−]?\d*(?:,\d{3})*\.\d+|(?<![\w.])\d+ %")
NO_PROSE = re.compile(r"<!-- table.*?<!-- end -->|^```.*?^```|\]\([^)]*\)|`[^`\n]*`", re.S | re.M)
CLAIMS = {
    "or in parts": ("core", "named", "near", "parts"),
    "entries dropped": ("dropped",),
    "absent": ("absent",),
}
"""Rows of a page's table, and the classes of tastes in each."""
THIRD = "0.3333333333333333"


def plain(text: str) -> str:
    """A text in one line without bold, its figures as pages write them: .25, −.02."""
    line = " ".join(text.replace("**", "").split())
    return re.sub(r"(?<![\d.])0\.", ".", line).replace("-", "−")


def span(values: Iterable[float], form: str) -> str:
    """The least and the most."""
    found = list(values)
    return f"{min(found):{form}} to {max(found):{form}}"


def gain(group: str, column: str, value: str, file: str = "adapters") -> float:
    return mean(float(cell["gain"]) for cell in chosen(group, column, value, file))


def worked_out() -> Iterator[str]:
    """Phrases with figures from files, each to stand on a page."""
    yield from of_demo_and_readers()
    yield from of_tastes()
    yield from of_published_rules()
    yield from of_rivals()


def of_demo_and_readers() -> Iterator[str]:
    gains = [float(each) for row in read("demo")[1:] for each in row[2].split(", ")]
    yield f"rose from .31 to between {min(gains) + 0.314:.2f} and {max(gains) + 0.314:.2f}"
    won: dict[str, list[int]] = {}
    for row in read("reading")[1:]:
        won.setdefault(row[2], []).append(int(row[5][1:3]))
    best, asked = won["best of eight"], won["the brief as a system prompt"]
    yield f"the best of eight has {span(best, 'd')} %, a system prompt {span(asked, 'd')} %"
    nats = span((float(row[3]) for row in read("reading")[1:] if row[2] == "tuned"), ".1f")
    yield f"Tuned answers are {nats} nats away, the best of eight {math.log(8) - 7 / 8:.1f}"
    heading, *rows = read("people")
    words, dictionary, both = (row[heading.index("120")].split("%")[0] for row in rows[:3])
    yield f"the number of words alone {words} %, the dictionary {dictionary} %, both {both} %"


def of_tastes() -> Iterator[str]:
    new = {t: gain(i, "answers_read", "640", "improve") for t, (_, i) in MIXING.items() if i}
    made = span((each for taste, each in new.items() if "*" not in taste), "+.2f")
    blind = span(sorted(each for taste, each in new.items() if "*" in taste)[-3:], "+.2f")
    yield f"an adapter made for them by {made}, three of six written blind by {blind}"
    yield f"before, and is {mean(new.values()):+.2f}"
    cells = [
        cell for name in ("adapters", "improve", "rivals", "mixed") for cell in read_cells(name)
    ]
    points = kl([cell for cell in cells if cell["method"] == "regression"])
    over = [each - 3 for each in points if each > 3]
    yield f"Of {len(points)} points {len(over)} lie above, by {max(over):.1f} at most"
    plan = tomllib.loads((EXPERIMENTS / "frozen" / "adapters.toml").read_text("utf-8"))
    *asked, last = (each["targets"][0]["gain"] for each in plan["group"][:4])
    short = last - gain("reader-rows-regression", "answers_read", "640")
    listed = ", ".join(f"{each:.2f}" for each in asked)
    yield f"of {listed} and {last:.2f} asked of the first four at 640, reader by {short:.2f}"
    kinds = ("sentiment", "no-comma", "first-person", "reader", "more-")
    forty = [
        gains([cell for cell in cells if cell["votes"] == "40"]).mean()
        for name, cells in groups_of("features").items()
        if name.startswith(kinds) and any(cell["votes"] == "40" for cell in cells)
    ]
    yield f"moved eight tastes by {span(forty, '+.2f')}"
    for title, classes in CLAIMS.items():
        lines = (row["claims by run"] for row in read_cells("said")
                 if row["class"] in classes and row["votes"] == "160")  # fmt: skip
        claims = [each for line in lines for each in re.findall(r"(\d+)([+-])", line)]
        sure, likely = (
            [right for chance, right in claims if low < int(chance) <= high]
            for low, high in ((900, 1000), (500, 900))
        )
        parts = (f"{each.count('+')} of {len(each)}" for each in (sure, likely))
        yield "{} | {} ({}) |".format(title, *parts)


def of_published_rules() -> Iterator[str]:
    by = f"{offset('sentiment', '24').mean():.2f}"
    yield f"Those were lucky by {by}, so a rule that hardly moves has a *gain* of {by}"
    ends = [points[-1] for points in departures().values()]
    known, sign, eight, both, ours = (values.mean() for _, values in ends)
    *_, one, two, three = (mean(kl(cells)) for cells, _ in ends)
    yield (
        f"gain {known:.2f} and {sign:.2f} as published; {eight:.2f} in eight coordinates and "
        f"{both:.2f} with antithetic pairs there, at {one:.0f} and {two:.0f} nats; "
        f"{ours:.2f} at {three:.0f}"
    )
    for taste in ("sentiment", "first-person"):
        row = f"| tiny, 3, {taste.replace('-', ' ')}"
        for start in ("t-eight", "t-all"):
            arms: list[Cells] = [
                cells for ask in ("rows", "batches") for rule in ("known", "sign")
                if (cells := chosen(f"{start}-{ask}-{taste}-{rule}", "share", THIRD))
            ]  # fmt: skip
            row += " | " + span((mean(float(c["gain"]) for c in each) for each in arms), "+.2f")
            if taste == "sentiment":
                row += f" at {span((mean(kl(each)) for each in arms), '.1f')} nats"
        yield row
    names = (f"sr-sixteen-rows-sentiment-{rule}" for rule in ("known", "sign"))
    pairs = ((gain(n, "share", "1.0"), mean(kl(chosen(n, "share", "1.0")))) for n in names)
    yield ", ".join(f"{value:+.2f} at {nats:.1f}" for value, nats in pairs) + " nats"
    ours_ = ("sentiment", "1,920")
    rows = [row for row in read("known-sign")[1:] if (row[0], row[3]) == ours_]
    rows = [row for row in rows if "one-sided" not in row[2]]
    shift = offset("sentiment", "known-sign").mean()
    rows_, sets = (
        span((float(row[7].split()[0]) + shift for row in rows if row[2].startswith(ask)), ".2f")
        for ask in ("rows", "batches")
    )
    nats = span((float(row[9]) for row in rows), ".0f")
    yield f"gain {rows_} from pairs and {sets} from batches, [at {nats} nats]"


def of_rivals() -> Iterator[str]:
    ours = gain("z-features-sentiment-regression", "share", THIRD, "rivals")
    theirs = gain("s-sentiment-iterative-dpo", "share", "1.0", "rivals")
    yield f"szpo {ours:+.2f}, iterative DPO {theirs:+.2f}"
    sure = gain("s-u-sentiment-iterative-dpo", "share", "1.0", "mixed")
    yield f"in all weights has {sure:+.2f} of sentiment"
    drawn = cost_of(chosen("sentiment-rows-regression", "share", "1.0")).split(";")[0]
    yield f"szpo drew {drawn} answers for it"
    two = [checkpoints(f"sentiment-{method}")[1] for method in ("iterative-dpo", "regression")]
    less = gains(two[1]).mean() - gains(two[0]).mean()
    yield "{:+.2f} between them, at {:.1f} and {:.1f} nats".format(
        less, *(mean(kl(c)) for c in two)
    )
    shift = offset("sentiment", "tiny").mean()
    found = {
        (row["method"], row["ask"]): (by_prompt(row["gain by seed"]).mean() + shift, row["KL"])
        for row in read_cells("tiny")
    }
    (one, at), (two_, far), (own, near) = (
        found[name, "pair"] for name in ("DPO", "iterative DPO", "SZPO, regression")
    )
    yield f"{one:.2f} and {two_:.2f} against {own:.2f}, at {at}, {far} and {near} nats"
    (own, near), (two_, far) = (found[n, "batch"] for n in ("SZPO, regression", "iterative DPO"))
    yield f"{own:.2f} at {near} nats, iterative DPO {two_:.2f} at {far}"
    by = {row[0]: float(re.findall(r"[\d.]+", row[1])[0]) for row in read("courier")[1:]}
    bag = by["reference: reward model that sees the bag"] - by["SZPO, known"]
    yield f"is ahead by {bag:.2f}"


def main() -> int:
    pages = {
        page.name: plain(
            NO_PROSE.sub(lambda m: "]" * m[0].startswith("]"), page.read_text("utf-8"))
        )
        for page in PAGES
    }
    log = plain((EXPERIMENTS / "LOG.md").read_text("utf-8"))
    with LOGGED.open(encoding="utf-8", newline="") as file:
        logged = list(csv.reader(file))[1:]
    wrong = [f"no line of the log has: {line}" for _, line in logged if plain(line) not in log]
    for phrase in map(plain, (*worked_out(), *(words for words, _ in logged))):
        held = [name for name, text in pages.items() if phrase in text]
        wrong += [] if held else [f"no page says: {phrase}"]
        for name in held:
            pages[name] = pages[name].replace(phrase, " ")
    for name, text in pages.items():
        found = ((m.start() - 60, m.end() + 30) for m in FIGURE.finditer(text))
        wrong += [f"{name}: of nothing: …{text[max(0, low) : high]}…" for low, high in found]
    print("\n".join(wrong) or f"{len(PAGES)} pages: every figure has its cells or its line")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
