"""`szpo bench frontier`: run the cells of a frozen plan and show the finished ones at any time.

The results are a table, targets, comparisons, a figure and the rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo.errors import RunError, UsageError
from szpo.training.step_report import plain
from szpo.types import Floats
from szpo_simulators.compare import cell_store
from szpo_simulators.compare import frontier_base as base
from szpo_simulators.compare import frontier_plan as plans
from szpo_simulators.compare import frontier_summary as summary
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.compare.frontier_plan import BEST_OF, Frontier
from szpo_simulators.study import (
    COLOURS,
    MARKS,
    Study,
    describe_machine,
    number,
)

FROZEN: Final = Path("experiments/frozen/frontier.toml")
"""The plan behind the documents' figures; only a checkout has it, not an installed package."""
QUICK: Final = Path(__file__).with_name("frontier_quick.toml")


def main(
    only: Sequence[str] = (),
    seeds: str = "",
    jobs: int = 1,
    show: bool = False,
    quick: bool = False,
    plan: Path = FROZEN,
    folder: Path = Path("runs/frontier"),
    figures: Path | None = None,
) -> dict[str, Any]:
    """Gain against KL, votes and answers read: szpo's rules, gradient methods, best-of-n.

    Each cell runs in its own process; runs of szpo keep a ledger. The command may be killed and
    started again at any time, also twice at once: a finished cell is never run again.

    Args:
        only: Letters of parts or labels of groups in the plan; all by default.
        seeds: Only these seeds, for example 2000-2004,2007.
        jobs: Cells that run at the same time.
        show: Run nothing; print and draw what is finished.
        quick: The tiny model and few votes, some minutes; the result is no evidence.
        plan: The file that freezes settings and cells.
        folder: Folder of ledgers, records, tables and figures.
        figures: Folder to which the figure is copied for the documents.
    """
    if jobs < 1:
        raise UsageError(f"frontier: --jobs {jobs}; give 1 or more")
    frozen = plans.read(QUICK if quick else plan)
    study = Study("frontier", folder, quick, figures)
    store = CellStore(folder)
    wanted = plans.cells(frozen, only, plans.read_seeds(seeds) if seeds else ())
    failures = [] if show else cell_store.run_cells(study.console, store, wanted, jobs)
    if not show and frozen.base_answers:
        for one in wanted:
            base.draw_many(one.spec, folder, frozen.base_answers)
    found = show_finished(study, frozen, store)
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    if failures:
        raise RunError(f"frontier: {len(failures)} cells failed; the reasons stand above")
    return found


DRAWN: Final[Mapping[str, str]] = {"sentiment-": "", "second-": "second round, "}
"""Prefixes of the labels of groups that are drawn, and what replaces each in the legend."""
SHADES: Final = (*COLOURS, "#888888", "#882255")


def show_finished(study: Study, plan: Frontier, store: CellStore) -> dict[str, Any]:
    """Print the tables; write ``frontier.json``, ``rows.jsonl`` and the figure.

    Returns:
        The content of ``frontier.json``.
    """
    rows = summary.read_rows(plan, store)
    lines = summary.summarise(plan, rows)
    study.folder.mkdir(parents=True, exist_ok=True)
    with (study.folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(plain(row))}\n" for each in rows.values() for row in each)
    if not lines:
        study.console.print(f"nothing is finished in {study.folder}", markup=False)
        return {"lines": []}
    study.table("gain against KL and votes; 95 % bootstrap intervals over seeds", lines, TABLE)
    verdicts = summary.judge_targets(plan, rows)
    if verdicts:
        study.table("what was asked", verdicts, {name: name for name in verdicts[0]})
    apart = summary.judge_comparisons(plan, rows)
    if apart:
        study.table("paired by seed", apart, PAIRED)
    missing = [
        f"unfinished: {group.label} has {done} of {len(group.seeds)} seeds"
        for group in plan.groups
        if (done := len({row["seed"] for row in rows[group.label]})) < len(group.seeds)
    ]
    for line in missing:
        study.console.print(line, markup=False)
    _draw(study, plan, lines)
    tables = {"lines": lines, "targets": verdicts, "comparisons": apart, "unfinished": missing}
    body: dict[str, Any] = plain({**tables, "machine": describe_machine()})
    study.end("frontier", body)
    return body


