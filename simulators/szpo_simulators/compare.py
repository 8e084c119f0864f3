"""``szpo compare``: run and show the cells of a plan, or compare runs by their ledgers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from szpo.analysis import improvement
from szpo.cli import console, run_paths
from szpo.errors import RunError, StorageError, UsageError
from szpo.ledger.database import Ledger
from szpo.runs import status
from szpo.voting.applied_step import plain
from szpo.voting.panel_factory import load_factory
from szpo_simulators import cell_start, summary
from szpo_simulators import plan as plans
from szpo_simulators.bench_study import Study, describe_machine, number
from szpo_simulators.cell_records import Cell, Store, run_cells
from szpo_simulators.plan import Plan

FACTS: dict[str, str | Callable[[Mapping[str, Any]], Any]] = {
    "model": "model", "panel": "panel", "rule": "rule", "seed": "seed", "state": "state",
    "steps": "steps", "votes": "votes", "answers read": "answers_read",
    "minutes of people": number("person_minutes", ".0f"),
    "KL, nats": "kl", "length": "length",
    "held-out reward": lambda run: run["heldout"] or "not measured",
    "better than the base": "better",
}  # fmt: skip
"""The table's line names; each with a field of `read_run`'s result, or a function of it."""

SPENT: Final[Mapping[str, Any]] = {
    "group": "group",
    "votes": number("votes", ".0f"),
    "read": number("answers_read", ".0f"),
    "tokens, k": number("tokens", ".0f", 1000),
    "cpu s": number("cpu_seconds", ".0f"),
    "s": number("seconds", ".0f"),
    "set-up": number("setup_seconds", ".0f"),
    "peak MiB": number("peak_bytes", ".0f", 2**20),
    "length": number("length", ".1f"),
    "labels": number("agreement", ".0%"),
}
TABLE: Final[Mapping[str, Any]] = {
    "group": "group",
    "votes": "checkpoint",
    "seeds": lambda row: f"{row['seeds']}/{row['of']}",
    "read": number("answers_read", ".0f"),
    "gain": lambda row: _interval(row),
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
PAIRED: Final[Mapping[str, Any]] = {
    "ours": "ours",
    "theirs": "theirs",
    "where": "where",
    "seeds": lambda row: f"{row['seeds']}/{row['of']}",
    "gains": lambda row: f"{row['mean_ours']:+.3f}, {row['mean_theirs']:+.3f}",
    "difference": lambda row: _interval(row["difference"]),
    "ratio": lambda row: _interval(row["ratio"], ".2f"),
}
command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


def compare_runs(runs: Sequence[str], folder: Path | None, *, as_json: bool = False) -> int:
    """Print runs side by side by what their ledgers say."""
    if len(runs) < 2:
        raise UsageError("compare: one run alone; give two or more")
    paths = [run_paths.find(run, folder) for run in runs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("compare: the same run is named twice; give different ones")
    found = [read_run(path) for path in paths]
    if empty := [row["name"] for row in found if not row["votes"]]:
        line = f"compare: no votes in a closed step of {', '.join(empty)}"
        if len(empty) == len(found):
            raise RunError(f"{line}; collect some, or name other runs")
        console.complain(line)
    study = Study("compare", paths[0].parent)
    study.console.quiet = as_json
    _print_table(study, found)
    for row in found:
        for line in row["evaluation"]:
            study.console.print(f"{row['name']}: {line}", markup=False)
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
    """Read a run from its ledger: totals, held-out rows, whether it helped."""
    with Ledger.open(path, readonly=True) as ledger, ledger.snapshot():
        total, helped = status.read_results(ledger), improvement.read(ledger)
        measured = [event["body"]["rows"] for event in ledger.events("evaluation")
                    if "rows" in event["body"]]  # fmt: skip
    last = measured[-1] if measured else []
    lines = [f"{row['name']}: {row['before']} → {row['after']} {row['change']}" for row in last]
    lengths = [f.length for f in total.table if f.state == "applied" and f.length is not None]
    return {
        **total.as_dict(),
        "kl": helped.kl,
        "length": lengths[-1] if lengths else None,
        "heldout": f"{last[0]['before']} → {last[0]['after']}" if last else _levels(helped),
        "better": helped.short,
        "improvement": helped.as_dict(),
        "evaluation": [helped.sentence, *lines],
    }


def _levels(helped: improvement.Improvement) -> str | None:
    """Mean held-out rewards before and after as text; None if the run did not measure them."""
    ends = [p.reward for p in (*helped.points[:1], *helped.points[-1:]) if p.reward is not None]
    return f"{ends[0]:.3f} → {ends[1]:.3f}" if len(helped.points) > 1 and len(ends) == 2 else None


def show_finished(study: Study, plan: Plan, store: Store, wanted: set[str]) -> dict[str, Any]:
    """Print the tables; write them as JSON and CSV, and every row as ``cells.csv``.

    ``wanted``: labels of the groups whose missing seeds are named.

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
    costs = summary.last_lines(plan, lines)
    study.table("what it took", costs, SPENT, f"{study.name}-costs")
    apart = summary.compare_pairs(plan, rows)
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
    tables = {"lines": lines, "costs": costs, "comparisons": apart}
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


