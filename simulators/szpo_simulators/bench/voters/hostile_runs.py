"""Hostile members in whole runs of a language model: a few seeds, each shown as a point.

Each cell is a run like those of ``szpo bench demo``: set-up, votes through the ledger, held-out
figures before and after. Runs of one seed share their set-up by the cache. Finished cells are
stored in a folder, and a cell that another process of the same folder has claimed is left to it:
so several processes share the work, and a killed one blocks nobody.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from szpo.errors import UsageError
from szpo_simulators import study
from szpo_simulators.bench.language import demo
from szpo_simulators.panels import panel
from szpo_simulators.rewards import heldout

PRESETS: Final = {"smollm2": "demo", "tiny": "tiny"}
"""The preset that tunes a model."""
WEIGHTINGS: Final = ("equal", "skill")
REWARD: Final = "sentiment"
SIZE: Final = 7
"""Members of the panel."""

Cells = Mapping[tuple[int, str, int], Mapping[str, Any]]
"""(hostile members, weighting, seed) → the record of a finished run."""


@dataclass(frozen=True)
class ModelRuns:
    """Runs of one language model that differ in hostile members, weighting and seed."""

    model: str
    votes: int
    folder: Path
    sets: Sequence[str] = ()
    """Further settings as section.key=value."""


def run_cell(
    runs: ModelRuns,
    hostile: int,
    weighting: str,
    seed: int,
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Run one cell or read its stored record; None while another process has claimed it.

    Raises:
        UsageError: no such model or panel, or the record was made with other settings.
    """
    kinds = {0: "bt70", **{count: name for name, count in panel.HOSTILE.items()}}
    if runs.model not in PRESETS or hostile not in kinds:
        raise UsageError(
            f"bench hostile: no runs of {runs.model!r} with {hostile} hostile members; models are "
            f"{', '.join(PRESETS)}, members {', '.join(map(str, sorted(kinds)))}"
        )
    tag = f"{runs.model}-{hostile}-{weighting}"
    changes = [
        f"panel.kind={kinds[hostile]}",
        f"panel.size={SIZE}",
        f"run.votes={runs.votes}",
        "optimizer.rule=regression",
        f"optimizer.weighting={weighting}",
        *runs.sets,
    ]
    with study.claim(runs.folder / f"{tag}-{seed}.lock") as ours:
        if not ours:
            return None
        series = demo.SeedRuns(runs.folder, REWARD, changes, PRESETS[runs.model], tag)
        return demo.run_seed(seed, series, say)


def run_cells(
    runs: ModelRuns,
    members: Sequence[int],
    seeds: Sequence[int],
    say: Callable[[str], None] = print,
) -> tuple[Cells, int]:
    """Run all cells that nobody has claimed; the finished ones, and the number of claimed ones.

    The outer loop is over seeds, so that a set-up is computed once and is still in the cache.
    """
    found: dict[tuple[int, str, int], Mapping[str, Any]] = {}
    elsewhere = 0
    for seed, hostile, weighting in product(seeds, members, WEIGHTINGS):
        say(f"{runs.model}, seed {seed}, {hostile} hostile of {SIZE}, {weighting}")
        record = run_cell(runs, hostile, weighting, seed, say)
        gc.collect()  # a model lies in reference cycles: else one more would stay each time
        if record is None:
            say("another process is at it")
            elsewhere += 1
        else:
            found[hostile, weighting, seed] = record
    return found, elsewhere


def summarise(found: Cells) -> list[dict[str, Any]]:
    """Per number of hostile members: gains by seed, skill − equal, share of the honest gain.

    Only seeds that every cell of a row has; means with 95 % Student intervals over them.
    """
    members = sorted({hostile for hostile, _, _ in found})
    gains = {key: float(record["gain"]) for key, record in found.items()}
    rows = []
    for hostile in members:
        seeds = [
            seed
            for seed in sorted({seed for _, _, seed in found})
            if all((hostile, weighting, seed) in found for weighting in WEIGHTINGS)
        ]
        if not seeds:
            continue
        equal, skill = ([gains[hostile, weighting, s] for s in seeds] for weighting in WEIGHTINGS)
        paired = heldout.student([b - a for a, b in zip(equal, skill, strict=True)])
        honest = [gains[0, "equal", s] for s in seeds if (0, "equal", s) in gains]
        whole = sum(honest) if len(honest) == len(seeds) else 0.0
        rows.append(
            {
                "hostile": hostile,
                "seeds": seeds,
                "equal": equal,
                "skill": skill,
                "difference": list(paired) if len(seeds) > 1 else [paired[0], None, None],
                "kept_equal": sum(equal) / whole if whole > 0 else None,
                "kept_skill": sum(skill) / whole if whole > 0 else None,
                "votes": [found[hostile, w, s]["votes"] for w in WEIGHTINGS for s in seeds],
            }
        )
    return rows


def make_table(runs: ModelRuns, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per weighting: each seed's gain, their mean, its share of the honest gain."""
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    gain = f"held-out gain in {REWARD} after {runs.votes} votes"
    view = Table(title=f"{runs.model}: {gain}, P = {SIZE}, by seed")
    for head in ("hostile", "weighting", *map(str, seeds), "mean", "keeps"):
        view.add_column(head, justify="right")
    for row in rows:
        paired = [b - a for a, b in zip(row["equal"], row["skill"], strict=True)]
        _, low, high = row["difference"]
        around = "" if low is None else f" \\[{low:+.3f}, {high:+.3f}]"
        for name, values, interval, share in (
            ("equal", row["equal"], "", row["kept_equal"]),
            ("skill", row["skill"], "", row["kept_skill"]),
            ("skill − equal", paired, around, None),
        ):
            at = dict(zip(row["seeds"], values, strict=True))
            view.add_row(
                str(row["hostile"]), name,
                *(f"{at[seed]:+.3f}" if seed in at else "–" for seed in seeds),
                f"{sum(values) / len(values):+.3f}{interval}",
                "" if share is None else f"{share:.0%}",
            )  # fmt: skip
    return view
