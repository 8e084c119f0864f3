"""Facts that pass between the parts, all frozen; no logic beyond reading them.

Words are those of the project: a *step* has K directions, each direction N *comparisons*, a
comparison shows two *batches* of D *rows*, a row is one prompt with one answer from either policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Sign: TypeAlias = Literal[-1, 0, 1]
Choice: TypeAlias = Literal["A", "B", "tie", "skip"]
Verdict: TypeAlias = Literal["plus", "minus", "tie", "skip"]
Kind: TypeAlias = Literal["train", "gold", "aa", "repeat", "final", "practice"]
Pairing: TypeAlias = Literal["antithetic", "forward"]

Say: TypeAlias = Callable[[str], None]
"""Takes a line for the user."""

FEATURE_GRID: Final = 4096
"""Steps of a feature's recorded number, a difference or a scale, in one spread of it: 2¹²."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of the trainable tensors, in their one canonical order."""
Theta: TypeAlias = Mapping[str, NDArray[np.float32]]
"""The master coordinates: one fp32 array per name of a layout."""
Grid: TypeAlias = tuple[int, ...]
"""A direction (d,) that no seed gives, in units of 1/256, each of 16 bits."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation up to and including the turn that wants an answer.

    >>> Prompt.user("Describe a rainy Monday.").text
    'Describe a rainy Monday.'
    """

    turns: tuple[tuple[str, str], ...]
    """(role, text) pairs; roles are system, user and assistant."""

    @classmethod
    def user(cls, text: str, system: str | None = None) -> Prompt:
        """A single question, with an optional system prompt before it."""
        head = (("system", system),) if system else ()
        return cls((*head, ("user", text)))

    @property
    def text(self) -> str:
        """The last turn's text: what a panelist reads above the answers."""
        return self.turns[-1][1]


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated text, why it ended, and its length in tokens."""

    text: str
    end: Literal["stop", "length"] = "stop"
    tokens: int = 0


Batch: TypeAlias = tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """The policy at θ + sign · radius · v(step, k); sign 0 is θ itself.

    ``radius`` multiplies the integer direction of `szpo.optim.sample_directions` and is rounded to
    13 significant bits, so that radius · v is exact in fp32.
    """

    step: int
    k: int
    sign: Sign
    radius: float
    grid: Grid | None = None
    """v, where it is none that the seed gives."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One explanation of the votes so far, as a direction to ask along."""

    chance: int
    """How often it is drawn, in units of 2⁻¹⁶; from 1 up."""
    regressors: tuple[int, ...]
    """Numbers of the features, and behind them of the score components, that have a weight."""
    weights: tuple[int, ...]
    """Of these, relative to each other, of 16 bits: the largest is ±(2¹⁵ − 1)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What directions of a step were drawn from, and what they are; part of its plan."""

    after: int
    """Steps that were finished when they were drawn: their votes were known."""
    ways: tuple[Explanation, ...]
    """None before the first vote: then the directions are those of the seed."""
    grids: tuple[Grid, ...]
    """The directions; none where there are no ways."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a step asks: per direction k the two policies to compare, (plus, minus)."""

    step: int
    shifts: tuple[tuple[Shift, Shift], ...]
    mu: float
    """Perturbation radius μ in the units of the unit-variance direction."""
    alpha: float | None
    """Step size α; None while the warm-up still measures it, and under ``regression``."""
    asked: Asked | None = None
    """What the directions were drawn from; None where the seed alone gives them."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step did to θ: θ ← θ + coef · v(step, k), or θ ← θ + vector; exactly one is set.

    ``coef`` has 13 significant bits and multiplies the integer-grid direction; ``vector`` holds
    fp32 values (as Python floats) and exists for layouts of a single small tensor only.
    """

    step: int
    k: int
    coef: float | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """What a person wants to see of a step; the algorithm never reads it back.

    Per direction: the value difference Δ̂ (in link units) and its standard error.
    """

    step: int
    delta: tuple[float, ...]
    stderr: tuple[float, ...]
    win_rate: float
    votes: float
    capped: bool = False
    """The coefficient was larger than the cap and was cut to it."""
    warmup: bool = False
    extra: Mapping[str, Any] | None = None
    flip_share: float | None = None
    """Smallest share of voters who, voting against throughout, would have turned the step."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counted votes of a step, as arrays (..., K, N); leading axes are repetitions.

    Entries may be weighted (non-integer). ``identical`` marks comparisons whose rows are all the
    same on both sides: their difference is exactly 0 and nobody is asked.
    """

    plus: Floats
    minus: Floats
    tie: Floats
    identical: NDArray[np.bool_]
    cast: Floats | None = None
    """Votes given (..., K, N), where ``plus``, ``minus`` and ``tie`` are sums of voters' weights;
    None: each vote counts once."""
    side: Floats | None = None
    """Votes (..., K, N) for a side while plus stood on A less those while it stood on B, as a
    share of both, in [−1, 1]; None where nobody counted them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and the two policies' answers to it."""

    prompt: Prompt
    plus: Answer
    minus: Answer

    @property
    def identical(self) -> bool:
        """Both texts are the same, so the row is not shown."""
        return self.plus.text == self.minus.text


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two batches for the same prompts, to be judged as wholes."""

    id: str
    step: int
    k: int
    n: int
    rows: tuple[Row, ...]
    kind: Kind = "train"
    repeats: str | None = None
    expected: Verdict | None = None

    @property
    def identical(self) -> bool:
        """Every row is identical, so the answer is a tie without asking."""
        return all(row.identical for row in self.rows)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A comparison shown to one panelist, with the side on which plus stands."""

    id: str
    comparison: str
    panelist: str
    plus_side: Literal["A", "B"]
    prompt_order: tuple[int, ...]
    expires_us: int

    def sides(self, row: Row) -> tuple[Answer, Answer]:
        """A row's answers as this panelist sees them: A, then B."""
        return (row.plus, row.minus) if self.plus_side == "A" else (row.minus, row.plus)


@dataclass(frozen=True, slots=True)
class Vote:
    """One counted answer, resolved from the screen's side to the policy's."""

    comparison: str
    panelist: str
    k: int
    n: int
    verdict: Verdict
    choice: Choice
    revision: int = 0
    received_us: int = 0
