"""The cells of a comparison in order: their specs, their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from szpo.errors import RunError, UsageError
from szpo_simulators.compare import cell_store
from szpo_simulators.compare.cell_process import VERSION
from szpo_simulators.compare.cell_store import Cell, CellStore
from szpo_simulators.compare.presets import Asking, Method, Preset, Settings
from szpo_simulators.compare.summary import MethodKey
from szpo_simulators.study import Study


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
    """Run the cell ``base`` unless it is finished; its name and the β of the panels.

    Args:
        study: Where the lines go.
        store: The cells' folder.
        preset: What is compared.
        collect: Run nothing.

    Raises:
        UsageError: nothing is to be run, and the cell is not finished.
        RunError: the cell failed.
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
    """A method under one way of asking with one seed, at its reported settings or at others."""
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
    """All cells, most informative first: three seeds of batch votes, of pair votes, the rest."""
    few, rest = seeds[:3], seeds[3:]
    batches = [one for one in methods if one[1] == "batch"]
    pairs = [one for one in methods if one[1] == "pair"]
    rounds = [(batches, few), (pairs, few), (batches, rest), (pairs, rest)]
    return [
        make_cell(preset, method, ask, seed, setup)
        for selected, some in rounds
        for seed in some
        for method, ask in selected
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
