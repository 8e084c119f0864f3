"""``szpo compare``: methods side by side on one model and panel, or runs by their own ledgers.

``--tune`` tries at most four settings per method, on seeds of their own.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from szpo.errors import UsageError
from szpo.plugins import how_to_install
from szpo_simulators.compare import ledgers, presets, schedule, show
from szpo_simulators.compare.cell_store import Cell, CellStore
from szpo_simulators.compare.presets import Asking, Method, Preset
from szpo_simulators.compare.schedule import make_cell, run_with_bar
from szpo_simulators.study import Study

command = typer.Typer(add_completion=False)
"""The entry point of `szpo.commands`."""


@command.command("compare")
def compare(
    runs: list[str] = typer.Argument(
        None, help="Runs to compare by their own files, names or paths."
    ),
    preset: str | None = typer.Option(
        None, "--preset", help="Compare methods instead: tiny or smollm2."
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
    answers read, tokens, seconds and memory. Ends with 1 where a cell failed, else with 0.
    """
    if runs and preset:
        raise UsageError("compare: give a preset or runs, not both")
    if runs:
        return ledgers.compare_runs(runs, folder, figure=figures, as_json=as_json)
    chosen, numbers = _split(methods), _read_seeds(seeds)
    if tune and (asks or numbers):
        raise UsageError("compare: --tune has seeds of its own and asks in batches; leave "
                         "--seeds and --asks out")  # fmt: skip
    if preset is None:
        raise UsageError("compare: give --preset tiny or smollm2, or two runs or more")
    found_preset = presets.find_preset(preset)
    wanted_methods = presets.select_methods(found_preset, chosen, _split(asks))
    every_seed = numbers or found_preset.seeds
    if mixed := sorted(set(every_seed) & set(found_preset.tuning)):
        raise UsageError(f"compare: settings were chosen on seed {mixed[0]}; take others")
    study = Study("compare", folder or Path("runs/compare") / found_preset.name, figures=figures)
    study.console.quiet = as_json
    if not collect:
        demand_modules(method for method, _ in wanted_methods)
    store = CellStore(study.folder)
    setup = schedule.prepare_shared_setup(study, store, found_preset, collect)
    if tune:
        found, failures = run_trials(study, store, found_preset, wanted_methods, setup, collect)
    else:
        wanted = schedule.order_cells(found_preset, wanted_methods, every_seed, setup)
        failures = [] if collect else schedule.run_with_bar(study, store, wanted)
        found = show.show_results(study, found_preset, schedule.read_records(store, wanted))
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    if as_json:
        print(json.dumps({**found, "failed": failures}, indent=1))
    return 1 if failures else 0


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    """The names in texts that hold one or several, separated by commas; each once.

    >>> _split(["szpo,dpo", "ppo"])
    ('szpo', 'dpo', 'ppo')
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def _read_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    found = _split(texts)
    if wrong := [text for text in found if not text.isdecimal()]:
        raise UsageError(f"compare: --seeds {wrong[0]} is no seed; give whole numbers from 0")
    return tuple(map(int, found))


def demand_modules(methods: Iterable[Method]) -> None:
    """Refuse before the start methods whose modules are not installed.

    Raises:
        UsageError: names the modules and the extra that brings them.
    """
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
) -> list[tuple[Method, int, Cell]]:
    """(method, trial, cell): each trial on each tuning seed, of methods that have several."""
    several = {m.name: m for m, _ in methods if len(preset.trials_of(m)) > 1}
    return [
        (method, i, make_cell(preset, method, "batch", seed, setup, settings))
        for method in several.values()
        for i, settings in enumerate(preset.trials_of(method))
        for seed in preset.tuning
    ]


def run_trials(
    study: Study,
    store: CellStore,
    preset: Preset,
    methods: Sequence[tuple[Method, Asking]],
    setup: Mapping[str, Any],
    collect: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Run the trials and print them; the best mean final gain wins, a stopped run counts as 0."""
    trials = list_trials(preset, methods, setup)
    failures = [] if collect else run_with_bar(study, store, [one for _, _, one in trials])
    gains: dict[tuple[str, int], list[float]] = {}
    for method, i, one in trials:
        record = store.read(one)
        if record is not None:
            last = record["course"][-1]["gain"]
            gains.setdefault((method.name, i), []).append(0.0 if record["stopped"] else last)
    by_name = {method.name: method for method, _, _ in trials}
    rows = []
    for (name, i), each in gains.items():
        scores = {j: np.mean(gains[name, j]) for n, j in gains if n == name}
        settings = preset.trials_of(by_name[name])[i]
        rows.append(
            {"method": name, "trial": i, "settings": json.dumps(settings),
             "gains": each, "mean": float(np.mean(each)),
             "best": i == max(scores, key=lambda j: scores[j]),
             "chosen": settings == preset.reported_settings(by_name[name])}
        )  # fmt: skip
    study.table(
        f"{preset.name}: trials on seeds {', '.join(map(str, preset.tuning))}, batch votes",
        rows,
        {"method": "method", "trial": "trial", "settings": "settings",
         "gains": lambda row: " ".join(f"{gain:+.3f}" for gain in row["gains"]),
         "mean": lambda row: f"{row['mean']:+.3f}",
         "": lambda row: " ".join(word for word in ("best", "chosen") if row[word])},
    )  # fmt: skip
    study.csv(f"trials-{preset.name}", rows)
    return {"preset": preset.name, "trials": rows}, failures
