"""Drive a whole run: its loop, and beside it measuring, orders and callbacks.

The command line and the library both drive runs with `drive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from szpo.analysis import measuring
from szpo.improvement.between_rounds import Improving
from szpo.ledger.database import Ledger
from szpo.runs import callbacks as calls
from szpo.runs import controller, driver
from szpo.runs.assemble import RunParts
from szpo.runs.callbacks import Callback
from szpo.types import Say
from szpo.voting import lease, policy_checks
from szpo.voting.panel_evaluator import Score
from szpo.voting.step_record import Outcome, StepReport

POLL_S: Final = 0.5
"""Seconds between two checks for votes and orders while a run waits."""


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

    def on_step(report: StepReport) -> None:
        for each in every:
            each.after_step(report)
        if back := policy_checks.why_back(ledger, report.step + 1):
            say(back)
        improving.look()
        measuring.after_step(measures, report)
        driver.fulfil(ledger, parts, say)

    with lease.hold(ledger) as held, closing(Improving(ledger, parts, say)) as improving:
        wait = partial(improving.wait, POLL_S)
        desk = driver.LeaseHolder(ledger, parts, held, wait, say)

        def turn() -> bool:
            desk.do_one_turn()
            return not stay or desk.is_settled()

        while True:
            measuring.before(measures)
            improving.look()
            with calls.calling(every, facts) as note:
                loop = driver.prepare(ledger, parts, say)
                outcome = controller.run(
                    replace(loop, on_step=on_step, wait=desk.do_one_turn, lease=held)
                )
                note(outcome)
            improving.at_end(outcome, turn)
            measuring.after(measures, outcome)
            if not stay:
                driver.fulfil(ledger, parts, say)
                return outcome
            desk.stand_by(outcome)
