"""``szpo compare``: compare methods on one model and panel, or runs by their ledgers.

``--tune`` tries at most four settings per method, on separate seeds.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from szpo.analysis import improvement
from szpo.cli import console, run_paths
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.plugins import how_to_install
from szpo.training import results
from szpo_simulators.compare import cell_store, presets, show
from szpo_simulators.compare.cell_process import VERSION
from szpo_simulators.compare.cell_store import Cell, CellStore
from szpo_simulators.compare.presets import Asking, Method, Preset, Settings
from szpo_simulators.compare.summary import MethodKey
from szpo_simulators.panels import text_rewards
from szpo_simulators.study import COLOURS, Study

command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""
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


@command.command("compare")
def compare(
    runs: list[str] = typer.Argument(
        None, help="Runs to compare by their own files, names or paths."
    ),
    preset: str | None = typer.Option(
        None, "--preset", help="Compare methods instead: tiny, published or smollm2."
    ),
    methods: list[str] = typer.Option(
        [], "--methods", help="Only these methods, separated by commas."
    ),
    asks: list[str] = typer.Option(
        [], "--asks", help="Only these ways of asking, separated by commas: batch, pair."
    ),
    seeds: list[str] = typer.Option(
        [], "--seeds", help="These seeds instead of the preset's, separated by commas."
    ),
    folder: Path | None = typer.Option(
        None,
        "--folder",
        help="Folder of cells, tables and figures; for runs: the folder of the runs.",
    ),
    figures: Path | None = typer.Option(None, "--figures", help="Also copy the figures here."),
    tune: bool = typer.Option(
        False, "--tune", help="Run the tuning trials instead, on their own seeds."
    ),
    collect: bool = typer.Option(False, "--collect", help="Run nothing; show what is finished."),
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON document instead of a table."
    ),
) -> int:
    """Compare runs by their files, or methods by what they cost.

    Methods learn on the same model, prompts and simulated panel, and are compared by votes,
    answers read, tokens, seconds and memory. The exit code is 1 if a cell failed, else 0.
    """
    if runs and preset:
        raise UsageError("compare: give a preset or runs, not both")
    if runs:
        return compare_runs(runs, folder, figure=figures, as_json=as_json)
    chosen, numbers = _split(methods), _read_seeds(seeds)
    if tune and (asks or numbers):
        raise UsageError("compare: --tune has seeds of its own and asks in batches; leave "
                         "--seeds and --asks out")  # fmt: skip
    if preset is None:
        raise UsageError("compare: give --preset tiny, published or smollm2, or two runs or more")
    found_preset = presets.find_preset(preset)
    wanted_methods = presets.select_methods(found_preset, chosen, _split(asks))
    every_seed = numbers or found_preset.seeds
    if mixed := sorted(set(every_seed) & set(found_preset.tuning)):
        raise UsageError(f"compare: settings were chosen on seed {mixed[0]}; give other --seeds")
    study = Study("compare", folder or Path("runs/compare") / found_preset.name, figures=figures)
    study.console.quiet = as_json
    if not collect:
        require_modules(method for method, _ in wanted_methods)
    store = CellStore(study.folder)
    setup = prepare_shared_setup(study, store, found_preset, collect)
    if tune:
        found, failures = run_trials(study, store, found_preset, wanted_methods, setup, collect)
    else:
        wanted = order_cells(found_preset, wanted_methods, every_seed, setup)
        failures = [] if collect else cell_store.run_cells(study.console, store, wanted)
        found = show.show_results(study, found_preset, read_records(store, wanted))
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    if as_json:
        print(json.dumps({**found, "failed": failures}, indent=1))
    return 1 if failures else 0


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    """The names in texts of one or several names separated by commas; each name once.

    >>> _split(["szpo,dpo", "ppo,dpo"])
    ('szpo', 'dpo', 'ppo')
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def _read_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    found = _split(texts)
    if wrong := [text for text in found if not text.isdecimal()]:
        raise UsageError(f"compare: --seeds {wrong[0]} is no seed; give whole numbers from 0")
    return tuple(map(int, found))


def require_modules(methods: Iterable[Method]) -> None:
    """Check before the start that all modules of the methods are installed."""
    lacking: dict[str, list[str]] = {}
    for method in methods:
        for module in method.needs:
            if importlib.util.find_spec(module) is None:
                lacking.setdefault(module, []).append(method.name)
    if lacking:
        names = sorted({name for each in lacking.values() for name in each})
        raise UsageError(
            f"compare: {', '.join(names)} need {' and '.join(lacking)}: "
            f"{how_to_install('baselines')}, or leave them out with --methods"
        )


def list_trials(
    preset: Preset, methods: Sequence[tuple[Method, Asking]], setup: Mapping[str, Any]
) -> list[tuple[Method, int, list[Cell]]]:
    """(method, trial, its cell on each tuning seed) for methods with several trials."""
    several = {m.name: m for m, _ in methods if len(preset.trials_of(m)) > 1}
    return [
        (method, i, [make_cell(preset, method, "batch", seed, setup, settings)
                     for seed in preset.tuning])
        for method in several.values()
        for i, settings in enumerate(preset.trials_of(method))
    ]  # fmt: skip


