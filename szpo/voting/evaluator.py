"""The contracts of evaluators and judges, which answer comparisons, and their tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from szpo import seeds
from szpo.config.optimizer import make_settings, record_settings
from szpo.errors import RunError
from szpo.ledger.creation import NewRun
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest
from szpo.types import Answer, Choice, Comparison, Prompt, Query, Row, Say
from szpo.voting import casting, counting, step_states
from szpo.voting.seats import LETTERS, Letter
from szpo.voting.service import VoteService


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
class Telling(Evaluator, Protocol):
    """An evaluator that takes long, and says how far it is; ``say`` may be set from outside."""

    say: Say


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


def check_judge(judge: Judge) -> None:
    """Test a judge on three comparisons: answers must be valid and depend on its input alone."""
    for comparison in _examples(0):
        for side in LETTERS:
            keys = [seeds.derive(n, "check") for n in (1, 1, 2)]
            given = [
                judge.judge(comparison, panelist="p", plus_side=side, key=key) for key in keys
            ]
            for choice in given:
                if choice not in casting.CHOICES:
                    raise RunError(f"judge answered {choice!r}; answer A, B, tie or skip")
            if given[0] != given[1]:
                raise RunError(
                    "judge gave two answers for the same comparison, side and key; draw all "
                    "randomness from the key"
                )


def check_evaluator(
    make: Callable[[VoteService], Evaluator], *, serve: Callable[[VoteService], None] | None = None
) -> None:
    """Test an evaluator on a small ledger of its own.

    ``make`` builds the evaluator over a vote service. ``serve`` takes the place of people who vote
    between submit and poll, if the evaluator does not answer by itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        layout = (("z", (2,)),)
        settings = make_settings(7, layout, K=1, N=3, D=2)
        with Ledger.create(
            Path(folder) / "check.db",
            NewRun(
                {"optimizer": record_settings(settings)},
                root_seed=7,
                layout=layout,
            ),
        ) as ledger:
            ledger.execute("UPDATE controller SET epoch = 1")
            service = VoteService(ledger)
            evaluator = make(service)
            examples = _examples(0)
            step_states.record_plan(
                ledger, 1, settings, Query(0, (), 1.0, None), theta_digest(ledger)
            )
            step_states.begin(ledger, 1, 0)
            step_states.store(ledger, 1, 0, examples, theta_digest(ledger), then_open=True)
            evaluator.submit(examples)
            if serve is not None:
                serve(service)
            evaluator.poll(0)
            found = service.counted(0)
            if any(vote.comparison == examples[-1].id for vote in found):
                raise RunError("evaluator: identical comparisons are not asked")
            if counting.missing(ledger, 0):
                raise RunError("evaluator: after submit (and serve) every comparison has M votes")
            evaluator.poll(0)
            if service.counted(0) != found:
                raise RunError("evaluator: a poll with nothing new must change no counted vote")
            evaluator.submit(examples)
            evaluator.poll(0)
            if service.counted(0) != found:
                raise RunError("evaluator: a second submit must change no counted vote")


def _examples(step: int) -> tuple[Comparison, ...]:
    prompt = Prompt.user("Describe a rainy Monday.")
    good, bad = Answer("Warm tea and a good book."), Answer("Cold, wet and late again.")
    pairs = [(good, bad), (bad, good), (good, good)]
    return tuple(
        Comparison(f"check-{n}", step, 0, n, (Row(prompt, plus, minus),) * 2)
        for n, (plus, minus) in enumerate(pairs)
    )
