"""The contracts of evaluators and judges: whatever answers comparisons, now, later or in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from szpo.errors import RunError
from szpo.types import Choice, Comparison, Vote


class NobodyLeftError(RunError):
    """Everybody in a panel has been asked and a comparison still lacks votes."""


@runtime_checkable
class Evaluator(Protocol):
    """Answers the comparisons of a step; asking and answering are apart, so people fit."""

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Ask; called again after a crash with the same comparisons."""

    def collect(self, step: int) -> Sequence[Vote]:
        """The counted votes of a step so far; empty while people think."""


@runtime_checkable
class Judge(Protocol):
    """One in-process panelist. The key is the only randomness it may use."""

    def judge(
        self,
        comparison: Comparison,
        *,
        panelist: str,
        plus_side: Literal["A", "B"],
        key: bytes,
    ) -> Choice:
        """Which batch is better, as letters on screen; rows with equal texts are not shown."""


@runtime_checkable
class Tiring(Judge, Protocol):
    """A judge whose answers depend on how many it has given."""

    tires: bool

    def after(self, given: int) -> Judge:
        """The judge after so many votes."""
