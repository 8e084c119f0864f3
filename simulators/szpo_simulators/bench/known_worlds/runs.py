"""One cell of the benches of known worlds: from settings as plain values to final values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from szpo.optim.directions import Law
from szpo.optim.settings import Adam
from szpo_simulators.study import Search, Study, interval
from szpo_simulators.worlds import repetitions as batched
from szpo_simulators.worlds.bandit import Bandit
from szpo_simulators.worlds.courier import COURIER
from szpo_simulators.worlds.gridworld import DENSE, ERRAND, SPARSE, GridWorld
from szpo_simulators.worlds.oracle import LinkPanel
from szpo_simulators.worlds.subspace import Subspace
from szpo_simulators.worlds.world import World

WORLDS: Final[Mapping[str, GridWorld | Bandit]] = {
    "dense": DENSE,
    "sparse": SPARSE,
    "errand": ERRAND,
    "courier": COURIER,
    "bandit": Bandit(),
}
GRIDS: Final[Mapping[str, tuple[float, ...]]] = {
    "known": (0.1, 0.3, 1.0, 3.0, 10.0),
    "margin": (0.05, 0.15, 0.5, 1.5, 5.0),
    "sign": (0.02, 0.06, 0.2, 0.6, 2.0),
    "bayes": (0.02, 0.06, 0.2, 0.6, 2.0),
    "regression": (0.004, 0.015, 0.06, 0.25, 1.0),
}
"""Step sizes α to choose from, by rule; a bench says so where the choice stands at an edge.

Those of ``regression`` are nats per vote (`szpo_simulators.worlds.repetitions.settings_for`)."""
VERSION: Final = 2
"""Of what a cell's spec means; raise it when that changes."""
WALKS: Final = 8192
"""Walks that are made together, as many as fit a cache."""
HERE: Final = ("world", "subspace", "law", "panel", "beta", "crn", "truth", "steps", "marks")
LABELS: Final = ("label", "seeds", "part")
"""All other keys of a spec are fields of `szpo.optim.settings.Settings`."""


def make_spec(**changes: Any) -> dict[str, Any]:
    """A spec: the default grid, 300 steps, N = 16, M = D = K = 1, μ = 1, with these changes."""
    return {
        "world": "dense", "steps": 300, "rule": "known", "N": 16, "M": 1, "D": 1, "K": 1,
        "mu": 1.0, "pairing": "antithetic", "crn": False, "panel": "logistic", "beta": 1.0,
        **changes,
    }  # fmt: skip


def step_sizes(spec: Mapping[str, Any]) -> Sequence[float]:
    """The step sizes to try for a row."""
    return GRIDS[spec["rule"]]


def tune(
    study: Study,
    label: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    repetitions: int = 40,
    grid: Callable[[Mapping[str, Any]], Sequence[float]] = step_sizes,
) -> list[dict[str, Any]]:
    """`Study.tune` over α; quick: a quarter of the steps, 3 tuning and 8 reported seeds."""
    if not study.quick:
        return study.tune(
            label, rows, work, Search(grid), repetitions=repetitions, version=VERSION
        )
    short = [{**row, "steps": max(row["steps"] // 4, 20)} for row in rows]
    return study.tune(label, short, work, Search(grid, trials=3), repetitions=8, version=VERSION)


def make_world(spec: Mapping[str, Any]) -> World:
    """The world of a row, seen through a subspace where it names one."""
    whole = WORLDS[spec["world"]]
    return Subspace(whole, spec["subspace"]) if spec.get("subspace") else whole


def make_law(name: str) -> Law:
    """``gaussian`` (|v| = √d), ``plain`` (not normalised), ``orthonormal`` or ``block:B``."""
    kind, _, size = name.partition(":")
    if kind == "orthonormal":
        return Law("orthonormal")
    return Law("block", int(size)) if kind == "block" else Law(normalise=kind != "plain")


def work(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Run a row's seeds: ``values`` at the end, ``curve`` of means at ``marks``, budgets.

    ``votes``, ``answers`` (walks read by voters) and ``walks`` are those of the whole run.
    """
    world = make_world(spec)
    fields = {k: v for k, v in spec.items() if k not in (*HERE, *LABELS)}
    if fields.pop("adam", False):
        fields["adam"] = Adam()
    if "law" in spec:
        fields["law"] = make_law(spec["law"])
    chosen = batched.settings_for(world, **fields)
    steps = spec["steps"]
    marks = spec.get("marks") or space_marks(steps)
    runs = batched.train(
        world, chosen, spec["seeds"], steps, panel=LinkPanel(spec["panel"], spec["beta"]),
        crn=spec["crn"], truth=spec.get("truth", False), marks=marks,
        batching=batched.Batching(max(25, WALKS // (spec["N"] * spec["D"]))),
    )  # fmt: skip
    return {
        "values": runs.final.tolist(),
        "marks": list(runs.marks),
        "curve": [interval(values) for values in runs.curve.T.tolist()],
        "votes": runs.votes * steps,
        "answers": runs.answers * steps,
        "walks": runs.walks * steps,
    }


def space_marks(steps: int, count: int = 12) -> list[int]:
    """Steps at which the value is measured, closer together at the start.

    >>> space_marks(300, 4)
    [19, 75, 169, 300]
    """
    return sorted({max(1, math.ceil(steps * (i / count) ** 2)) for i in range(1, count + 1)})


def budget_at_marks(row: Mapping[str, Any], budget: str = "votes") -> list[float]:
    """How much of a budget (``votes`` or ``answers``) a row had spent at its marks."""
    return [row[budget] * mark / row["steps"] for mark in row["marks"]]


def format_alpha(row: Mapping[str, Any]) -> str:
    """The chosen step size, with a mark where it stands at an edge of its grid."""
    return f"{row['alpha']:g}{' (edge)' if row.get('edge') else ''}"
