"""Drive a whole run: its loop, and beside it improving, measuring, orders and callbacks.

The command line, the library and the cells of a study all drive runs with `drive`; only a `Tuner`
whose votes are told by hand takes a `Driving` as far as the votes of each call reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from szpo.analysis import measuring
from szpo.improvement.between_rounds import Improving
from szpo.improvement.guidance import Guiding
from szpo.ledger.database import Ledger
from szpo.runs import callbacks as calls
from szpo.runs import controller, driver
from szpo.runs.assemble import RunParts
from szpo.runs.callbacks import Callback
from szpo.types import Say
from szpo.voting import blind, lease
from szpo.voting.applied_step import Outcome, StepReport
from szpo.voting.lease import Lease
from szpo.voting.panel_evaluator import Score

POLL_S: Final = 0.5
"""Seconds between two checks for votes and orders while a run waits."""


class Driving:
    """A run that is driven under a lease; close it where the run is left.

    ``callbacks`` are called after each step; beginning and ending them is the caller's.
    ``waits``: the caller tells the votes, and the run waits for an improvement and for answers
    also where people vote.
    """

    def __init__(
        self,
        ledger: Ledger,
        parts: RunParts,
        callbacks: Sequence[Callback],
        say: Say,
        *,
        measures: measuring.Measuring | None = None,
        waits: bool = False,
    ):
        self._ledger, self._parts, self._callbacks, self._say = ledger, parts, callbacks, say
        self._measures: Final = measures
        self._waits: Final = waits
        self._improving: Final = Improving(ledger, parts, say, waits=waits)
        self._guiding: Final = Guiding(ledger, parts, say, waits=waits)

    def go(
        self, held: Lease, wait: Callable[[], None], turn: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Drive the run to its end or pause.

        ``wait`` is called between two reads of the ledger, ``turn`` while the run is improved at
        its end; it says whether the run is still there.
        """
        measuring.before(self._measures)
        self._improving.look()
        loop = driver.prepare(self._ledger, self._parts, self._say, by_hand=self._waits)
        loop = replace(
            loop, on_step=self._on_step, wait=wait, guide=self._guiding.look, lease=held
        )
        outcome = controller.run(loop)
        self._improving.at_end(outcome, turn)
        measuring.after(self._measures, outcome)
        return outcome

    def wait(self, seconds: float) -> None:
        """Let what goes on beside the rounds move for so long; sleep where nothing does."""
        (self._guiding if self._guiding.at_work else self._improving).wait(seconds)

    def close(self) -> None:
        """Stop what goes on beside the rounds."""
        self._guiding.close()
        self._improving.close()

    def _on_step(self, report: StepReport) -> None:
        for each in self._callbacks:
            each.after_step(report)
        if back := blind.why_back(self._ledger, report.step + 1):
            self._say(back)
        self._improving.look()
        measuring.after_step(self._measures, report)
        driver.fulfil(self._ledger, self._parts, self._say)


def drive(
    ledger: Ledger,
    parts: RunParts,
    callbacks: Sequence[Callback] = (),
    *,
    measured: bool = True,
    score: Score | None = None,
    say: Say = lambda line: None,
    stay: bool = False,
) -> Outcome:
    """Drive a run to its end or pause, with measuring, orders and callbacks.

    Args:
        ledger: The run, opened for writing.
        parts: The run's parts.
        callbacks: Called during the run, besides the tracker of its settings.
        measured: Measure on held-out prompts as ``[evaluation]`` says.
        score: The reward of a simulated panel, for measuring; None without one.
        say: Prints lines for the user.
        stay: Never return normally; end only by an exception, such as a signal.
    """
    config = parts.config
    measures = measuring.prepare(ledger, parts, score, say) if measured else None
    facts = calls.read_facts(ledger)
    every = (*callbacks, *calls.open_tracker(config.run.tracker, ledger.path.parent, say))
    with (
        lease.hold(ledger) as held,
        closing(Driving(ledger, parts, every, say, measures=measures)) as driving,
    ):
        desk = driver.LeaseHolder(ledger, parts, held, partial(driving.wait, POLL_S), say)

        def turn() -> bool:
            desk.do_one_turn()
            return not stay or desk.is_settled()

        while True:
            with calls.calling(every, facts) as note:
                outcome = driving.go(held, desk.do_one_turn, turn)
                note(outcome)
            if not stay:
                driver.fulfil(ledger, parts, say)
                return outcome
            desk.stand_by(outcome)
