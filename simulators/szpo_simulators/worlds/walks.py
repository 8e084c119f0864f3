"""Walks on tabular worlds for the baselines, and the features of reward models.

In every kind of reward model each move has one feature. A walk's features are how often its moves
have each, and the reward of a move is the weight of its feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo.types import Floats, Ints
from szpo_simulators.worlds.gridworld import GridWorld
from szpo_simulators.worlds.oracle import LinkPanel, coins, votes
from szpo_simulators.worlds.tables import sum_by_index
from szpo_simulators.worlds.world import Reals, Uniforms, draws

MOVES: Final = 4
Kind: TypeAlias = Literal["cells", "moves", "steps", "states"]


@dataclass(frozen=True, slots=True, eq=False)
class Walks:
    """``taken``: cell · 4 + chosen move, ``states`` after it (S, n, H); ``returns`` (S, n)."""

    taken: NDArray[np.int16]
    states: NDArray[np.int16]
    returns: Floats


def walk(world: GridWorld, theta: Reals, u: Uniforms) -> Walks:
    """Walks of the policies θ (S, d) by uniform numbers (S, n, width).

    Their distribution is that of `GridWorld.returns`, but the chosen moves are known as well: a
    number selects the policy's move, and its remainder whether and to which move it slips.
    """
    cells, runs, count = world.cells, len(u), u.shape[1]
    chances = world.action_probabilities(theta).reshape(-1, MOVES)
    edges = np.cumsum(chances, axis=-1)[:, :3].astype(np.float32)
    inner = [np.ascontiguousarray(edges[:, i]) for i in range(3)]
    low = np.concatenate([np.zeros((len(edges), 1), np.float32), edges], axis=1).ravel()
    with np.errstate(divide="ignore", over="ignore"):
        # The scaled remainder is below four if the move slips; its whole part is then the move.
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
    shape = (runs, count, world.horizon)
    return Walks(taken.T.reshape(shape), states.T.reshape(shape), total.reshape(runs, count))


def true_rewards(world: GridWorld, made: Walks) -> Floats:
    """The world's own reward (S, n, H) of each move."""
    return np.asarray(world.arrival[made.states])


def feature_indices(kind: Kind, world: GridWorld, made: Walks) -> tuple[Ints, int]:
    """The feature (S, n, H) of each move, and the number of features.

    ``cells``: the cell in which it ends; ``moves``: cell and chosen move, all that DPO can
    express; ``steps``: the cells before and after it; ``states``: the world's whole state after
    it, with which a reward model is well specified.
    """
    cells, states = world.cells, made.states.astype(np.int64)
    ends = states % cells
    if kind == "cells":
        return ends, cells
    if kind == "moves":
        return made.taken.astype(np.int64), cells * MOVES
    if kind == "steps":
        return made.taken.astype(np.int64) // MOVES * cells + ends, cells**2
    return states, world.sets * cells


def ask(
    world: GridWorld,
    theta: Reals,
    root_seeds: Sequence[int],
    step: int,
    pairs: int,
    *,
    kind: Kind,
    rows: int,
    panel: LinkPanel,
) -> tuple[Floats, Floats]:
    """One vote on each of ``pairs`` pairs of batches of D walks, all by the policies θ (S, d).

    Features and returns are means over a batch. Walks and votes come from each repetition's root
    seed and the step.

    Returns:
        Features of plus minus those of minus (S, n, F), and who won (S, n): 1 for plus.
    """
    made = walk(world, theta, draws(world, root_seeds, step, 0, 2 * pairs * rows, "pairs"))
    index, size = feature_indices(kind, world, made)
    lead = (len(root_seeds), 2, pairs, rows)
    features = sum_by_index(index, size).reshape(*lead, size).mean(3)
    worth = made.returns.reshape(lead).mean(3)
    numbers = coins(root_seeds, step, (pairs, 1))[0]
    won = votes(panel.chance(worth[:, 0] - worth[:, 1]), numbers)
    return features[:, 0] - features[:, 1], won
