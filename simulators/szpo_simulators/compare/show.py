"""Print and draw what is finished of a plan: tables, JSON, a CSV row for each cell, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from szpo.types import Floats
from szpo.voting.step_report import plain
from szpo_simulators.compare import summary
from szpo_simulators.compare.plan import BEST_OF, Plan
from szpo_simulators.store import Store
from szpo_simulators.study import (
    COLOURS,
    MARKS,
    Study,
    describe_machine,
    number,
)

SHADES: Final = (*COLOURS, "#888888", "#882255", "#999933")
DRAWN: Final[Mapping[str, str]] = {"sentiment-": "", "second-": "second round, "}
"""Prefixes of the labels of groups that are drawn, and what replaces each in the legend."""
AXES: Final[Mapping[str, str]] = {
    "kl": "KL to the start, nats per answer (root scale)",
    "answers_read": "answers read",
    "cpu_seconds": "processor seconds (log scale)",
}
MIB: Final = 2**20


def show_finished(study: Study, plan: Plan, store: Store, wanted: set[str]) -> dict[str, Any]:
    """Print the tables; write JSON, ``cells.csv`` and the figure, named after the study.

    Args:
        study: Prints and writes.
        plan: The plan.
        store: The finished cells.
        wanted: Labels of the groups whose missing seeds are named.

    Returns:
        The content of the JSON file.
    """
    rows = summary.read_rows(plan, store)
    lines = summary.summarise(plan, rows)
    if not lines:
        study.console.print(f"nothing is finished in {study.folder}", markup=False)
        return {"lines": []}
    study.csv("cells", [_flatten(row) for each in rows.values() for row in each])
    study.table("gain against KL and votes; 95 % bootstrap intervals over seeds", lines, TABLE)
    costs = summary.spent(plan, rows, lines)
    study.table("what it took", costs, SPENT, f"{study.name}-costs")
    verdicts = summary.judge_targets(plan, rows)
    if verdicts:
        study.table("what was asked", verdicts, {name: name for name in verdicts[0]})
    apart = summary.judge_comparisons(plan, rows)
    if apart:
        study.table("paired by seed", apart, PAIRED)
    done = {label: {row["seed"] for row in each} for label, each in rows.items()}
    missing = [
        f"unfinished: {group.label} has {len(done[group.label])} of {len(group.seeds)} seeds"
        for group in plan.groups
        if group.label in wanted and len(done[group.label]) < len(group.seeds)
    ]
    stopped = {f"stopped: {row['cell']}: {row['stopped']}"
               for each in rows.values() for row in each if row["stopped"]}  # fmt: skip
    for line in (*missing, *sorted(stopped)):
        study.console.print(line, markup=False)
    _draw(study, plan, lines)
    tables = {"lines": lines, "costs": costs, "targets": verdicts, "comparisons": apart}
    body: dict[str, Any] = plain(
        {**tables, "unfinished": missing, "stopped": sorted(stopped),
         "machine": describe_machine()}
    )  # fmt: skip
    study.end(study.name, body)
    return body


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``cells.csv``: guards as digits, the gain on each prompt as one text."""
    by_prompt = " ".join(f"{gain:.5f}" for gain in row.get("by_prompt", ()))
    guards = "".join(str(int(guard["ok"])) for guard in row.get("guards", ()))
    return {**row, "guards": guards, "by_prompt": by_prompt}


def _interval(found: Mapping[str, Any], form: str = "+.3f") -> str:
    if found["low"] is None:
        return format(found["mean"], form)
    if found["high"] == math.inf:  # a ratio whose divisor may be 0
        return f"{found['mean']:{form}} [{found['low']:.2f} or more]"
    return f"{found['mean']:{form}} [{found['low']:.2f}, {found['high']:.2f}]"


def _seeds(row: Mapping[str, Any]) -> str:
    return f"{row['seeds']}/{row['of']}"


def _to_target(by: str) -> Any:
    def text(row: Mapping[str, Any]) -> str:
        each, median = row[f"{by}_to_target"], row[f"median_{by}_to_target"]
        reached = sum(one is not None for one in each)
        return f"{'–' if median is None else f'{median:.0f}'} ({reached}/{len(each)})"

    return text


def _over_optimised(row: Mapping[str, Any]) -> str:
    found = row["optimised"]
    if not found or "true" not in found:
        return ""
    mark = "over-optimised" if found["seen"] else "open"
    return f"{found['true'][0]:+.2f} / {found['learned'][0]:+.2f} {mark}"


