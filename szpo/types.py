"""Frozen data that all parts of szpo exchange, without logic beyond reading them.

The project's terms: a *step* has K directions, each direction N *comparisons*. A comparison shows
two *batches* of D *rows*, and a row is one prompt with one answer from each policy.
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
DECIDED: Final[tuple[Verdict, ...]] = ("plus", "minus")
"""Verdicts that prefer a side."""
Kind: TypeAlias = Literal["train", "gold", "aa", "final"]
"""Of a comparison; ``gold`` and ``aa`` are of runs that an earlier version began."""
Pairing: TypeAlias = Literal["antithetic", "forward"]

Say: TypeAlias = Callable[[str], None]
"""Prints a line for the user."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""A function of (stage, parts done, parts in all); 0 where parts are not counted."""

FEATURE_GRID: Final = 4096
"""Features' differences and scales are recorded as integers, in units of 1/4096 of a spread."""
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of the trainable tensors, in canonical order."""
Theta: TypeAlias = Mapping[str, NDArray[np.float32]]
"""The master coordinates: one fp32 array per name of a layout."""
Grid: TypeAlias = tuple[int, ...]
"""A direction (d,) that does not come from the seed: 16-bit integers in units of 1/256."""
Batch: TypeAlias = "tuple[Answer, ...]"


class Detail(str):
    """A line of a set-up for who knows the method; ``szpo demo`` shows it with -v only."""

    __slots__ = ()


class Passing(str):
    """A line that holds for a moment; where a line may move, it is shown in that one."""

    __slots__ = ()


def silent(line: str) -> None:
    """Say a line to nobody."""


def unseen(stage: str, done: int, of: int) -> None:
    """Show the progress to nobody."""


def sides(rows: int) -> str:
    """What a vote on so many rows compares, in words.

    >>> sides(1), sides(8)
    ('two answers', 'two batches of 8 answers')
    """
    return "two answers" if rows == 1 else f"two batches of {rows} answers"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation up to and including the turn to answer.

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
    end_token: int | None = None
    """The token that ended it, if that is not its model's usual one; the record has none."""


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
    """v, if it does not come from the seed."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One explanation of the votes so far, which gives a direction to ask along."""

    chance: int
    """Probability of drawing it, in units of about 2⁻¹⁶; at least 1."""
    regressors: tuple[int, ...]
    """Indices of the regressors with a weight: features first, then score components."""
    weights: tuple[int, ...]
    """Relative weights of these as 16-bit integers: the largest is ±(2¹⁵ − 1)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The directions of a step that were drawn from explanations; part of the step's plan."""

    after: int
    """Number of steps that were finished at the draw, so that their votes were known."""
    ways: tuple[Explanation, ...]
    """The explanations; empty before the first vote, when directions come from the seed."""
    grids: tuple[Grid, ...]
    """The directions; empty without explanations."""


@dataclass(frozen=True, slots=True)
class Query:
    """A step's question: for each direction k the two policies to compare, (plus, minus)."""

    step: int
    shifts: tuple[tuple[Shift, Shift], ...]
    mu: float
    """Perturbation radius μ of the unit-variance directions."""
    alpha: float | None
    """Step size α; None during a warm-up and under ``regression``."""
    asked: Asked | None = None
    """The explanations and the directions drawn from them; None if the seed gives directions."""


@dataclass(frozen=True, slots=True)
class Update:
    """A step's change of θ: θ ← θ + coef · v(step, k), or θ ← θ + vector; exactly one is set.

    ``coef`` has 13 significant bits and multiplies the integer-grid direction. ``vector`` holds
    fp32 values (as Python floats), and is only for layouts of a single small tensor.
    """

    step: int
    k: int
    coef: float | None = None
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """A step's figures for people; the algorithm never reads them back.

    For each direction, the value difference Δ̂ (in link units) and its standard error.
    """

    step: int
    delta: tuple[float, ...]
    stderr: tuple[float, ...]
    win_rate: float
    votes: float
    capped: bool = False
    """A coefficient was clipped to ``coef_cap``."""
    warmup: bool = False
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Counted votes of a step, as arrays (..., K, N); leading axes are repetitions.

    Entries may be weighted (non-integer). ``identical`` marks comparisons with equal answers in
    every row: their difference is exactly 0, and nobody is asked.
    """

    plus: Floats
    minus: Floats
    tie: Floats
    identical: NDArray[np.bool_]
    cast: Floats | None = None
    """Number of votes (..., K, N), if ``plus``, ``minus`` and ``tie`` are sums of voters' weights;
    None: each vote counts once."""
    side: Floats | None = None
    """(..., K, N): votes for a side with plus on A minus those with plus on B, as a share of both,
    in [−1, 1]; None if they were not counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and the two policies' answers to it."""

    prompt: Prompt
    plus: Answer
    minus: Answer

    @property
    def identical(self) -> bool:
        """Both texts are equal, so the row is not shown."""
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
    """A comparison assigned to one panelist, with the side on which plus is shown."""

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
    """One answer to a comparison, with the screen's side and the policy's verdict."""

    comparison: str
    panelist: str
    k: int
    n: int
    verdict: Verdict
    choice: Choice
    revision: int = 0
    received_us: int = 0
    id: int = 0
    """Its row's."""
    plus_side: Literal["A", "B"] = "A"
    harmful: bool = False
    """A skip after which nobody is shown the row again, and no vote on it counts."""
