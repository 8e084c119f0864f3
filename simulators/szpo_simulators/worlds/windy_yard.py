"""A small softmax policy that walks through a windy yard, behind the `Policy` protocol.

An answer is the walk in words, "right up>left up. Reached the well." (the wind turned ``up`` into
``left``), so panels, ledgers and rewards treat it as any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from szpo.analysis.features import Feature
from szpo.errors import RunError, UsageError
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.seeds import derive, uniform
from szpo.types import Answer, Batch, Floats, Ints, Layout, Prompt, Shift, Theta, Update
from szpo_simulators.panels.text_features import bare
from szpo_simulators.worlds.world import Reals

MOVES = ("up", "right", "down", "left")
_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))
WELL, PIT = "Reached the well.", "Fell into the pit."
COST = 0.04
"""Cost of a move; the well is worth 1 and the pit −1."""
_START = re.compile(r"row (\d+), column (\d+)")


@dataclass(frozen=True)
class Yard:
    """A grid with a well, pits and walls; wind may turn a move to either side.

    The default is the classic world of three rows and four columns.
    """

    rows: int = 3
    columns: int = 4
    well: tuple[int, int] = (0, 3)
    pits: tuple[tuple[int, int], ...] = ((1, 3),)
    walls: tuple[tuple[int, int], ...] = ((1, 1),)
    wind: float = 0.2
    """Probability that a move turns aside, half to the left and half to the right."""
    horizon: int = 16
    """Moves after which a walk is cut off."""

    @property
    def cells(self) -> int:
        """Number of cells, walls included."""
        return self.rows * self.columns

    @cached_property
    def landing(self) -> Ints:
        """The cell (cells, 4) in which each executed move ends."""
        after = np.zeros((self.cells, 4), dtype=np.int64)
        for cell in range(self.cells):
            for move, (down, right) in enumerate(_STEPS):
                row, column = cell // self.columns + down, cell % self.columns + right
                inside = 0 <= row < self.rows and 0 <= column < self.columns
                free = inside and (row, column) not in self.walls
                after[cell, move] = row * self.columns + column if free else cell
        return after

    @cached_property
    def ending(self) -> Floats:
        """The worth (cells,) of ending in a cell; 0 in cells where a walk does not end."""
        worth = np.zeros(self.cells)
        worth[self.cell(self.well)] = 1.0
        for pit in self.pits:
            worth[self.cell(pit)] = -1.0
        return worth

    @cached_property
    def starts(self) -> Ints:
        """Cells from which a walk may start."""
        walls = [self.cell(wall) for wall in self.walls]
        return np.array([c for c in range(self.cells) if self.ending[c] == 0 and c not in walls])

    def cell(self, place: tuple[int, int]) -> int:
        """The number of the cell at (row, column)."""
        return place[0] * self.columns + place[1]

    def prompts(self) -> tuple[Prompt, ...]:
        """One prompt per starting cell."""
        places = [(c // self.columns, c % self.columns) for c in self.starts.tolist()]
        return tuple(Prompt.user(f"Walk from row {r}, column {c}.") for r, c in places)

    def start(self, prompt: Prompt) -> int:
        """The cell that a prompt names."""
        found = _START.search(prompt.text)
        if found:
            row, column = int(found[1]), int(found[2])
            if row < self.rows and column < self.columns:
                cell = self.cell((row, column))
                if cell in self.starts:
                    return cell
        raise UsageError(
            f"prompt {prompt.text[:60]!r} names no free cell of the yard; give prompts.path a "
            'file with lines such as "Walk from row 2, column 0."'
        )

    def walk(
        self, logits: Reals, cells: Ints, numbers: Floats
    ) -> Iterator[tuple[Ints, Ints, Ints, NDArray[np.bool_]]]:
        """The moves of n walks of a softmax policy with logits (cells, 4), from these cells (n,).

        ``numbers`` (n, horizon, 2) are uniform: for the choice and for the wind. Yields for each
        move the chosen move, the executed one, the cell after it, and whether the walk was still
        going on; all (n,).
        """
        edges = np.cumsum(softmax(logits.astype(np.float64), axis=-1), axis=-1)
        walking = np.ones(cells.shape, dtype=bool)
        for t in range(self.horizon):
            chosen = np.minimum((numbers[:, t, :1] >= edges[cells]).sum(-1), 3)
            wind = numbers[:, t, 1]
            turn = np.where(wind < self.wind / 2, -1, 0) + (wind >= 1 - self.wind / 2)
            moved = (chosen + turn) % 4
            cells = np.where(walking, self.landing[cells, moved], cells)
            yield chosen, moved, cells, walking
            walking = walking & (self.ending[cells] == 0)


class TabularPolicy:
    """A policy with one logit per cell and move; θ = 0 at the start, so that it wanders."""

    def __init__(self, root_seed: int) -> None:
        self.yard = Yard()
        self.layout: Layout = (("logits", (self.yard.cells, 4)),)
        self.dim = 4 * self.yard.cells
        self.space = Space(root_seed, self.layout, Law.for_dim(self.dim))
        self._theta = parameters.zeros(self.layout)

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """A walk per prompt and shift; both sides of a direction share the random numbers."""
        if len(prompts) != len(shifts):
            raise UsageError(f"rollout: {len(prompts)} lists of prompts for {len(shifts)} shifts")
        return [
            self.walk(
                parameters.shift(self.space, self._theta, shift),
                asked,
                derive(seed, "walk", k=shift.k),
            )
            for asked, shift in zip(prompts, shifts, strict=True)
        ]

    def apply(self, update: Update) -> None:
        """θ ← θ + coef · v, or θ + vector."""
        self._theta = parameters.apply_update(self.space, self._theta, update)

    def theta(self) -> Theta:
        """A copy of the master coordinates."""
        return {name: values.copy() for name, values in self._theta.items()}

    def digest(self) -> str:
        """SHA-256 of θ in canonical form."""
        return parameters.digest(self._theta, self.layout)

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int,
        places: Sequence[int] | None = None,
    ) -> list[list[Answer]]:  # fmt: skip
        """Several walks per prompt at the current θ; walks at ``places`` left out are dropped."""
        at = dict(zip(places or range(len(prompts)), prompts, strict=True))
        every = [at.get(i, prompts[0]) for i in range(max(at, default=-1) + 1)]
        asked = [prompt for prompt in every for _ in range(samples)]
        batch = self.walk(self._theta, asked, derive(seed, "sample"))
        return [list(batch[i * samples : (i + 1) * samples]) for i in at]

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per move under θ = 0, where all four moves are equally likely."""
        return np.full(len(answers), -np.log(4.0))

    def walk(self, theta: Theta, prompts: Sequence[Prompt], key: bytes) -> Batch:
        """One walk per prompt."""
        yard, rows = self.yard, len(prompts)
        cells = np.array([yard.start(prompt) for prompt in prompts], dtype=np.int64)
        u = uniform(key, rows * yard.horizon * 2).reshape(rows, yard.horizon, 2)
        words: list[list[str]] = [[] for _ in range(rows)]
        for chosen, moved, after, walking in yard.walk(theta["logits"], cells, u):
            cells = after
            for i in np.flatnonzero(walking):
                turned = "" if chosen[i] == moved[i] else f">{MOVES[moved[i]]}"
                words[i].append(MOVES[chosen[i]] + turned)
        return tuple(_describe_walk(words[i], float(yard.ending[cells[i]])) for i in range(rows))


def policy(*, root_seed: int) -> TabularPolicy:
    """The entry point ``tabular`` of `szpo.policies`."""
    return TabularPolicy(root_seed)


def score_walk(prompt: Prompt, answer: Answer) -> float:
    """The worth of a walk, read from its text: 1 at the well, −1 in the pit, −.04 per move."""
    moves, dot, end = answer.text.partition(".")
    if not dot or any(word.split(">")[0] not in MOVES for word in moves.split()):
        raise RunError(f"reward walk: {answer.text[:60]!r} is not a walk through the yard")
    ending = {WELL: 1.0, PIT: -1.0}.get(end.strip(), 0.0)
    return ending - COST * len(moves.split())


walk = bare(Feature("walk", score_walk))
"""The entry point ``walk`` of `szpo.rewards`."""


def _describe_walk(moves: list[str], worth: float) -> Answer:
    end = WELL if worth > 0 else PIT if worth < 0 else ""
    text = f"{' '.join(moves)}. {end}".rstrip()
    return Answer(text, "stop" if worth else "length", len(moves))
