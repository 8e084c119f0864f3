"""Walks on tabular worlds in the form that rivals learn from, and what a reward can read off them.

Every kind of reward model here gives each move one place of its table of weights; the feature of a
walk is how often each place came up, and the reward of a move is the weight of its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats, Ints
from szpo_simulators.baselines.tables import tallied
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import Panel, coins, votes
from szpo_simulators.worlds.world import Reals, Uniforms, draws

MOVES: Final = 4
Kind: TypeAlias = Literal["cells", "moves", "visits", "steps", "times", "states"]


@dataclass(frozen=True, slots=True, eq=False)
class Walks:
    """``taken`` cell · 4 + chosen move, ``states`` after it (S, n, H); ``returns`` (S, n)."""

    taken: NDArray[np.int16]
    states: NDArray[np.int16]
    returns: Floats


def walk(world: GridWorld, theta: Reals, u: Uniforms) -> Walks:
    """Walks of the policies θ (S, d) by uniform numbers (S, n, width).

    The law of `GridWorld.walks`, several times as fast: a number chooses the policy's move, and
    what is left of it says whether the move slips and where to.
    """
    cells, runs, count = world.cells, len(u), u.shape[1]
    chances = world.chosen(theta).reshape(-1, MOVES)
    edges = np.cumsum(chances, axis=-1)[:, :3].astype(np.float32)
    inner = [np.ascontiguousarray(edges[:, i]) for i in range(3)]
    low = np.concatenate([np.zeros((len(edges), 1), np.float32), edges], axis=1).ravel()
    with np.errstate(divide="ignore", over="ignore"):
        # Four where the rest of the number equals the slip: below, its whole part is the move.
        stretch = np.minimum(MOVES / (chances * max(world.slip, 1e-30)), 1e30)
    spread = stretch.astype(np.float32).ravel()
    landing, arrival = world.landing.ravel(), world.arrival
    base = np.repeat(np.arange(runs) * cells, count)
    state = np.zeros(runs * count, dtype=np.int64)
    taken = np.empty((world.horizon, runs * count), dtype=np.int16)
    states, total = np.empty_like(taken), np.zeros(runs * count)
    for t, chance in enumerate(np.ascontiguousarray(u.reshape(-1, world.horizon).T)):
        cell = state % cells
        row = base + cell
        move = (chance >= inner[0][row]).astype(np.int64)
        move += chance >= inner[1][row]
        move += chance >= inner[2][row]
        place = row * MOVES + move
        slipped = np.minimum((chance - low[place]) * spread[place], MOVES)
        done = np.where(slipped < MOVES, slipped.astype(np.int64), move)
        taken[t] = cell * MOVES + move
        state = landing[state * MOVES + done]
        states[t] = state
        total += arrival[state]
    total += world.ending[state]
    shape = (runs, count, world.horizon)
    return Walks(taken.T.reshape(shape), states.T.reshape(shape), total.reshape(runs, count))


def places(kind: Kind, world: GridWorld, made: Walks) -> tuple[Ints, int]:
    """Which place (S, n, H) of its table each move has, and how many places there are.

    ``cells``: where it ends; ``moves``: cell and chosen move, which is all that DPO can tell;
    ``visits``: where it ends, a first visit apart from others; ``steps``: from where to where;
    ``times``: where it ends, by quarter of the walk; ``states``: the world's whole state, with
    which a reward model is well specified.
    """
    cells, horizon = world.cells, world.horizon
    states = made.states.astype(np.int64)
    ends = states % cells
    if kind == "cells":
        return ends, cells
    if kind == "moves":
        return made.taken.astype(np.int64), cells * MOVES
    if kind == "steps":
        return made.taken.astype(np.int64) // MOVES * cells + ends, cells**2
    if kind == "times":
        return np.arange(horizon) * 4 // horizon * cells + ends, 4 * cells
    if kind == "states":
        return states, world.sets * cells
    seen = np.zeros((*ends.shape[:2], cells), dtype=bool)
    found = np.empty_like(ends)
    for t in range(horizon):
        here = ends[..., t, None]
        again = np.take_along_axis(seen, here, -1)[..., 0]
        found[..., t] = ends[..., t] + cells * again
        np.put_along_axis(seen, here, True, -1)
    return found, 2 * cells


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Comparisons that a panel answered: differences of features (S, n, F), who won (S, n)."""

    x: Floats
    won: Floats


def ask(
    world: GridWorld,
    theta: Reals,
    root_seeds: Sequence[int],
    step: int,
    pairs: int,
    *,
    rows: int,
    kind: Kind,
    panel: Panel,
) -> Answers:
    """One vote on each of n pairs of batches of D walks, all by the policies θ (S, d).

    Features are means over a batch, as its return is. Walks and votes come from each
    repetition's root seed and the step.
    """
    made = walk(world, theta, draws(world, root_seeds, step, 0, 2 * pairs * rows, "pairs"))
    place, size = places(kind, world, made)
    lead = (len(root_seeds), 2, pairs, rows)
    features = tallied(place, size).reshape(*lead, size).mean(3)
    worth = made.returns.reshape(lead).mean(3)
    drawn = coins(root_seeds, step, (pairs, 1))[0]
    return Answers(
        features[:, 0] - features[:, 1],
        votes(panel.chance(worth[:, 0] - worth[:, 1]), drawn),
    )
