"""Hostile members in whole runs of a language model: a few seeds, each shown as a point.

Each cell is a run like those of ``szpo bench demo``: set-up, votes through the ledger, held-out
figures before and after. Runs of one seed share their set-up by the cache. Finished cells are kept
in a folder, and a cell that another process of the same folder is at is left to it: so several
processes share the work, and one that was killed leaves nothing behind that holds others up.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from szpo.errors import UsageError
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


def cell(
    model: str,
    hostile: int,
    weighting: str,
    seed: int,
    *,
    votes: int,
    folder: Path,
    sets: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """One run, or its kept record; None while another process is at it.

    Raises:
        UsageError: no such model or panel, or the record was made with other settings.
    """
    kinds = {0: "bt70", **{count: name for name, count in panel.HOSTILE.items()}}
    if model not in PRESETS or hostile not in kinds:
        raise UsageError(
            f"bench hostile: no runs of {model!r} with {hostile} hostile members; models are "
            f"{', '.join(PRESETS)}, members {', '.join(map(str, sorted(kinds)))}"
        )
    tag = f"{model}-{hostile}-{weighting}"
    changes = [
        f"panel.kind={kinds[hostile]}",
        f"panel.size={SIZE}",
        f"run.votes={votes}",
        f"optimizer.weighting={weighting}",
        *sets,
    ]
    with _claim(folder / f"{tag}-{seed}.lock") as ours:
        if not ours:
            return None
        return demo.run_seed(
            seed, REWARD, folder=folder, sets=changes, preset=PRESETS[model], tag=tag, say=say
        )


def cells(
    model: str,
    members: Sequence[int],
    seeds: Sequence[int],
    *,
    votes: int,
    folder: Path,
    sets: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[Cells, int]:
    """All cells that are finished when this process has no more to do; how many others are at.

    Seeds go first, so that a set-up is found once and used while it is fresh in the cache.
    """
    found: dict[tuple[int, str, int], Mapping[str, Any]] = {}
    elsewhere = 0
    for seed, hostile, weighting in product(seeds, members, WEIGHTINGS):
        say(f"{model}, seed {seed}, {hostile} hostile of {SIZE}, {weighting}")
        record = cell(
            model, hostile, weighting, seed, votes=votes, folder=folder, sets=sets, say=say
        )
        gc.collect()  # a model lies in reference cycles: else one more would stay each time
        if record is None:
            say("another process is at it")
            elsewhere += 1
        else:
            found[hostile, weighting, seed] = record
    return found, elsewhere


def summary(found: Cells) -> list[dict[str, Any]]:
    """Per number of hostile members: gains by seed, skill − equal, and what of honest is kept.

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


def table(model: str, votes: int, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per weighting: each seed's gain as a point, their mean, the share kept."""
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    view = Table(
        title=f"{model}: held-out gain in {REWARD} after {votes} votes, P = {SIZE}, by seed"
    )
    for head in ("hostile", "weighting", *map(str, seeds), "mean", "keeps"):
        view.add_column(head, justify="right")
    for row in rows:
        paired = [b - a for a, b in zip(row["equal"], row["skill"], strict=True)]
        _, low, high = row["difference"]
        around = "" if low is None else f" \\[{low:+.3f}, {high:+.3f}]"
        for name, values, told, share in (
            ("equal", row["equal"], "", row["kept_equal"]),
            ("skill", row["skill"], "", row["kept_skill"]),
            ("skill − equal", paired, around, None),
        ):
            at = dict(zip(row["seeds"], values, strict=True))
            view.add_row(
                str(row["hostile"]), name,
                *(f"{at[seed]:+.3f}" if seed in at else "–" for seed in seeds),
                f"{sum(values) / len(values):+.3f}{told}",
                "" if share is None else f"{share:.0%}",
            )  # fmt: skip
    return view


@contextlib.contextmanager
def _claim(lock: Path) -> Iterator[bool]:
    """Whether this process has the cell; the system lets go of it when the process ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
