"""Shared by all gradient methods: their settings, costs, and results.

Recipes: the settings of gradient methods, as sections of the same kind as a run's. Texts are
converted to the type of the field, so values may come from a command line.
`szpo.baselines.registry.recipe` checks them.

A method is one file with ``train(actor, source, recipe, **shared) -> Trained``. It learns from
pairs (`Pair`), from an annotator that it asks (`Ask`) or from a score (`Score`). Its recipe is a
frozen dataclass. No tensor library is needed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Required, TypeAlias, TypedDict

from pydantic import ConfigDict, Field, ValidationError

from szpo import memory
from szpo.config.section import Section, describe
from szpo.errors import UsageError
from szpo.types import Answer

Count: TypeAlias = Annotated[int, Field(ge=1)]
Group: TypeAlias = Annotated[int, Field(ge=2)]
"""Number of answers to one prompt that are compared with each other."""
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Weight: TypeAlias = Annotated[float, Field(ge=0)]
"""Weight of a term of the loss."""
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Epochs: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recipe(Section):
    """The settings of a gradient method."""

    model_config = ConfigDict(strict=False)

    def __init__(self, **values: Any):
        """Raises UsageError, one line, if a value is out of range."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = describe(type(self), error.errors(include_url=False)[0])
            raise UsageError(wrong) from None


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of a method; votes and answers read are counted as in an szpo run."""

    votes: int = 0
    """Votes A, B or tie on comparisons with different answers."""
    answers_read: int = 0
    """Answers shown: two for each row whose answers differ."""
    tokens_generated: int = 0
    """Tokens of all answers that the method drew, whether read or not."""
    seconds: float = 0.0
    """Wall-clock time without measurements."""
    peak_bytes: int = 0
    """Largest resident memory of the process so far."""


@dataclass
class Meter:
    """Adds up a method's costs; the clock runs inside ``with meter:``."""

    votes: int = 0
    answers_read: int = 0
    tokens_generated: int = 0
    seconds: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def charge_tokens(self, answers: Sequence[Answer]) -> None:
        """Add the tokens of these answers."""
        self.tokens_generated += sum(answer.tokens for answer in answers)

    def charge_votes(self, rows: Sequence[tuple[Answer, Answer]], votes: int = 1) -> None:
        """Add votes on one comparison of these rows; identical rows are not read."""
        self.votes += votes
        self.answers_read += 2 * votes * sum(a.text != b.text for a, b in rows)

    def __enter__(self) -> Meter:
        """Start the clock."""
        self._since = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clock."""
        self.seconds = self.cost().seconds
        self._since = None

    def report(self, on_step: OnStep, step: int, of: int, figures: Mapping[str, float]) -> None:
        """Call ``on_step`` with the clock stopped, so that measurements are not counted."""
        ran = self._since is not None
        self.__exit__()
        on_step(Moment(step, of, self.cost(), figures))
        if ran:
            self.__enter__()

    def cost(self) -> Cost:
        """The costs so far."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return Cost(
            self.votes,
            self.answers_read,
            self.tokens_generated,
            self.seconds + running,
            memory.peak_bytes(),
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """One finished step of training, reported while the actor has the weights after it."""

    step: int
    """Counted from 1."""
    of: int
    cost: Cost
    figures: Mapping[str, float]
    """Logged figures of the step: loss, reward, KL, …"""


OnStep: TypeAlias = Callable[[Moment], None]
"""Called after each step; the actor may be sampled and measured inside it (on no clock)."""


class Shared(TypedDict, total=False):
    """The arguments that all methods share."""

    seed: Required[int]
    """Root seed of all draws; the same seed gives the same weights."""
    on_step: OnStep
    """Called after each optimizer step."""
    meter: Meter
    """A meter with earlier costs; by default a new one."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training run; the actor now has the trained weights."""

    cost: Cost
    log: tuple[Mapping[str, float], ...]
    """The figures of each step."""
    pairs: int = 0
    """Pairs in the training set; in supervised fine-tuning, examples."""
    ties: int = 0
    """Questions that gave no pair."""
    remark: str = ""
    """A warning about the result; "" for none."""


def ignore_step(_: Moment) -> None:
    """Do nothing after a step."""
