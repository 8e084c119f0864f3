"""The contracts of evaluators and judges, which answer the comparisons of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from szpo.errors import RunError
from szpo.types import Choice, Comparison
from szpo.voting.seats import Letter


class NobodyLeftError(RunError):
    """Every panelist has been asked, and a comparison still lacks votes."""


@runtime_checkable
class Evaluator(Protocol):
    """Answers the comparisons of a step by votes in the ledger, at once or over time.

    It is built over a `szpo.voting.service.VoteService`, where it casts its votes (`enroll`,
    `assign_to`, `cast`). The controller reads the votes from the ledger, so neither method returns
    anything.
    """

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Ask for answers; called again after a crash with the same comparisons."""

    def poll(self, step: int) -> None:
        """Cast the answers that have come since the last call.

        Called whenever the controller checks an open step. There is nothing to do if answers are
        cast as they come, by `submit` or by other processes.
        """


@runtime_checkable
class Judge(Protocol):
    """A panelist in this process. All its randomness must come from the key."""

    def judge(
        self, comparison: Comparison, *, panelist: str, plus_side: Letter, key: bytes
    ) -> Choice:
        """Which side is better; plus is on ``plus_side``. Rows with equal texts are not shown."""


@runtime_checkable
class Tiring(Judge, Protocol):
    """A judge whose answers depend on how many it has given before."""

    tires: bool

    def after(self, given: int) -> Judge:
        """The judge after ``given`` votes."""
