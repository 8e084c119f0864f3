"""Requests to the holder of a model: rows to be answered, or answers to be read.

A request is all that is sent to a worker on another machine: kilobytes, whatever the model's size.
A row's uniform numbers are a slice of its key's stream, so they do not depend on the worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.models.sampling import Sampling
from szpo.types import Floats, Shift, Theta

Tokens: TypeAlias = tuple[tuple[int, ...], ...]
R = TypeVar("R")


@dataclass(frozen=True)
class AnswerRequest:
    """Rows to be answered by members of one base model."""

    theta: Theta
    """Master coordinates θ."""
    shifts: tuple[Shift, ...]
    """One per member, at θ + shift. Without shifts, see ``thetas``."""
    prompts: tuple[tuple[int, ...], ...]
    """Different prompts, as tokens."""
    keys: tuple[bytes, ...]
    """Keys of random numbers, 16 bytes each."""
    rows: NDArray[np.int64]
    """(rows, 4): numbers of the row's prompt, member and key; its place in the key's stream."""
    sampling: Sampling
    canary: bool = False
    """Check that members which answer a common prompt differ in the logits after it."""
    base: bool = False
    """θ is the start; if the start is the base model itself, no adapter is computed."""
    thetas: tuple[Theta, ...] = ()
    """Without shifts: the members' coordinates. Without both, the bare base model answers."""

    def row_prompts(self) -> list[tuple[int, ...]]:
        """The tokens of each row's prompt."""
        return [self.prompts[i] for i in self.rows[:, 0]]

    def members(self) -> list[int]:
        """The member of each row."""
        members: list[int] = self.rows[:, 1].tolist()
        return members

    def uniforms(self) -> Floats:
        """The uniform numbers in [0, 1) for the draws, (rows, new tokens)."""
        width = self.sampling.max_new_tokens
        parts = [
            seeds.uniform(self.keys[key], width, start=place * width)
            for key, place in self.rows[:, 2:].tolist()
        ]
        return np.stack(parts) if parts else np.zeros((0, width))

    def split(self, size: int) -> list[tuple[NDArray[np.int64], Self]]:
        """Split the request into chunks of ``size`` rows, each with the indices of its rows.

        Rows of one prompt stay together, so plus and minus of a comparison mostly share a chunk.
        The chunks depend only on the rows and ``size``, never on the workers.
        """
        order = np.argsort(self.rows[:, 0], kind="stable")
        cuts = [order[i : i + size] for i in range(0, len(order), size)]
        return [(rows, self.pick(rows)) for rows in cuts]

    def pick(self, rows: NDArray[np.int64]) -> Self:
        """The request for some of its rows, without data that only the others need."""
        table = self.rows[rows].copy()
        used = []
        for column in range(3):
            numbers, table[:, column] = np.unique(table[:, column], return_inverse=True)
            used.append(numbers.tolist())
        prompts, members, keys = used
        return replace(
            self,
            shifts=tuple(self.shifts[i] for i in members if self.shifts),
            thetas=tuple(self.thetas[i] for i in members if self.thetas),
            prompts=tuple(self.prompts[i] for i in prompts),
            keys=tuple(self.keys[i] for i in keys),
            rows=table,
            canary=self.canary and len(members) > 1,
        )


@dataclass(frozen=True)
class Texts(Generic[R]):
    """Answers to be read; the class of a request says what of them, and by which policy."""

    prompts: tuple[tuple[int, ...], ...]
    """The prompt of each answer, as tokens."""
    answers: tuple[tuple[int, ...], ...]

    def split(self, size: int) -> list[Self]:
        """Split the request into chunks of ``size`` answers, in order."""
        starts = range(0, len(self.answers), size)
        return [self._pick(range(i, min(i + size, len(self.answers)))) for i in starts]

    def _pick(self, rows: Sequence[int], **more: Any) -> Self:
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
            **more,
        )


class LogProbs(Texts[Floats]):
    """Log-probability of each token at the start, nats; one answer after the other."""


class Totals(Texts[Floats]):
    """Log-probability of each whole answer at the start, nats, (answers,)."""


class Odds(Texts[Floats]):
    """Log-probability of each answer's tokens as the bare model's next one, nats."""


class States(Texts[Floats]):
    """Mean and last hidden state of each answer in the bare model."""


class Inputs(Texts[Mapping[str, NDArray[Any]]]):
    """An A for each site from its layer's inputs, in one chunk."""

    def split(self, size: int) -> list[Self]:
        """The request itself."""
        return [self]


@dataclass(frozen=True)
class KL(Texts[Floats]):
    """KL of member to start per answer, nats, (answers,)."""

    thetas: tuple[Theta, ...]
    """The members' master coordinates."""
    owner: tuple[int, ...]
    """The member of each answer."""
    temperature: float = 1.0

    def _pick(self, rows: Sequence[int], **more: Any) -> Self:
        used = sorted({self.owner[row] for row in rows})
        number = {member: i for i, member in enumerate(used)}
        return super()._pick(
            rows,
            thetas=tuple(self.thetas[member] for member in used),
            owner=tuple(number[self.owner[row]] for row in rows),
        )


@dataclass(frozen=True)
class Moves(Texts[Floats]):
    """Scores of each answer along members, and its Fisher matrix in them."""

    thetas: tuple[Theta, ...]
    """The members' master coordinates."""
    temperature: float = 1.0
    fisher: bool = True
    """False: the scores alone, which take less time."""


@dataclass(frozen=True)
class Scores(Texts[NDArray[np.float32]]):
    """Gradients of log π(answer) in every B; several rows for an answer with redraws or cuts."""

    theta: Theta | None = None
    """Where; None: at the start."""
    temperature: float = 1.0
    redraws: int = 0
    """Samples of the score per answer with redrawn tokens, besides its own."""
    seed: int = 0
    """Seed of the redrawn tokens."""
    cuts: tuple[int, ...] = ()
    """Token positions at which the second and later parts of an answer begin."""

    def split(self, size: int) -> list[Self]:
        """See `Texts.split`; redrawn tokens have their own seed in every chunk but the first."""
        return [
            chunk if i == 0 else replace(
                chunk, seed=seeds.child_seed(self.seed, i, "chunk of scores")
            )
            for i, chunk in enumerate(super().split(size))
        ]  # fmt: skip


def join(parts: Sequence[Any]) -> Any:
    """Join what was read of a request's chunks."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0)
