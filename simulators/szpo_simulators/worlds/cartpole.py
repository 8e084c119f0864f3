"""CartPole-v1 as a world of many episodes.

The step is gymnasium's own arithmetic (Barto, Sutton & Anderson 1983) on arrays with any leading
axes; a test compares it with gymnasium's environments step by step. The return is the number of
moves until the pole falls or the cart leaves the track, 1 to 500.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from szpo.seeds import derive, uniform
from szpo.types import Floats
from szpo_simulators.worlds.world import Reals, Uniforms, uniforms

HORIZON = 500
"""Moves after which an episode is cut off, as CartPole-v1 does."""
GRAVITY, TAU, FORCE = 9.8, 0.02, 10.0
POLE_MASS, TOTAL_MASS, HALF_LENGTH = 0.1, 1.1, 0.5
EDGE, LEAN = 2.4, 12 * 2 * np.pi / 360
"""An episode ends beyond these: metres from the middle, radians from upright."""
SCALE = np.array([EDGE, EDGE, LEAN, 10 * LEAN])
"""Observations divided by this are of order one. Speeds are scaled by the bound per second, and
angular speeds by the bound per tenth of a second."""
START, GRID = 0.05, 10_000
"""Each of the four state variables starts within ±START, at a whole multiple of 1/GRID."""


def step(state: Floats, right: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """The states (..., 4) a fiftieth of a second later, and whether each has ended (...).

    A state is position, speed, angle, angular speed; ``right`` (...): the cart is pushed right.
    """
    x, speed, angle, spin = (state[..., i] for i in range(4))
    push = np.where(right, FORCE, -FORCE)
    cos, sin = np.cos(angle), np.sin(angle)
    # Accelerations of cart and pole, Barto, Sutton & Anderson 1983, appendix.
    pull = (push + POLE_MASS * HALF_LENGTH * np.square(spin) * sin) / TOTAL_MASS
    turn = (GRAVITY * sin - cos * pull) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * np.square(cos) / TOTAL_MASS)
    )
    thrust = pull - POLE_MASS * HALF_LENGTH * turn * cos / TOTAL_MASS
    after = np.empty_like(state)
    after[..., 0], after[..., 1] = x + TAU * speed, speed + TAU * thrust
    after[..., 2], after[..., 3] = angle + TAU * spin, spin + TAU * turn
    return after, (np.abs(after[..., 0]) > EDGE) | (np.abs(after[..., 2]) > LEAN)


def start(u: Reals) -> Floats:
    """Starting states (..., 4) from uniform numbers (..., 4), on a grid.

    >>> start(np.array([0.0, 0.5, 0.999999, 0.25])).tolist()
    [-0.05, 0.0, 0.05, -0.025]
    """
    half = round(START * GRID)
    states: Floats = (np.floor(u.astype(np.float64) * (2 * half + 1)) - half) / GRID
    return states


@dataclass(frozen=True)
class Network:
    """A net with one ReLU layer (0 units: a linear policy) for the log-odds of a push right.

    The notebook's two logits under a softmax are equivalent to one: their difference.
    """

    hidden: int = 0
    scaled: bool = True
    """Whether observations are divided by `SCALE` first."""

    @property
    def dim(self) -> int:
        """Number of weights and biases."""
        return 6 * self.hidden + 1 if self.hidden else 5

    def logit(self, theta: Reals, state: Floats) -> Floats:
        """Log-odds (S, n) of a push to the right, for weights (S, d) at states (S, n, 4)."""
        h = self.hidden
        x = state / SCALE if self.scaled else state
        if h:
            x = x @ theta[:, : 4 * h].reshape(-1, 4, h) + theta[:, None, 4 * h : 5 * h]
            x = np.maximum(x, 0.0)
            theta = theta[:, 5 * h :]
        odds: Floats = (x @ theta[:, :-1, None])[..., 0] + theta[:, -1:]
        return odds

    def start(self, seed: int) -> Floats:
        """Untrained weights (d,): 0 if linear, else within ±1/√inputs as in torch's Linear."""
        h = self.hidden
        if not h:
            return np.zeros(self.dim)
        reach = np.concatenate([np.full(5 * h, 0.5), np.full(h + 1, 1 / np.sqrt(h))])
        return np.asarray((2 * uniform(derive(seed, "net"), self.dim) - 1) * reach)


def play(
    net: Network, theta: Reals, state: Floats, u: Reals
) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Episodes of the nets θ (S, d) from states (S, n, 4), by uniform numbers (S, n, horizon).

    Yields for each move the states after it and whether the episode was still going on (S, n).
    Ends when all episodes have ended or the horizon is reached.
    """
    weights = theta.astype(np.float64)
    walking = np.ones(u.shape[:2], dtype=bool)
    for t in range(u.shape[-1]):
        with np.errstate(over="ignore"):
            right = u[:, :, t] < 1 / (1 + np.exp(-net.logit(weights, state)))
        state, fallen = step(state, right)
        yield state, walking
        walking = walking & ~fallen
        if not walking.any():
            return


@dataclass(frozen=True)
class CartPole:
    """Episodes of CartPole-v1 under a net: the `World` whose return is the episode's length.

    A walk uses 4 uniform numbers for its start and one per move.
    """

    net: Network = field(default_factory=Network)
    seed: int = 0
    """Seed of the untrained weights."""
    horizon: int = HORIZON
    evaluations: int = 64
    """Number of episodes that `value` averages."""

    @property
    def dim(self) -> int:
        """Number of weights d."""
        return self.net.dim

    @property
    def width(self) -> int:
        """Uniform numbers of a walk: four for the start, one per move."""
        return 4 + self.horizon

    @cached_property
    def theta0(self) -> Floats:
        """The untrained weights (d,)."""
        return self.net.start(self.seed)

    def returns(self, theta: Reals, u: Uniforms) -> Floats:
        """Lengths (S, n) of the episodes, in moves."""
        lengths = np.zeros(u.shape[:2])
        for _, walking in play(self.net, theta, start(u[:, :, :4]), u[:, :, 4:]):
            lengths += walking
        return lengths

    def value(self, theta: Reals) -> Floats:
        """Mean length (S,) of ``evaluations`` episodes, always with the same uniform numbers."""
        key = derive(0, "cartpole value")
        u = uniforms(key, self.evaluations * self.width).reshape(self.evaluations, self.width)
        shape = (len(theta), self.evaluations, self.width)
        return np.asarray(self.returns(theta, np.broadcast_to(u, shape)).mean(-1))