TABLE: Final[Mapping[str, Any]] = {
    "group": "group",
    "votes": "checkpoint",
    "seeds": _seeds,
    "read": number("answers_read", ".0f"),
    "gain": _interval,
    "few": number("few", "+.3f"),
    "lowest": number("lowest", "+.3f"),
    "unseen": number("unseen", "+.3f"),
    "wins": number("win_rate", ".0%"),
    "KL": number("kl", ".2f"),
    "most": number("kl_most", ".2f"),
    "3 g.": number("first_three", ".0f"),
    "4 g.": number("all_four", ".0f"),
    "topic": number("topic", ".2f"),
    "cpu s": number("cpu_seconds", ".0f"),
}
SPENT: Final[Mapping[str, Any]] = {
    "group": "group",
    "votes": number("votes", ".0f"),
    "read": number("answers_read", ".0f"),
    f"votes to +{summary.REACHED:g}": _to_target("votes"),
    f"read to +{summary.REACHED:g}": _to_target("answers_read"),
    "tokens, k": number("tokens", ".0f", 1000),
    "cpu s": number("cpu_seconds", ".0f"),
    "s": number("seconds", ".0f"),
    "set-up": number("setup_seconds", ".0f"),
    "peak MiB": number("peak_bytes", ".0f", MIB),
    "added": number("added_bytes", ".0f", MIB),
    "length": number("length", ".1f"),
    "labels": number("agreement", ".0%"),
    "true / learned after its best": _over_optimised,
}
PAIRED: Final[Mapping[str, Any]] = {
    "ours": "ours",
    "theirs": "theirs",
    "where": "where",
    "seeds": _seeds,
    "gains": lambda row: f"{row['mean_ours']:+.3f}, {row['mean_theirs']:+.3f}",
    "difference": lambda row: _interval(row["difference"]),
    "ratio": lambda row: _interval(row["ratio"], ".2f"),
    "asked": lambda row: "ahead or level" if row["asked"] is None else f"{row['asked']:g} times",
    "": lambda row: summary.format_verdict(row["met"]),
}


def _draw(study: Study, plan: Plan, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw gain against KL and against costs, one line per group of `DRAWN`."""
    curves: dict[str, list[Mapping[str, Any]]] = {
        name + group.label.removeprefix(first): [
            line for line in lines if line["group"] == group.label
        ]
        for first, name in DRAWN.items()
        for group in plan.groups
        if group.label.startswith(first) and group.method != BEST_OF
    }
    best = [line for line in lines if line["group"].startswith("best of")]
    ends = max((line["checkpoint"] for line in best), default=0)
    curves["best of n, true reward"] = [line for line in best if "true" in line["group"]]
    curves["best of n, fitted direction"] = [
        line for line in best if "fitted" in line["group"] and line["checkpoint"] == ends
    ]
    with study.figure(study.name, columns=len(AXES), height=4.4) as axes:
        for i, (label, found) in enumerate(item for item in curves.items() if item[1]):
            style = {"color": SHADES[i % len(SHADES)], "marker": MARKS[i % len(MARKS)]}
            # Nobody reads best-of-n's pool, which is drawn after the votes.
            known_by = ["kl"] if label.startswith("best") else AXES
            for at, by in zip(axes, known_by, strict=False):
                known = [line for line in found if line.get(by) is not None]
                nothing = [0] if by != "cpu_seconds" else []  # the axis is logarithmic
                x, y = ([*nothing, *(line[name] for line in known)] for name in (by, "mean"))
                at.plot(x, y, label=label, **style)
                for line in known:
                    if line["low"] is not None:
                        at.vlines(line[by], line["low"], line["high"], style["color"], lw=0.9)
        # A small step's gain grows as the root of its KL, and the methods' KL differs 100-fold.
        axes[0].set_xscale("function", functions=(_root, _square))
        nats = [0, *(2**i for i in range(6))]
        axes[0].set_xticks(nats, [str(n) for n in nats])
        axes[2].set_xscale("log")
        for at, name in zip(axes, AXES.values(), strict=True):
            at.set(xlabel=name)
        axes[0].set_ylabel("gain in held-out reward")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5)


def _root(x: Floats) -> Floats:
    """Signed square root, since an estimate of KL may lie below 0."""
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: Floats) -> Floats:
    return x * np.abs(x)
