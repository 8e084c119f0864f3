"""Runs one cell of a contest between methods: from a method and its settings to exact values.

A spec has plain values: ``method`` (szpo, rm-ppo, rm-plan, dpo, reinforce, ppo, es),
the world, a budget of votes on batches of ``D`` walks, the panel's ``sharpness``, and the method's
settings. All methods have the same worlds, panel and root seeds.

Planning on a learned reward is an upper bound for any PPO on that reward: the plan may depend on
time and uses the exact transitions, so no method that samples can do better on the learned
reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from szpo.types import Floats
from szpo_simulators.study import interval
from szpo_simulators.worlds import dpo, ppo, repetitions, rlhf, true_reward, walks
from szpo_simulators.worlds.curves import Curve, trace_walks
from szpo_simulators.worlds.gridworld import COURIER, DENSE, GridWorld
from szpo_simulators.worlds.oracle import LinkPanel

WORLDS: Final[Mapping[str, GridWorld]] = {"dense": DENSE, "courier": COURIER}
BLOCK: Final = 10
"""Repetitions of a rival that are computed together, few enough for their walks to fit in memory.

The fit of a reward model stops when the whole block has converged. So its last digits, and after
many rounds the walks, depend on this number; nothing else does.
"""
MARKS: Final = 20
"""Points of a curve."""

Settings = dict[str, Any]


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
    blocks = [run(plain, used[i : i + block]) for i in range(0, len(used), block)]
    values = np.concatenate([block.values for block in blocks])
    return {
        "values": values[:, -1].tolist(),
        "votes": list(blocks[0].votes),
        "answers": list(blocks[0].answers),
        "curve": [interval(column) for column in values.T.tolist()],
    }


def run(spec: Settings, root_seeds: Sequence[int]) -> Curve:
    """The curve of some repetitions of a method on a world."""
    rest = dict(spec)
    method, world = rest.pop("method"), WORLDS[rest.pop("world")]
    budget, D = rest.pop("budget"), rest.pop("D", 1)
    panel = LinkPanel(beta=rest.pop("sharpness", 1.0))
    if method == "szpo":
        return _szpo(world, root_seeds, budget, D, panel, rest)
    if method == "dpo":
        return dpo.train(world, root_seeds, budget, rows=D, panel=panel, **rest)
    if method == "rm-ppo":
        ours = {k: rest.pop(k) for k in ("kind", "rounds", "ridge") if k in rest}
        practice = ppo.Recipe(**rest)
        return rlhf.train(world, root_seeds, budget, practice, rows=D, panel=panel, **ours)
    if method == "rm-plan":
        return _train_and_plan(world, root_seeds, budget, D, panel, **rest)
    # Reference methods, which learn from the true reward of ``budget`` walks.
    each = rest["walkers" if method == "es" else "walks"]
    if method == "ppo":
        theta = np.tile(world.theta0, (len(root_seeds), 1))
        reward = partial(walks.true_rewards, world)
        thetas = ppo.improve(world, theta, reward, root_seeds, ppo.Recipe(**rest))
    else:
        train: Any = true_reward.evolve if method == "es" else true_reward.reinforce
        thetas = train(world, root_seeds, **rest)
    return trace_walks(world, thetas, space_marks(budget // each), each)


def space_marks(steps: int) -> list[int]:
    """At most `MARKS` evenly spaced steps; the last one is ``steps``."""
    return sorted({max(1, round(steps * i / MARKS)) for i in range(1, MARKS + 1)})


def _szpo(
    world: GridWorld, root_seeds: Sequence[int], budget: int, D: int, panel: LinkPanel,
    rest: Settings,
) -> Curve:  # fmt: skip
    plain = rest.pop("plain", False)  # as published: v not normalised, no common random numbers
    law = {"law": "gaussian"} if plain else {}
    how = repetitions.settings_for(world, D=D, **law, **rest)
    steps = budget // (how.section.K * how.section.N * how.section.M)
    runs = repetitions.train(
        world, how, list(root_seeds), steps, panel=panel, crn=not plain, marks=space_marks(steps)
    )
    votes, answers = (tuple(n * mark for mark in runs.marks) for n in (runs.votes, runs.answers))
    return Curve(runs.curve, votes, answers)


def _train_and_plan(
    world: GridWorld, root_seeds: Sequence[int], budget: int, D: int, panel: LinkPanel,
    ridge: float,
) -> Curve:  # fmt: skip
    theta = np.tile(world.theta0, (len(root_seeds), 1))
    x, won = walks.ask(world, theta, root_seeds, 0, budget, kind="cells", rows=D, panel=panel)
    w = rlhf.fit_reward(x, won, ridge)
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