def run_trials(
    study: Study,
    store: CellStore,
    preset: Preset,
    methods: Sequence[tuple[Method, Asking]],
    setup: Mapping[str, Any],
    collect: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Run the trials and print them; the highest mean final gain is best, a stopped run has 0."""
    trials = list_trials(preset, methods, setup)
    wanted = [one for _, _, cells in trials for one in cells]
    failures = [] if collect else cell_store.run_cells(study.console, store, wanted)
    rows: list[dict[str, Any]] = []
    for method, i, cells in trials:
        records = [record for one in cells if (record := store.read(one)) is not None]
        gains = [0.0 if one["stopped"] else one["course"][-1]["gain"] for one in records]
        settings = preset.trials_of(method)[i]
        if gains:
            rows.append(
                {"method": method.name, "trial": i, "settings": json.dumps(settings),
                 "gains": gains, "mean": float(np.mean(gains)), "best": False,
                 "chosen": settings == preset.reported_settings(method)}
            )  # fmt: skip
    for name in dict.fromkeys(row["method"] for row in rows):
        best = max((row for row in rows if row["method"] == name), key=lambda row: row["mean"])
        best["best"] = True
    study.table(
        f"{preset.name}: trials on seeds {', '.join(map(str, preset.tuning))}, batch votes",
        rows,
        {"method": "method", "trial": "trial", "settings": "settings",
         "gains": lambda row: " ".join(f"{gain:+.3f}" for gain in row["gains"]),
         "mean": lambda row: f"{row['mean']:+.3f}",
         "": lambda row: " ".join(word for word in ("best", "chosen") if row[word])},
        f"trials-{preset.name}",
    )  # fmt: skip
    return {"preset": preset.name, "trials": rows}, failures


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


def _mean_rewards_shown(ledger: Ledger, facts: Sequence[results.StepRow]) -> list[float | None]:
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


def make_shared_spec(preset: Preset) -> dict[str, Any]:
    """The part of the spec that is the same for all cells of a preset."""
    return {
        "version": VERSION, "run": preset.run, "reward": preset.reward, "panel": preset.panel,
        "D": preset.D, "prompts": preset.prompts, "samples": preset.samples,
        "sets": list(preset.sets),
    }  # fmt: skip


def prepare_shared_setup(
    study: Study, store: CellStore, preset: Preset, collect: bool = False
) -> dict[str, Any]:
    """Run the cell ``base`` unless it is finished; returns its name and the panels' β.

    Args:
        study: Prints progress.
        store: The cells' folder.
        preset: The comparison.
        collect: Run nothing.
    """
    cell = Cell({**make_shared_spec(preset), "method": "base", "ask": "both", "seed": 0})
    found = store.read(cell)
    if found is None and collect:
        raise UsageError(
            f"compare: nothing is finished in {store.folder}; leave out --collect to begin"
        )
    if found is None:
        study.console.print("the base model: fitting the panel, measuring before any vote")
        failures = cell_store.run_cells(Console(quiet=True), store, [cell])
        found = store.read(cell)
        if failures or found is None:
            raise RunError(f"compare: {failures[0] if failures else 'the base was not measured'}")
    for name, fitted in found["panel"].items():
        rows = preset.D if name == "batch" else 1
        study.console.print(
            f"{preset.panel} on {rows} rows: sharpness beta {fitted['beta']:.4g}, two panelists "
            f"agree on {fitted['agreement']:.1%}, {fitted['zero_share']:.1%} of pairs are equal"
        )
    beta = {name: fitted["beta"] for name, fitted in found["panel"].items()}
    return {"base": cell.name, "beta": beta}


def make_cell(
    preset: Preset,
    method: Method,
    ask: Asking,
    seed: int,
    setup: Mapping[str, Any],
    settings: Settings | None = None,
) -> Cell:
    """The cell of a method, a way of asking and a seed; settings None: the reported ones."""
    if settings is None:
        settings = preset.reported_settings(method)
    merged = {**preset.common.get(method.name, {}), **settings}
    spec = {
        **make_shared_spec(preset), "method": method.name, "ask": ask, "seed": seed,
        "settings": merged, "votes": preset.votes, "points": method.points or preset.points,
        **setup,
    }  # fmt: skip
    return Cell(spec, preset.seconds.get(method.name, 0.0))


def order_cells(
    preset: Preset,
    methods: Sequence[tuple[Method, Asking]],
    seeds: Sequence[int],
    setup: Mapping[str, Any],
) -> list[Cell]:
    """All cells in order: batch votes then pair votes on the first three seeds, then the rest."""
    return [
        make_cell(preset, method, ask, seed, setup)
        for some in (seeds[:3], seeds[3:])
        for asking in ("batch", "pair")
        for seed in some
        for method, ask in methods
        if ask == asking
    ]


def read_records(
    store: CellStore, wanted: Sequence[Cell]
) -> dict[MethodKey, list[dict[str, Any]]]:
    """The records of finished cells by (method, ask), ordered by seed."""
    found: dict[MethodKey, list[dict[str, Any]]] = {}
    for one in wanted:
        record = store.read(one)
        if record is not None:
            found.setdefault(one.kind, []).append(record)
    return {key: sorted(each, key=lambda r: r["asked"]["seed"]) for key, each in found.items()}
