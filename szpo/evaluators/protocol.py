"""The contracts of evaluators and judges, which answer the comparisons of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from szpo.errors import RunError
from szpo.types import Choice, Comparison
from szpo.voting.seats import Letter


class NobodyLeftError(RunError):
    """Everybody in a panel has been asked and a comparison still lacks votes."""


@runtime_checkable
class Evaluator(Protocol):
    """Answers the comparisons of a step, at once or over time, as votes in the ledger.

    It is built over a `szpo.voting.service.VoteService` and casts its votes there (`enroll`,
    `assign_to`, `cast`). The controller reads them from the ledger, so neither method returns
    anything.
    """

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Ask for answers; called again after a crash with the same comparisons."""

    def poll(self, step: int) -> None:
        """Cast the answers that have come since the last call.

        Called at each look at an open step until it is closed. Nothing is to be done where
        answers are cast as they come, by `submit` or by other processes.
        """


@runtime_checkable
class Judge(Protocol):
    """One in-process panelist. The key is the only randomness it may use."""

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """Which batch is better, as letters on screen; rows with equal texts are not shown."""


@runtime_checkable
class Tiring(Judge, Protocol):
    """A judge whose answers depend on how many it has given."""

    tires: bool

    def after(self, given: int) -> Judge:
        """The judge after ``given`` votes."""