def _interval(found: Mapping[str, Any], form: str = "+.3f") -> str:
    if found["low"] is None:
        return format(found["mean"], form)
    if found["high"] == math.inf:  # a ratio whose divisor may be 0
        return f"{found['mean']:{form}} [{found['low']:.2f} or more]"
    return f"{found['mean']:{form}} [{found['low']:.2f}, {found['high']:.2f}]"


def _seeds(row: Mapping[str, Any]) -> str:
    return f"{row['seeds']}/{row['of']}"


TABLE: Final[Mapping[str, Any]] = {
    "group": "group",
    "votes": "checkpoint",
    "seeds": _seeds,
    "read": number("answers_read", ".0f"),
    "gain": _interval,
    "few": number("few", "+.3f"),
    "lowest": number("lowest", "+.3f"),
    "unseen": number("unseen", "+.3f"),
    "KL": number("kl", ".2f"),
    "most": number("kl_most", ".2f"),
    "3 g.": number("first_three", ".0f"),
    "4 g.": number("all_four", ".0f"),
    "topic": number("topic", ".2f"),
    "cpu s": number("cpu_seconds", ".0f"),
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


def _draw(study: Study, plan: Frontier, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw gain against KL and against answers read, one line per group of `DRAWN`."""
    curves: dict[str, list[Mapping[str, Any]]] = {
        name + group.label.removeprefix(start): [
            line for line in lines if line["group"] == group.label
        ]
        for start, name in DRAWN.items()
        for group in plan.groups
        if group.label.startswith(start) and group.method != BEST_OF
    }
    best = [line for line in lines if line["group"].startswith("best of")]
    ends = max((line["checkpoint"] for line in best), default=0)
    curves["best of n, true reward"] = [line for line in best if "true" in line["group"]]
    curves["best of n, fitted direction"] = [
        line for line in best if "fitted" in line["group"] and line["checkpoint"] == ends
    ]
    with study.figure("frontier", columns=2, height=4.2) as axes:
        for i, (label, found) in enumerate(item for item in curves.items() if item[1]):
            style = {"color": SHADES[i % len(SHADES)], "marker": MARKS[i % len(MARKS)]}
            gains = [line["mean"] for line in found]
            for at, by in ((axes[0], "kl"), (axes[1], "answers_read")):
                if by == "answers_read" and label.startswith("best"):
                    continue  # nobody reads the pool, which is drawn after the votes
                x = [line[by] for line in found]
                at.plot([0, *x], [0, *gains], label=label, **style)
                for value, line in zip(x, found, strict=True):
                    if line["low"] is not None:
                        ends_of = (line["low"], line["high"])
                        at.plot([value] * 2, ends_of, color=style["color"], marker="", lw=0.9)
        # A small step's gain grows as the root of its KL, and the methods' KL differs 100-fold.
        axes[0].set_xscale("function", functions=(_root, _square))
        nats = [0, *(2**i for i in range(6))]
        axes[0].set_xticks(nats, [str(n) for n in nats])
        axes[0].set(
            xlabel="KL to the start, nats per answer (root scale)",
            ylabel="gain in held-out sentiment",
        )
        axes[1].set(xlabel="answers read")
        axes[0].legend(  # below the axes, so that it hides no data
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8,
            columnspacing=1.2, handlelength=2.2,
        )  # fmt: skip


def _root(x: Floats) -> Floats:
    """Signed square root, since an estimate of KL may lie below 0."""
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: Floats) -> Floats:
    return x * np.abs(x)
