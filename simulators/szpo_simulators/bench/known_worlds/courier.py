"""The courier contest of `szpo bench gridworld --frozen`: the claim, on settings that were frozen.

Three ways to ask, with the panel bt70 fitted for each: one vote per pair of walks, one vote per
pair of batches of eight walks, and eight pair votes for each of those batch votes, which is as
much to read. The frozen file has seeds that nothing else has used, and for each method what is
fixed, what 32 trials on other seeds chose, and their scores.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.lines import Line2D

from szpo.errors import UsageError
from szpo_simulators.bench.known_worlds import contest
from szpo_simulators.study import COLOURS, MARKS, Study, draw_course, format_interval, interval

OURS: Final = "SZPO, known"
RIVALS: Final = (
    "reward model + PPO, once", "reward model + PPO, again and again", "DPO", "online DPO",
)  # fmt: skip
REFERENCE: Final = "reward model of the whole state + PPO"
"""Its features include whether the bag is full, which the others cannot see; not in the claim."""
DRAWN: Final = (OURS, *RIVALS, REFERENCE)
DASHES: Final = ("-", "--", ":")
"""Of the ways to ask, in the file's order."""


def run(study: Study, frozen: Path) -> list[dict[str, Any]]:
    """Run the methods of a frozen file on its seeds, and show them."""
    used, tuned = read_frozen(frozen)
    if study.quick:
        used = used[:6]
    specs = [{**row["fixed"], **row["chosen"], "seeds": used} for row in tuned]
    rows = [
        {**row, **interval(row["values"]),
         **{name: one[name] for name in ("name", "way", "chosen")}}
        for row, one in zip(study.cells("the claim", specs, contest.work), tuned, strict=True)
    ]  # fmt: skip
    _show(study, rows, used)
    return rows


def read_frozen(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """The seeds and the methods of a frozen file.

    Raises:
        UsageError: the file is missing, or is no frozen contest.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
        first, last = body["seeds"]
        methods = [{k: row[k] for k in ("name", "way", "fixed", "chosen", "tried")}
                   for row in body["method"]]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--frozen {path}: no frozen contest can be read there ({error})"
        ) from None
    return list(range(first, last + 1)), methods


def compare_with_rivals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """SZPO minus each rival by way of asking: mean difference, 95 % interval, paired by seed."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        here = {row["name"]: np.array(row["values"]) for row in rows if row["way"] == way}
        for rival in RIVALS:
            if rival in here and OURS in here:
                apart = interval((here[OURS] - here[rival]).tolist())
                found.append({"way": way, "rival": rival, **apart})
    return found


def _show(study: Study, rows: Sequence[Mapping[str, Any]], used: Sequence[int]) -> None:
    """Table, differences, CSV and figure of the contest."""
    study.table(
        f"courier: value 1.86 at the start; 95 % intervals over seeds {used[0]} to {used[-1]}",
        rows,
        {"method": "name", "asked": "way", "votes": lambda row: row["votes"][-1],
         "walks read": lambda row: row["answers"][-1], "value": format_interval,
         "chosen": lambda row: contest.format_settings(row["chosen"])},
    )  # fmt: skip
    study.csv("gridworld-claim", rows)
    differences = compare_with_rivals(rows)
    study.table(
        f"{OURS} less each rival", differences,
        {"asked": "way", "rival": "rival", "difference": format_interval,
         "": lambda row: "above" if row["low"] > 0 else "BELOW" if row["high"] < 0 else "open"},
    )  # fmt: skip
    study.csv("gridworld-claim-differences", differences)
    _draw_figure(study, rows)


def _draw_figure(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    ways = list(dict.fromkeys(row["way"] for row in rows))
    looks = {name: (COLOURS[i], MARKS[i]) for i, name in enumerate(DRAWN)}
    ordered = sorted(rows, key=lambda row: (DRAWN.index(row["name"]), ways.index(row["way"])))
    with study.figure("gridworld-claim", columns=min(len(ways), 2) + 1, height=4.6) as axes:
        *firsts, last = axes
        for here, way in zip(firsts, ways, strict=False):
            D = next(row["D"] for row in rows if row["way"] == way)
            sides = f"batches of {D}" if D > 1 else "walks"
            here.set(xlabel="votes", title=f"{way}: one on each two {sides}")
        last.set(xlabel="walks read", title="by what is read", xscale="log")
        for row in ordered:
            colour, mark = looks[row["name"]]
            place = ways.index(row["way"])
            style = {"color": colour, "marker": mark, "linestyle": DASHES[place]}
            if place < len(firsts):
                draw_course(firsts[place], row["votes"], row, row["name"], **style)
            draw_course(last, row["answers"], row, row["name"], **style)
        axes[0].set_ylabel("exact value: deliveries a walk")
        for here in axes:
            here.set_ylim(1.3, 9.3)
        handles, labels = axes[0].get_legend_handles_labels()
        handles += [Line2D([], [], color="#666666", linestyle=DASHES[i]) for i in range(len(ways))]
        last.figure.legend(
            handles, [*labels, *ways], loc="outside lower center", ncols=3, fontsize=7.5
        )
