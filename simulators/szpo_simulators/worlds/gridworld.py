"""A stochastic grid with tabular softmax policies, walks on it, and its exact value.

The setting is that of Zhang & Ying (arXiv 2409.17401); their own grid is not known. A move slips
with probability ``slip``: it becomes any of the four moves with equal probability. Rewards
are earned on arrival at a cell. A world may have several states for each cell (`sets`), such as a
courier's bag being full; the policy sees only the cell.

Logits are (S, d) with d = cells · moves; a policy's table of log-probabilities has the same shape.
A trajectory is represented by its counts: how often it chose each move in each cell. Since
log π(τ) = Σ counts · log π, likelihoods, their gradients and linear rewards need only counts.

In every kind of reward model each move has one feature. A walk's features are how often its moves
have each, and the reward of a move is the weight of its feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from szpo.types import Floats, Ints
from szpo_simulators.worlds.world import Reals, Uniforms, count_plus, draw_coins, draws

_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))

MOVES: Final = 4
Kind: TypeAlias = Literal["cells", "moves", "steps", "states"]


@dataclass(frozen=True)
class GridWorld:
    """A square grid; a walk starts in the upper left cell, number 0, and makes ``horizon`` moves.

    The reward of a cell is 1 − (L1 distance to the lower right cell)/(2·size − 2). By default
    V(θ = 0) = 2.845, optimum 7.552.
    """

    size: int = 5
    slip: float = 0.2
    horizon: int = 12

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.size**2

    @property
    def dim(self) -> int:
        """Number of parameters d: one logit per cell and action."""
        return 4 * self.cells

    @property
    def width(self) -> int:
        """Uniform numbers of a walk: one per move."""
        return self.horizon

    @property
    def theta0(self) -> Floats:
        """The starting θ (d,), under which all actions are equally likely."""
        return np.zeros(self.dim)

    @cached_property
    def moves(self) -> Ints:
        """The cell (cells, 4) in which each executed move ends."""
        row, column = np.divmod(np.arange(self.cells), self.size)
        down, right = np.array(_STEPS).T
        rows = np.clip(row[:, None] + down, 0, self.size - 1)
        columns = np.clip(column[:, None] + right, 0, self.size - 1)
        return np.asarray(rows * self.size + columns, dtype=np.int64)

    @cached_property
    def sets(self) -> int:
        """Number of states per cell; a state's number is set · cells + cell."""
        return 1

    @cached_property
    def landing(self) -> Ints:
        """The state (sets · cells, 4) in which each executed move ends."""
        return self.moves

    @cached_property
    def arrival(self) -> Floats:
        """The reward (sets · cells,) on arrival at each state."""
        row, column = np.divmod(np.arange(self.cells), self.size)
        far = 2 * self.size - 2
        return np.asarray(1 - (far - row - column) / far)

    def action_probabilities(self, theta: Reals) -> Floats:
        """π(action | cell) of the policies θ (S, d): (S, cells, 4)."""
        logits = np.asarray(theta, dtype=np.float64).reshape(-1, self.cells, 4)
        return np.asarray(softmax(logits, axis=-1))

    def executed_probabilities(self, theta: Reals) -> Floats:
        """Probability of each executed move, slip included: (S, cells, 4)."""
        return (1 - self.slip) * self.action_probabilities(theta) + self.slip / 4

    def value(self, theta: Reals) -> Floats:
        """Exact expected return (S,) by backward induction over the horizon."""
        chances = np.tile(self.executed_probabilities(theta), (1, self.sets, 1))
        ahead = np.zeros(chances.shape[:2])
        for _ in range(self.horizon):
            ahead = (chances * (self.arrival + ahead)[:, self.landing]).sum(-1)
        return np.asarray(ahead[:, 0])

    def optimum(self) -> float:
        """The best expected return of any policy, even one that sees time and state."""
        ahead = np.zeros(len(self.arrival))
        for _ in range(self.horizon):
            after = (self.arrival + ahead)[self.landing]
            ahead = (1 - self.slip) * after.max(-1) + self.slip * after.mean(-1)
        return float(ahead[0])

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Returns (S, n); one uniform number per move selects the executed move directly."""
        inner = np.cumsum(self.executed_probabilities(theta), axis=-1).astype(np.float32)
        edges = [np.tile(inner[..., i], (1, self.sets)).ravel() for i in range(3)]
        runs, states = len(u), self.sets * self.cells
        base = (np.arange(runs, dtype=np.intp) * states)[:, None]
        # The repetitions' tables are joined, so that one index selects repetition and state.
        landing = self.landing.astype(np.intp).ravel()
        state = np.zeros(u.shape[:2], dtype=np.intp)
        place, total = np.empty_like(state), np.zeros(u.shape[:2])
        edge = np.empty(u.shape[:2], dtype=np.float32)
        for chance in np.ascontiguousarray(u.transpose(2, 0, 1)):
            np.add(state, base, out=place)
            state <<= 2
            for table in edges:
                np.take(table, place, out=edge, mode="clip")
                state += chance >= edge
            state = np.take(landing, state, mode="clip")
            total += np.take(self.arrival, state, mode="clip")
        return total


@dataclass(frozen=True)
class Courier(GridWorld):
    """A grid on which the return counts deliveries, which no reward by cell can express.

    Arriving at the depot, the upper left cell, fills the bag; arriving at the customer's, the
    lower right one, with a full bag delivers it. The state is (bag, cell). The policy sees only
    the cell, and so does a reward by cell or move: standing at either end correlates with
    deliveries but makes none. A policy without memory does well by walking in circles.
    """

    size: int = 3
    horizon: int = 100

    @cached_property
    def sets(self) -> int:
        """Three states per cell: bag empty, bag full, just delivered."""
        return 3

    @cached_property
    def landing(self) -> Ints:
        """The state (3 · cells, 4) in which each executed move ends."""
        full = np.repeat([False, True, False], self.cells)[:, None]
        cells = np.tile(self.moves, (3, 1))
        delivered = np.where(full & (cells == self.cells - 1), 2, full.astype(np.int64))
        after = np.where(cells == 0, 1, delivered)
        return np.asarray(after * self.cells + cells, dtype=np.int64)

    @cached_property
    def arrival(self) -> Floats:
        """The reward (3 · cells,): 1 in states in which a delivery was just made, else 0."""
        return np.repeat([0.0, 0.0, 1.0], self.cells)


def log_policy(theta: Floats, moves: int) -> Floats:
    """Log-probabilities (S, d) of the softmax policy with logits (S, d).

    >>> np.exp(log_policy(np.array([[0.0, np.log(3.0)]]), 2)).round(2).tolist()
    [[0.25, 0.75]]
    """
    logs = log_softmax(theta.reshape(*theta.shape[:-1], -1, moves), axis=-1)
    return np.asarray(logs.reshape(theta.shape))


def to_logits(gradient: Floats, theta: Floats, moves: int) -> Floats:
    """The gradient with respect to logits from that with respect to log-probabilities, (S, d).

    With the Jacobian of log-softmax: ∂/∂θ_sa = G_sa − π(a|s) Σ_b G_sb.
    """
    each = gradient.reshape(*gradient.shape[:-1], -1, moves)
    chances = np.exp(log_policy(theta, moves)).reshape(each.shape)
    return np.asarray((each - chances * each.sum(-1, keepdims=True)).reshape(gradient.shape))


def sum_by_index(index: NDArray[np.integer], size: int, weights: Floats | None = None) -> Floats:
    """Sums (..., size) of ``weights``, or of 1, grouped by ``index`` (..., H) along its last axis.

    >>> sum_by_index(np.array([[0, 2, 2]]), 3).tolist()
    [[1.0, 0.0, 2.0]]
    """
    lead = index.shape[:-1]
    rows = int(np.prod(lead, dtype=np.int64))
    flat = index.reshape(rows, -1) + size * np.arange(rows)[:, None]
    given = None if weights is None else weights.ravel()
    found = np.bincount(flat.ravel(), given, rows * size).reshape(*lead, size)
    return np.asarray(found, dtype=np.float64)


def sum_by_move(index: NDArray[np.integer], d: int, weights: Floats) -> Floats:
    """Sums (S, d) of weights by (cell, move), divided by n; index and weights are (S, n, H)."""
    *lead, n, _ = index.shape
    return np.asarray(sum_by_index(index.reshape(*lead, -1), d, weights) / n)


class Adam:
    """Gradient ascent with Adam (Kingma and Ba 2015)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first = self.second = np.zeros(shape)
        self.seen = 0

    def step(self, gradient: Floats, rate: float) -> Floats:
        """The move (S, d) to add to θ after a gradient (S, d)."""
        self.seen += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        # rate · m̂ / (√v̂ + ε), Kingma and Ba 2015, algorithm 1
        mean, square = self.first / (1 - 0.9**self.seen), self.second / (1 - 0.999**self.seen)
        return np.asarray(rate * mean / (np.sqrt(square) + 1e-8))


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
    sharpness: float,
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
    numbers = draw_coins(root_seeds, step, (pairs, 1))[0]
    won = count_plus(worth[:, 0] - worth[:, 1], sharpness, numbers)
    return features[:, 0] - features[:, 1], won
