"""Runs compared by their ledgers: a table of totals, and curves over votes and answers read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from szpo.analysis import improvement
from szpo.cli import console, run_paths
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.training import results
from szpo.voting.step_report import StepReport
from szpo_simulators.panels import text_rewards
from szpo_simulators.study import COLOURS, Study

CURVES = {"heldout": "held-out pairs won against the base", "kl": "KL to the start, nats",
         "shown": "mean reward of the answers shown",
         "better": "win rate of the better side, ten steps"}  # fmt: skip
FACTS: dict[str, str | Callable[[Mapping[str, Any]], Any]] = {
    "model": "model", "panel": "panel", "rule": "rule", "seed": "seed", "state": "state",
    "steps": "steps", "votes": "votes", "answers read": "answers_read",
    "minutes of people": lambda run: f"{run['person_minutes']:.0f}",
    "votes for the better side": lambda run: _share(run["separation"]),
    "KL, nats": "kl", "length": "length",
    "held-out reward": lambda run: run["heldout"] or "not measured",
    "better than the base": "better",
}  # fmt: skip
"""The table's line names; each with a field of `read_run`'s result, or a function of it."""
POOLED = 10
"""Steps over which the win rate of the better side is averaged, since one step has few votes.
The win rate of plus would say nothing, since the signs are random."""


def compare_runs(
    runs: Sequence[str], folder: Path | None, *, figure: Path | None = None, as_json: bool = False
) -> int:
    """Print and draw runs; the figure is written beside the first run and copied to ``figure``."""
    if len(runs) < 2:
        raise UsageError("compare: one run alone; give two or more")
    paths = [run_paths.find(run, folder or Path("runs")) for run in runs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("compare: the same run is named twice; give different ones")
    found = [read_run(path) for path in paths]
    if empty := [row["name"] for row in found if not row["votes"]]:
        line = f"compare: no votes in a closed step of {', '.join(empty)}"
        if len(empty) == len(found):
            raise RunError(f"{line}; collect some, or name other runs")
        console.complain(line)
    study = Study("compare", paths[0].parent, figures=figure)
    study.console.quiet = as_json
    _print_table(study, found)
    for row in found:
        for line in row["evaluation"]:
            study.console.print(f"{row['name']}: {line}", markup=False)
    wanted = [name for name in CURVES if any(row["curves"][name] for row in found)]
    if wanted:
        names = "-".join(path.stem for path in paths)[:80]
        _draw(study, f"compare-{names}", found, wanted)
        study.console.print(f"figure: {paths[0].parent / f'compare-{names}.svg'}", markup=False)
    if as_json:
        print(json.dumps(found, indent=1))
    return 0


def _print_table(study: Study, runs: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each fact and a column for each run; two to six runs fit a terminal."""
    lines = [
        {"fact": name, **{str(i): read(run) if callable(read) else run.get(read)
                          for i, run in enumerate(runs)}}
        for name, read in FACTS.items()
    ]  # fmt: skip
    names = [run["name"] for run in runs]
    heads = [f"{name} {i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    columns = {head: str(i) for i, head in enumerate(heads)}
    study.table("runs by their ledgers", lines, {"": "fact", **columns})


def read_run(path: Path) -> dict[str, Any]:
    """Read a run from its ledger: totals, held-out rows, curves over votes and answers read."""
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        total = results.read(ledger)
        facts = total.table
        measured = [event["body"]["rows"] for event in ledger.events("evaluation")
                    if "rows" in event["body"]]  # fmt: skip
        shown, helped = _mean_rewards_shown(ledger, facts), improvement.read(ledger)
    last = measured[-1] if measured else []
    lines = [f"{row['name']}: {row['before']} → {row['after']} {row['change']}" for row in last]
    spent = np.cumsum([(f.votes, f.answers_read) for f in facts], axis=0).tolist()
    # A measurement stands after its number of applied steps.
    read = [0, *(answers for _, answers in spent)]
    points = [(p, [p.votes, read[min(p.steps, len(facts))]]) for p in helped.points]
    applied = [(f, at) for f, at in zip(facts, spent, strict=True) if f.state == "applied"]
    kl = [[*at, f.kl] for f, at in applied if f.kl is not None]
    if helped.kl_measured:  # of the exported point; steps note that of the centre
        kl = [[*at, p.kl or 0.0] for p, at in points if p.kl is not None or not p.steps]
    lengths = [f.length for f, _ in applied if f.length is not None]
    better = [results.separation(facts[max(0, i + 1 - POOLED) : i + 1]) for i in range(len(facts))]
    curves: dict[str, list[list[float]]] = {
        "heldout": [
            [*at, p.wins.value]
            for p, at in points
            if p.wins is not None and p.wins.value is not None
        ],
        "kl": kl,
        **{name: [[*at, y] for at, y in zip(spent, values, strict=True) if y is not None]
           for name, values in (("shown", shown), ("better", better))},
    }  # fmt: skip
    return {
        **total.as_dict(),
        "kl": kl[-1][2] if kl else None,
        "length": lengths[-1] if lengths else None,
        "separation": results.separation(facts),
        "heldout": f"{last[0]['before']} → {last[0]['after']}" if last else _levels(helped),
        "better": helped.short,
        "improvement": helped.as_dict(),
        "evaluation": [helped.sentence, *lines],
        "curves": curves,
    }


def _mean_rewards_shown(ledger: Ledger, facts: Sequence[StepReport]) -> list[float | None]:
    """Mean true reward of each step's answers; None for each step if people vote."""
    panel = ledger.spec.get("config", {}).get("panel", {})
    try:
        if panel.get("kind", "people") == "people":
            raise UsageError("people have no reward")
        score = text_rewards.parse(str(panel["reward"])).score
    except (UsageError, KeyError):
        return [None] * len(facts)
    found: list[float | None] = []
    for fact in facts:
        rows = [row for one in ledger.comparisons(fact.step) for row in one.rows]
        values = [score(row.prompt, side) for row in rows for side in (row.plus, row.minus)]
        found.append(float(np.mean(values)) if values else None)
    return found


def _draw(study: Study, part: str, found: Sequence[Any], wanted: Sequence[str]) -> None:
    with study.figure(part, columns=2 * len(wanted), height=3.8) as axes:
        for i, name in enumerate(wanted):
            for j, label in enumerate(("votes", "answers read")):
                at = axes[2 * i + j]
                for k, row in enumerate(found):
                    points = row["curves"][name]
                    colour = COLOURS[k % len(COLOURS)]
                    x, y = ([p[column] for p in points] for column in (j, 2))
                    at.plot(x, y, color=colour, marker="", label=row["name"])
                at.set(xlabel=label)
            axes[2 * i].set_ylabel(CURVES[name])
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5)


def _levels(helped: improvement.Improvement) -> str | None:
    """Mean held-out rewards before and after as text; None if the run did not measure them."""
    ends = [p.reward for p in (*helped.points[:1], *helped.points[-1:]) if p.reward is not None]
    return f"{ends[0]:.3f} → {ends[1]:.3f}" if len(helped.points) > 1 and len(ends) == 2 else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