@command.command("compare")
def compare(
    runs: list[str] = typer.Argument(
        None, help="Runs to compare by their own files, names or paths."
    ),
    preset: str | None = typer.Option(
        None, "--preset", help="Compare methods instead: tiny, published, smollm2 or quick."
    ),
    plan: Path | None = typer.Option(None, "--plan", help="Compare methods by this plan's file."),
    only: list[str] = typer.Option(
        [], "--only", help="Only these parts or groups of the plan, separated by commas."
    ),
    seeds: str | None = typer.Option(
        None, "--seeds", help="Only these seeds, such as 1000-1004,1007."
    ),
    jobs: int = typer.Option(1, "--jobs", help="Cells that run at the same time."),
    shown: bool = typer.Option(False, "--show", help="Run nothing; show what is finished."),
    folder: Path | None = typer.Option(
        None,
        "--folder",
        help="Folder of cells and tables; for runs: the folder of the runs.",
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON document instead of a table."
    ),
) -> int:
    """Compare runs by their files, or methods by what they cost.

    Methods learn on the same model, prompts and simulated panel, and are compared by votes,
    answers read, tokens, seconds and memory. Each cell runs in its own process; the command may be
    killed and started again at any time, also twice at once. The exit code is 1 if a cell failed.
    """
    if len([each for each in (runs, preset, plan) if each]) > 1:
        raise UsageError("compare: give a preset, a plan or runs, not several")
    if runs:
        return compare_runs(runs, folder, as_json=as_json)
    if preset is None and plan is None:
        raise UsageError(
            "compare: give --preset tiny, published or smollm2, a --plan, or two runs or more"
        )
    path = plan or plans.find(preset or "")
    chosen = [part.strip() for text in only for part in text.split(",") if part.strip()]
    study = Study(f"compare-{path.stem}", folder or Path("runs/compare") / path.stem)
    study.console.quiet = as_json
    found, failures = run_plan(study, path, chosen, seeds, jobs, shown)
    if as_json:
        print(json.dumps({**found, "failed": failures}, indent=1))
    return 1 if failures else 0


def run_plan(
    study: Study, path: Path, only: Sequence[str], seeds: str | None, jobs: int, shown: bool
) -> tuple[dict[str, Any], list[str]]:
    """Run the unfinished cells of a plan unless they are only ``shown``.

    Returns:
        What `compare.show_finished` returns, and one line for each cell that failed.
    """
    if jobs < 1:
        raise UsageError(f"compare: --jobs {jobs}; give 1 or more")
    frozen, store = plans.read(path), Store(study.folder)
    if study.folder.exists() and not study.folder.is_dir():
        raise StorageError(f"compare: {study.folder} is no folder; give another --folder")
    wanted = plans.cells(frozen, only, () if seeds is None else plans.read_seeds(seeds))
    failures = []
    if not shown:
        check_settings(wanted)
        failures = run_cells(study.console, store, wanted, jobs)
        for one in wanted if frozen.base_answers else ():
            console.doing("drawing the base's answers that gains count from")
            cell_start.draw_many(one.spec, store.folder, frozen.base_answers)
    found = show_finished(study, frozen, store, {one.label for one in wanted})
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    return found, failures


def check_settings(wanted: Sequence[Cell]) -> None:
    """Refuse a missing module, settings, a panel or a reward before the first cell starts."""
    for one in {cell.label: cell for cell in wanted}.values():
        try:
            config = cell_start.load_config(one.spec)
            if (panel := load_factory(config.panel.kind)) is not None:
                panel.check(config, ())
        except UsageError as error:
            raise UsageError(f"compare: group {one.label}: {error}") from None
    if methods := sorted({one.spec["method"] for one in wanted if one.spec["kind"] == "gradient"}):
        from szpo.baselines.trainer import require_trl  # late: it loads torch

        require_trl(f"compare: {', '.join(methods)}")
