"""`szpo bench gridworld`: SZPO against reward models, DPO and methods with the true reward.

Runs one cell of a contest between methods: from a method and its settings to exact values. A spec
has plain values: ``method`` (szpo, rm-ppo, rm-plan, dpo, reinforce, ppo, es), the world, a budget
of votes on batches of ``D`` walks, the panel's ``sharpness``, and the method's settings. All
methods have the same worlds, panel and root seeds.

Planning on a learned reward is an upper bound for any PPO on that reward: the plan may depend on
time and uses the exact transitions, so no method that samples can do better on the learned
reward.

There are two worlds. On the dense default grid the true reward depends on the cell, so a reward
model is well specified; the courier's return is not a sum over cells or moves. ``--frozen`` runs
the courier, with settings that were frozen before they were run on unused seeds, and three ways to
ask, each with the panel bt70 fitted for it: one vote per pair of walks, one per pair of batches of
eight walks, and eight pair votes for each batch vote, so that as many walks are read.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo.drawing import COLOURS, MARKS
from szpo.errors import UsageError
from szpo.types import Floats
from szpo_simulators.bench_study import (
    Study,
    draw_course,
    draw_curve,
    format_interval,
    interval,
    seed_range,
)
from szpo_simulators.worlds import gridworld, rivals
from szpo_simulators.worlds.gridworld import Courier, GridWorld
from szpo_simulators.worlds.rivals import Curve, trace_walks
from szpo_simulators.worlds.world import settings_for
from szpo_simulators.worlds.world import train as train_szpo

WORLDS: Final[Mapping[str, GridWorld]] = {"dense": GridWorld(), "courier": Courier()}
BLOCK: Final = 10
"""Repetitions of a rival that are computed together, few enough for their walks to fit in memory.

