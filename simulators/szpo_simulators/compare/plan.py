"""The plan of a comparison: its cells in their order, and a bar while they are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from szpo.errors import RunError, UsageError
from szpo_simulators.compare import cells
from szpo_simulators.compare.cell import VERSION
from szpo_simulators.compare.cells import Cell, Place, Step
from szpo_simulators.compare.presets import Asking, Method, Preset, Settings
from szpo_simulators.compare.summary import ArmKey
from szpo_simulators.study import Study


def shared(preset: Preset) -> dict[str, Any]:
    """What all cells of a preset are asked alike."""
    return {
        "version": VERSION, "run": preset.run, "reward": preset.reward, "panel": preset.panel,
        "D": preset.D, "prompts": preset.prompts, "samples": preset.samples,
        "sets": list(preset.sets),
    }  # fmt: skip


def ground(study: Study, place: Place, preset: Preset, collect: bool = False) -> dict[str, Any]:
    """What all cells share beyond the preset: β of the panels and the base's measurement.

    Raises:
        UsageError: only finished cells are wanted, and there are none.
        RunError: it could not be found.
    """
    cell = Cell({**shared(preset), "method": "base", "ask": "both", "seed": 0})
    found = place.found(cell)
    if found is None and collect:
        raise UsageError(
            f"compare: nothing is finished in {place.folder}; leave out --collect to begin"
        )
    if found is None:
        study.console.print("the base model: fitting the panel, measuring before any vote")
        failures = cells.work(place, [cell], tell=lambda step: None)
        found = place.found(cell)
        if failures or found is None:
            raise RunError(f"compare: {failures[0] if failures else 'the base was not measured'}")
    for name, fitted in found["panel"].items():
        rows = preset.D if name == "batch" else 1
        study.console.print(
            f"{preset.panel} on {rows} rows: beta {fitted['beta']:.4g}, agreement "
            f"{fitted['agreement']:.3f}, zero share {fitted['zero_share']:.3f}"
        )
    beta = {name: fitted["beta"] for name, fitted in found["panel"].items()}
    return {"base": cell.name, "beta": beta}


def cell(
    preset: Preset,
    method: Method,
    ask: Asking,
    seed: int,
    start: Mapping[str, Any],
    settings: Settings | None = None,
) -> Cell:
    """One method under one way of asking with one seed, at its chosen settings or at others."""
    if settings is None:
        settings = preset.settled(method)
    told = {**preset.common.get(method.name, {}), **settings}
    spec = {
        **shared(preset), "method": method.name, "ask": ask, "seed": seed, "settings": told,
        "votes": preset.votes, "points": method.points or preset.points, **start,
    }  # fmt: skip
    return Cell(spec, preset.seconds.get(method.name, 0.0))


def order(
    preset: Preset,
    arms: Sequence[tuple[Method, Asking]],
    seeds: Sequence[int],
    start: Mapping[str, Any],
) -> list[Cell]:
    """All cells, the most telling first: three seeds of batch votes, of pair votes, the rest."""
    few, rest = seeds[:3], seeds[3:]
    batches = [arm for arm in arms if arm[1] == "batch"]
    pairs = [arm for arm in arms if arm[1] == "pair"]
    rounds = [(batches, few), (pairs, few), (batches, rest), (pairs, rest)]
    return [
        cell(preset, method, ask, seed, start)
        for chosen, some in rounds
        for seed in some
        for method, ask in chosen
    ]


def records(place: Place, wanted: Sequence[Cell]) -> dict[ArmKey, list[dict[str, Any]]]:
    """The finished cells by arm, ordered by seed."""
    found: dict[ArmKey, list[dict[str, Any]]] = {}
    for one in wanted:
        record = place.found(one)
        if record is not None:
            found.setdefault(one.kind, []).append(record)
    return {key: sorted(each, key=lambda r: r["asked"]["seed"]) for key, each in found.items()}


def watch(study: Study, place: Place, wanted: Sequence[Cell]) -> list[str]:
    """Do the cells with a bar, after saying how long it may take; what failed, a line each."""
    left = cells.guesses(place, wanted)
    console = study.console
    console.print(
        f"{len(wanted)} cells, {len(wanted) - len(left)} finished; about "
        f"{cells.clock(sum(left.values()))} in one process, which others may share"
    )
    bar = Progress(
        TextColumn("{task.completed:.0f}/{task.total:.0f} cells"), BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=console, transient=True,
        disable=console.quiet,
    )  # fmt: skip
    with bar:
        task = bar.add_task("cells", total=len(wanted), note="")
        finished: set[str] = set()
        quarters: dict[str, int] = {}

        def tell(step: Step) -> None:
            nonlocal left
            if step.done:
                finished.add(step.cell.name)
                guesses = cells.guesses(place, wanted)  # anew: now one more is known
                left = {name: s for name, s in guesses.items() if name not in finished}
            rest = cells.clock(sum(left.values()))
            note = f"{step.cell.name} {step.share:.0%}, about {rest} left"
            bar.update(task, completed=len(finished) + (0 if step.done else step.share), note=note)
            quarter = 5 if step.done else int(4 * step.share)
            if console.is_terminal or quarter <= quarters.get(step.cell.name, 0):
                return
            quarters[step.cell.name] = quarter
            state = "failed" if step.failed else "done" if step.done else f"{step.share:.0%}"
            console.print(
                f"{len(finished)}/{len(wanted)} {step.cell.name} {state}, about {rest} left",
                markup=False,
            )

        return cells.work(place, wanted, tell=tell)
