"""``szpo compare``: methods side by side on one model and panel, or runs by their own ledgers."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from szpo.errors import UsageError
from szpo_simulators.compare import ledgers, presets, schedule, show, tuning
from szpo_simulators.compare.cell_store import CellStore
from szpo_simulators.compare.presets import Method
from szpo_simulators.study import Study


def command(arguments: Sequence[str]) -> int:
    """The entry point of `szpo.commands`: 0 where all cells were done, 1 where one failed."""
    chosen = _parser().parse_args(list(arguments))
    if chosen.runs and chosen.preset:
        raise UsageError("compare: give a preset or runs, not both")
    if chosen.runs:
        return ledgers.compare_runs(
            chosen.runs, chosen.folder, figure=chosen.figures, as_json=chosen.json
        )
    if chosen.tune and (chosen.asks or chosen.seeds):
        raise UsageError("compare: --tune has seeds of its own and asks in batches; leave "
                         "--seeds and --asks out")  # fmt: skip
    if chosen.preset is None:
        raise UsageError("compare: give --preset tiny or smollm2, or two runs or more")
    preset = presets.find_preset(chosen.preset)
    methods = presets.select_methods(preset, chosen.methods, chosen.asks)
    seeds = tuple(dict.fromkeys(chosen.seeds)) or preset.seeds
    if mixed := sorted(set(seeds) & set(preset.tuning)):
        raise UsageError(f"compare: settings were chosen on seed {mixed[0]}; take others")
    study = Study(
        "compare", chosen.folder or Path("runs/compare") / preset.name, figures=chosen.figures
    )
    study.console.quiet = chosen.json
    if not chosen.collect:
        demand_modules(method for method, _ in methods)
    store = CellStore(study.folder)
    setup = schedule.prepare_shared_setup(study, store, preset, chosen.collect)
    if chosen.tune:
        found, failures = tuning.tune(study, store, preset, methods, setup, chosen.collect)
    else:
        wanted = schedule.order_cells(preset, methods, seeds, setup)
        failures = [] if chosen.collect else schedule.run_with_bar(study, store, wanted)
        found = show.show_results(study, preset, schedule.read_records(store, wanted))
    for line in failures:
        study.console.print(f"failed: {line}", markup=False)
    if chosen.json:
        print(json.dumps({**found, "failed": failures}, indent=1))
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="szpo compare",
        description="Compare methods on the same model, prompts and simulated panel, by votes, "
        "answers read, tokens, seconds and memory; or compare runs by their ledgers.",
    )
    add = parser.add_argument
    add("runs", nargs="*", help="runs to compare by their own files, names or paths")
    add("--preset", help="tiny or smollm2: what is compared")
    add("--methods", nargs="+", default=(), help="only these methods")
    add("--asks", nargs="+", default=(), help="only these ways of asking: batch, pair")
    add("--seeds", nargs="+", type=int, default=(), help="these seeds instead of the preset's")
    add("--folder", type=Path, help="where cells, tables and figures are stored; for ledgers: "
        "where runs are looked for")  # fmt: skip
    add("--figures", type=Path, help="where the figures go as well")
    add("--tune", action="store_true", help="run the tuning trials instead, on their own seeds")
    add("--collect", action="store_true", help="run nothing; show what is finished")
    add("--json", action="store_true", help="print one JSON document")
    return parser


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
            "pip install 'szpo[baselines]', or leave them out with --methods"
        )
