"""CartPole-v1 as a world of many episodes, and behind the `Policy` protocol.

The step is gymnasium's own arithmetic (Barto, Sutton & Anderson 1983) on arrays with any leading
axes; a test compares it with gymnasium's environments step by step. The return is the number of
moves until the pole falls or the cart leaves the track, 1 to 500.

CartPole behind the `Policy` protocol: a prompt names a start, an answer describes an episode. An
answer is "RLLRL. Fell after 5 moves." or "… Stood for all 500 moves.", so panels, ledgers and
rewards treat it as any text. Both sides of a direction share all random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from szpo.errors import RunError, UsageError
from szpo.optim.sample_directions import Law
from szpo.seeds import derive, uniform
from szpo.types import Answer, Batch, Floats, Prompt, Theta
from szpo_simulators.panels.text_features import Scored, bare
from szpo_simulators.worlds.world import Reals, Uniforms, WorldPolicy, uniforms

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
    """Starting states (..., 4) from uniform numbers (..., 4), on the grid that prompts name.

    >>> start(np.array([0.0, 0.5, 0.999999, 0.25])).tolist()
    [-0.05, 0.0, 0.05, -0.025]
    """
    half = round(START * GRID)
    states: Floats = (np.floor(u.astype(np.float64) * (2 * half + 1)) - half) / GRID
    return states


@dataclass(frozen=True)
class Network:
    """A net with one hidden layer (0 units: a linear policy) for the log-odds of a push right.

    The notebook's two logits under a softmax are equivalent to one: their difference.
    """

    hidden: int = 0
    activation: Literal["tanh", "relu"] = "tanh"
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
            x = np.tanh(x) if self.activation == "tanh" else np.maximum(x, 0.0)
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


NOTEBOOK = Network(128, "relu", scaled=False)
"""The notebook's net: 4 → 128 ReLU → 2, with its two logits as one; d = 769."""


def play(
    net: Network, theta: Reals, state: Floats, u: Reals
) -> Iterator[tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Episodes of the nets θ (S, d) from states (S, n, 4), by uniform numbers (S, n, horizon).

    Yields for each move the states after it, whether it was to the right, and whether the episode
    was still going on (S, n). Ends when all episodes have ended or the horizon is reached.
    """
    weights = theta.astype(np.float64)
    walking = np.ones(u.shape[:2], dtype=bool)
    for t in range(u.shape[-1]):
        with np.errstate(over="ignore"):
            right = u[:, :, t] < 1 / (1 + np.exp(-net.logit(weights, state)))
        state, fallen = step(state, right)
        yield state, right, walking
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
        for _, _, walking in play(self.net, theta, start(u[:, :, :4]), u[:, :, 4:]):
            lengths += walking
        return lengths

    def value(self, theta: Reals) -> Floats:
        """Mean length (S,) of ``evaluations`` episodes, always with the same uniform numbers."""
        key = derive(0, "cartpole value")
        u = uniforms(key, self.evaluations * self.width).reshape(self.evaluations, self.width)
        shape = (len(theta), self.evaluations, self.width)
        return np.asarray(self.returns(theta, np.broadcast_to(u, shape)).mean(-1))


_NUMBER = r"([+-]0\.\d{4})"
_START = re.compile(rf"position {_NUMBER}, speed {_NUMBER}, angle {_NUMBER}, spin {_NUMBER}\.")
_EPISODE = re.compile(r"[LR]+\. (?:Fell after|Stood for all) (\d+) moves\.")


def prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts that name ``count`` random starts.

    >>> prompts(1)[0].text
    'Balance the pole from position +0.0309, speed +0.0187, angle +0.0178, spin +0.0160.'
    """
    states = start(uniforms(derive(seed, "cartpole starts"), 4 * count).reshape(count, 4))
    names = ("position", "speed", "angle", "spin")
    return tuple(
        Prompt.user(
            "Balance the pole from "
            + ", ".join(f"{name} {x:+.4f}" for name, x in zip(names, state, strict=True))
            + "."
        )
        for state in states.tolist()
    )


def begin(prompt: Prompt) -> list[float]:
    """The start that a prompt names."""
    found = _START.search(prompt.text)
    state = [float(number) for number in found.groups()] if found else []
    if not state or max(map(abs, state)) > START:
        raise UsageError(
            f"prompt {prompt.text[:60]!r} names no start; give prompts.path a file with lines "
            f'such as "{prompts(1)[0].text}", each number within ±{START}'
        )
    return state


class CartPolePolicy(WorldPolicy):
    """A small net that balances a pole; θ begins at `Network.start`."""

    purpose = "cartpole"

    def __init__(self, root_seed: int, net: Network | None = None, law: Law | None = None) -> None:
        self.net = net or Network()
        super().__init__(root_seed, {"net": self.net.start(root_seed).astype(np.float32)}, law)

    def walk(self, theta: Theta, prompts: Sequence[Prompt], key: bytes) -> Batch:
        """One episode per prompt."""
        starts = [begin(prompt) for prompt in prompts]
        rows = len(starts)
        if not rows:
            return ()
        u = uniforms(key, rows * HORIZON).reshape(1, rows, HORIZON)
        state: Floats = np.array(starts)[None]
        letters: list[list[str]] = [[] for _ in range(rows)]
        for _, right, walking in play(self.net, theta["net"][None], state, u):
            for i in np.flatnonzero(walking[0]):
                letters[i].append("R" if right[0, i] else "L")
        return tuple(_describe_episode("".join(moves)) for moves in letters)


def policy(*, root_seed: int) -> CartPolePolicy:
    """The entry point ``cartpole`` of `szpo.policies`."""
    return CartPolePolicy(root_seed)


def count_moves(prompt: Prompt, answer: Answer) -> float:
    """How many moves the pole was balanced, read from the text: 1 to 500."""
    found = _EPISODE.fullmatch(answer.text)
    if not found:
        raise RunError(f"reward balance: {answer.text[:60]!r} is no episode of CartPole")
    return float(found[1])


balance = bare(Scored("balance", count_moves))
"""The entry point ``balance`` of `szpo.rewards`."""


def _describe_episode(moves: str) -> Answer:
    """An episode's moves as an answer; 500 moves count as stood even if the last one is a fall."""
    whole = len(moves) == HORIZON
    end = "Stood for all" if whole else "Fell after"
    return Answer(f"{moves}. {end} {len(moves)} moves.", "length" if whole else "stop", len(moves))