The fit of a reward model stops when the whole block has converged. So its last digits, and after
many rounds the walks, depend on this number; nothing else does.
"""
CURVE_MARKS: Final = 20
"""Points of a curve."""

Settings = dict[str, Any]

OURS: Final = "SZPO, known"
RIVALS: Final = (
    "reward model + PPO, once", "reward model + PPO, again and again", "DPO", "online DPO",
)  # fmt: skip
REFERENCE: Final = "reward model of the whole state + PPO"
"""Its features include whether the bag is full, which the rivals' lack; not part of the claim."""
DRAWN: Final = (OURS, *RIVALS, REFERENCE)
DASHES: Final = ("-", "--", ":")
"""Line styles of the ways to ask, in the file's order."""
COLUMNS: Final[Mapping[str, Any]] = {
    "method": "name",
    "asked": "way",
    "votes": lambda row: row["votes"][-1],
    "walks read": lambda row: row["answers"][-1],
    "value": format_interval,
    "chosen": lambda row: ", ".join(f"{name} {value}" for name, value in row["chosen"].items()),
}
WAYS: Final = (("pair votes", 4800, 1), ("batch votes", 1200, 4))
"""(name, votes, D): one vote per pair of walks or per pair of batches of four; equal reading."""
GRIDS: Final[Mapping[str, tuple[dict[str, Any], dict[str, list[Any]]]]] = {
    "SZPO, known": (
        {"method": "szpo", "rule": "known"}, {"N": [8, 16], "alpha": [0.3, 1.0, 3.0]},
    ),
    "SZPO, known, one-sided": (
        {"method": "szpo", "rule": "known", "pairing": "forward", "N": 16},
        {"mu": [1.0, 2.0], "alpha": [0.3, 1.0, 3.0]},
    ),
    "SZPO, sign": (
        {"method": "szpo", "rule": "sign"}, {"N": [8, 16], "alpha": [0.06, 0.2, 0.6]},
    ),
    "SZPO, sign, one-sided": (
        {"method": "szpo", "rule": "sign", "pairing": "forward", "N": 16},
        {"mu": [1.0, 2.0], "alpha": [0.06, 0.2, 0.6]},
    ),
    "reward model + planning": (
        {"method": "rm-plan"}, {"ridge": [0.0003, 0.001, 0.002, 0.005, 0.01, 0.03]},
    ),
    "reward model + PPO": (
        {"method": "rm-ppo", "kind": "cells"},
        {"batches": [20, 60], "ridge": [0.001, 0.005, 0.02]},
    ),
    "DPO": (
        {"method": "dpo", "rounds": 1, "rate": 0.05},
        {"beta": [0.03, 0.1, 0.3], "epochs": [30, 100]},
    ),
    "online DPO": (
        {"method": "dpo", "beta": 0.3}, {"rounds": [50, 150], "rate": [0.03, 0.1, 0.3]},
    ),
}  # fmt: skip
TRUE: Final[Mapping[str, tuple[dict[str, Any], dict[str, list[Any]]]]] = {
    "REINFORCE, true reward": (
        {"method": "reinforce"}, {"walks": [32, 64], "rate": [0.03, 0.1, 0.3]},
    ),
    "PPO, true reward": ({"method": "ppo"}, {"walks": [32, 64], "rate": [0.03, 0.1, 0.3]}),
    "evolution strategies, true return": (
        {"method": "es", "walkers": 32}, {"spread": [0.5, 1.0], "alpha": [0.3, 1.0, 3.0]},
    ),
}  # fmt: skip
"""Reference methods without votes: they learn from each walk's true return."""
PUBLISHED: Final[Mapping[str, dict[str, Any]]] = {
    "known, as published": {"rule": "known", "alpha": 0.3},
    "sign, as published": {"rule": "sign", "alpha": 0.2},
}
"""θ against θ + μv, v ~ N(0, I), N = 8, M = 5, D = 1, without common random numbers."""
MODELS: Final = (100, 300, 1000, 4800, 19200)
"""Numbers of votes to which the planner's reward models are fitted."""
PLANNER: Final = "reward model + planning"
LOOKS: Final = {
    "SZPO, known": ("#0072b2", "o"),
    "SZPO, sign": ("#56b4e9", "P"),
    "online DPO": ("#d55e00", "s"),
    "DPO": ("#e69f00", "v"),
    "reward model + PPO": ("#009e73", "D"),
    "REINFORCE, true reward": ("#000000", ""),
    "PPO, true reward": ("#666666", ""),
    "evolution strategies, true return": ("#aaaaaa", ""),
}
"""Colour and mark of each method that is drawn."""


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Every combination of a grid's values; the last name varies fastest.

    >>> combinations({"a": [1, 2], "b": [3, 4]})
    [{'a': 1, 'b': 3}, {'a': 1, 'b': 4}, {'a': 2, 'b': 3}, {'a': 2, 'b': 4}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def work(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Run a cell: final ``values``, and a ``curve`` of means over ``votes`` and ``answers``."""
    plain = {k: v for k, v in spec.items() if k != "seeds"}
    used = spec["seeds"]
    block = len(used) if spec["method"] == "szpo" else BLOCK
    blocks = [run_method(plain, used[i : i + block]) for i in range(0, len(used), block)]
    values = np.concatenate([block.values for block in blocks])
    return {
        "values": values[:, -1].tolist(),
        "votes": list(blocks[0].votes),
        "answers": list(blocks[0].answers),
        "curve": [interval(column) for column in values.T.tolist()],
    }


def run_method(spec: Settings, root_seeds: Sequence[int]) -> Curve:
    """The curve of some repetitions of a method on a world."""
    rest = dict(spec)
    method, world = rest.pop("method"), WORLDS[rest.pop("world")]
    budget, D = rest.pop("budget"), rest.pop("D", 1)
    sharpness = rest.pop("sharpness", 1.0)
    if method == "szpo":
        return _szpo(world, root_seeds, budget, D, sharpness, rest)
    if method == "dpo":
        return rivals.train_dpo(world, root_seeds, budget, rows=D, sharpness=sharpness, **rest)
    if method == "rm-ppo":
        ours = {k: rest.pop(k) for k in ("kind", "rounds", "ridge") if k in rest}
        practice = rivals.PpoRecipe(**rest)
        return rivals.train_rlhf(
            world, root_seeds, budget, practice, rows=D, sharpness=sharpness, **ours
        )
    if method == "rm-plan":
        return _train_and_plan(world, root_seeds, budget, D, sharpness, **rest)
    # Reference methods, which learn from the true reward of ``budget`` walks.
    each = rest["walkers" if method == "es" else "walks"]
    if method == "ppo":
        theta = np.tile(world.theta0, (len(root_seeds), 1))
        reward = partial(gridworld.true_rewards, world)
        thetas = rivals.improve_policy(world, theta, reward, root_seeds, rivals.PpoRecipe(**rest))
    else:
        train: Any = rivals.evolve if method == "es" else rivals.reinforce
        thetas = train(world, root_seeds, **rest)
    return trace_walks(world, thetas, space_marks(budget // each), each)


def space_marks(steps: int) -> list[int]:
    """At most `CURVE_MARKS` evenly spaced steps; the last one is ``steps``."""
    return sorted({max(1, round(steps * i / CURVE_MARKS)) for i in range(1, CURVE_MARKS + 1)})


def _szpo(
    world: GridWorld, root_seeds: Sequence[int], budget: int, D: int, sharpness: float,
    rest: Settings,
) -> Curve:  # fmt: skip
    plain = rest.pop("plain", False)  # as published: v not normalised, no common random numbers
    law = {"law": "gaussian"} if plain else {}
    how = settings_for(world, D=D, **law, **rest)
    steps = budget // (how.section.K * how.section.N * how.section.M)
    runs = train_szpo(
        world,
        how,
        list(root_seeds),
        steps,
        sharpness=sharpness,
        crn=not plain,
        marks=space_marks(steps),
    )
    votes, answers = (tuple(n * mark for mark in runs.marks) for n in (runs.votes, runs.answers))
    return Curve(runs.curve, votes, answers)


def _train_and_plan(
    world: GridWorld, root_seeds: Sequence[int], budget: int, D: int, sharpness: float,
    ridge: float,
) -> Curve:  # fmt: skip
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    x, won = gridworld.ask(
        world, theta, root_seeds, 0, budget, kind="cells", rows=D, sharpness=sharpness
    )
    w = rivals.fit_reward(x, won, ridge)
    return Curve(value(world, w)[:, None], (budget,), (2 * D * budget,))


def value(world: GridWorld, w: Floats) -> Floats:
    """True value (S,) of the plans that are best for rewards w (S, cells) on arrival.

    Backward induction chooses moves by w and computes their true reward as well. Among equally
    good moves it takes the first.
    """
    runs = len(w)
    believed = np.zeros((runs, world.sets * world.cells))
    true = np.zeros_like(believed)
    reward = np.tile(w, (1, world.sets))
    for _ in range(world.horizon):
        hope = _slipping(world, (reward + believed)[:, world.landing])
        fact = _slipping(world, (world.arrival + true)[:, world.landing])
        # Like w, the plan sees only cell and time: it is the same in all sets of a cell.
        best = hope.argmax(-1)[..., None]
        believed = np.take_along_axis(hope, best, -1)[..., 0]
        true = np.take_along_axis(fact, best, -1)[..., 0]
    return np.asarray(true[:, 0])


def _slipping(world: GridWorld, after: Floats) -> Floats:
    """Expected values (S, states, 4) of chosen moves, from those of executed moves."""
    stays = (1 - world.slip) * after
    return np.asarray(stays + world.slip * after.mean(-1, keepdims=True))


def run_contest(study: Study, frozen: Path) -> list[dict[str, Any]]:
    """Run the methods of a frozen file on its seeds and show the results."""
    used, tuned = read_frozen(frozen)
    if study.quick:
        used = used[:6]
    specs = [{**row["fixed"], **row["chosen"], "seeds": used} for row in tuned]
    names = [{name: one[name] for name in ("name", "way", "chosen")} for one in tuned]
    rows = _run_cells(study, "the claim", specs, names)
    _show_contest(study, rows, used)
    return rows


def _run_cells(
    study: Study, label: str, specs: Sequence[Mapping[str, Any]], names: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The cells' results with intervals over their seeds; ``names`` adds fields to each."""
    found = study.cells(label, specs, work)
    return [
        {**row, **interval(row["values"]), **one} for row, one in zip(found, names, strict=True)
    ]


def read_frozen(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """The seeds and the methods of a frozen file."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
        first, last = body["seeds"]
        methods = [{k: row[k] for k in ("name", "way", "fixed", "chosen", "tried")}
                   for row in body["method"]]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--frozen {path} is not a contest like experiments/frozen/gridworld-win.toml "
            f"({getattr(error, 'strerror', None) or error})"
        ) from None
    return list(range(first, last + 1)), methods


def compare_with_rivals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """SZPO minus each rival, paired by seed, for each way to ask: mean and 95 % interval."""
    found = []
    for way in dict.fromkeys(row["way"] for row in rows):
        here = {row["name"]: np.array(row["values"]) for row in rows if row["way"] == way}
        for rival in RIVALS:
            if rival in here and OURS in here:
                apart = interval((here[OURS] - here[rival]).tolist())
                found.append({"way": way, "rival": rival, **apart})
    return found


def _show_contest(study: Study, rows: Sequence[Mapping[str, Any]], used: Sequence[int]) -> None:
    """Print the contest's table and differences; write CSV and figure."""
    study.table(
        f"courier: value 1.86 at the start; 95 % intervals over seeds {used[0]} to {used[-1]}",
        rows, COLUMNS, "gridworld-claim",
    )  # fmt: skip
    differences = compare_with_rivals(rows)
    study.table(
        f"{OURS} less each rival", differences,
        {"asked": "way", "rival": "rival", "difference": format_interval,
         "": lambda row: "above" if row["low"] > 0 else "BELOW" if row["high"] < 0 else "open"},
        "gridworld-claim-differences",
    )  # fmt: skip
    _draw_contest(study, rows)


def _draw_contest(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    ways = list(dict.fromkeys(row["way"] for row in rows))
    looks = {name: (COLOURS[i], MARKS[i]) for i, name in enumerate(DRAWN)}
    ordered = sorted(rows, key=lambda row: (DRAWN.index(row["name"]), ways.index(row["way"])))
    with study.figure("gridworld-claim", columns=min(len(ways), 2) + 1, height=4.6) as axes:
        *firsts, last = axes
        for here, way in zip(firsts, ways, strict=False):
            D = next(row["D"] for row in rows if row["way"] == way)
            sides = f"batches of {D}" if D > 1 else "walks"
            here.set(xlabel="votes", title=f"{way}: one on each two {sides}")
        last.set(xlabel="walks read", title="by what is read", xscale="log")
        for row in ordered:
            colour, mark = looks[row["name"]]
            place = ways.index(row["way"])
            style = {"color": colour, "marker": mark, "linestyle": DASHES[place]}
            if place < len(firsts):
                draw_course(firsts[place], row["votes"], row, row["name"], **style)
            draw_course(last, row["answers"], row, row["name"], **style)
        axes[0].set_ylabel("exact value: deliveries a walk")
        for here in axes:
            here.set_ylim(1.3, 9.3)
        handles, labels = axes[0].get_legend_handles_labels()
        from matplotlib.lines import Line2D

        handles += [Line2D([], [], color="#666666", linestyle=DASHES[i]) for i in range(len(ways))]
        last.figure.legend(
            handles, [*labels, *ways], loc="outside lower center", ncols=3, fontsize=7.5
        )


def main(
    quick: bool = False,
    folder: Path = Path("runs/bench-gridworld"),
    figures: Path | None = None,
    frozen: Path | None = None,
    published: bool = False,
) -> dict[str, Any]:
    """SZPO, reward models, DPO and methods with the true reward, at equal votes and equal reading.

    Args:
        quick: Small settings, under a minute.
        folder: Folder of finished cells, tables and figures.
        figures: Folder to which the figures are copied for the documents.
        frozen: Run only this frozen courier contest, on its own seeds (quick: six of them).
        published: Run only the published steps on the dense grid, one-sided, 9,600 votes.
    """
    study = Study("gridworld", folder, quick, figures)
    if published:
        found = {"published": _run_published(study)}
    elif frozen is not None:
        found = {"claim": run_contest(study, frozen)}
    else:
        found = {"dense": _run_dense(study), "models": _run_models(study)}
        _draw_figure(study, found["dense"], found["models"])
    study.end()
    return found


def _run_dense(study: Study) -> list[dict[str, Any]]:
    """Run every method on the dense grid with both ways to ask, at its best setting."""
    trials, count, share = (2, 6, 4) if study.quick else (6, 40, 1)
    names, rows, grids = [], list[dict[str, Any]](), []
    for way, votes, D in WAYS:
        for name, (fixed, grid) in {**GRIDS, **(TRUE if D == 1 else {})}.items():
            # The reference methods read as many walks as the voters do.
            budget = (2 * votes if name in TRUE else votes) // share
            tried = combinations(grid)
            few = [tried[len(tried) // 4], tried[3 * len(tried) // 4]]
            names.append({"name": name, "way": way})
            rows.append({"world": "dense", "budget": budget, "D": D, **fixed})
            grids.append(few if study.quick else tried)
    tuned = study.tune("dense grid", rows, work, grids, trials=trials, repetitions=count)
    found = [{**row, **named} for row, named in zip(tuned, names, strict=True)]
    title = "dense grid: value 2.85 at the start, 7.55 at best"
    study.table(f"{title}; 95 % intervals over {count} seeds", found, COLUMNS, "dense")
    return found


def _run_published(study: Study) -> list[dict[str, Any]]:
    """Run the papers' steps on the dense grid, with step sizes that were not tuned."""
    specs = [
        {"method": "szpo", "world": "dense", "budget": 2400 if study.quick else 9600,
         "plain": True, "pairing": "forward", "N": 8, "M": 5, **own, "seeds": seed_range(10)}
        for own in PUBLISHED.values()
    ]  # fmt: skip
    found = _run_cells(study, "as published", specs, [{"name": name} for name in PUBLISHED])
    study.table(
        "dense grid, as published: value 2.85 at the start, 7.55 at best; 10 seeds", found,
        {"rule": "name", "votes": lambda row: row["votes"][-1], "value": format_interval},
        "published",
    )  # fmt: skip
    return found


def _run_models(study: Study) -> list[dict[str, Any]]:
    """Run reward model and planner for several numbers of votes, with β = 1 and β = 5."""
    specs = [
        {"method": "rm-plan", "world": "dense", "budget": votes, "sharpness": beta,
         "ridge": 0.002, "seeds": seed_range(6 if study.quick else 40)}
        for beta in (1.0, 5.0)
        for votes in (MODELS[:3] if study.quick else MODELS)
    ]  # fmt: skip
    rows = _run_cells(study, "reward model and planner", specs, [{}] * len(specs))
    study.table(
        "a well-specified reward model + planning (C10)", rows,
        {"votes": "budget", "panel's β": "sharpness", "value": format_interval}, "models",
    )  # fmt: skip
    return rows


def _draw_figure(
    study: Study, dense: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]
) -> None:
    """Draw value by votes and by walks read; batches are dashed, reference methods dotted."""
    with study.figure("gridworld", columns=2, height=4.9) as (left, right):
        for axes, budget in ((left, "votes"), (right, "answers")):
            for name in LOOKS:
                for row in dense:
                    if row["name"] == name and not (name in TRUE and budget == "votes"):
                        _draw_line(axes, row, budget)
            plan = [row for row in models if row["sharpness"] == 1.0]
            spent = [row[budget][-1] for row in plan]
            draw_curve(axes, spent, plan, PLANNER, color="#009e73", marker="^", linestyle="-.")
            axes.set(ylabel="exact value", ylim=(2.6, 7.7), xscale="log")
        left.set(xlabel="votes", title="by votes")
        right.set(xlabel="walks read (true reward: returns read)", title="by what is read")
        handles, labels = right.get_legend_handles_labels()
        left.figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7.5)


def _draw_line(axes: Any, row: Mapping[str, Any], budget: str) -> None:
    colour, mark = LOOKS[row["name"]]
    batch = row["way"] == "batch votes"
    dash = "--" if batch else ":" if row["name"] in TRUE else "-"
    draw_course(
        axes, row[budget], row, row["name"] + (", batches of 4" if batch else ""), color=colour,
        marker=mark, linestyle=dash, fillstyle="none" if batch else "full",
    )  # fmt: skip
