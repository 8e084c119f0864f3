"""A whole run with what goes on beside it: measuring, orders, the web hook, callbacks, trackers.

The command line and the library both drive runs by `conduct`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from szpo.analysis import measuring
from szpo.evaluators.hidden_reward import Score
from szpo.ledger.database import Ledger
from szpo.notices import callbacks as calls
from szpo.notices import trackers, web_hook
from szpo.notices.callbacks import Callback
from szpo.runs import assemble, driver, worker
from szpo.runs.assemble import Parts
from szpo.training.step_report import Outcome, StepReport
from szpo.voting.lease import Lease

Say = Callable[[str], None]


def quietly(line: str) -> None:
    """Show a line to nobody."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What goes on beside a run."""

    callbacks: Sequence[Callback] = ()
    measured: bool = True
    """Measure on held-out prompts as ``[evaluation]`` says."""
    score: Score | None = None
    """The reward of a simulated panel, for measuring; None where nobody knows one."""
    say: Say = quietly
    """Takes lines for the user."""
    wait: Callable[[], None] | None = None
    """Called between two looks at the ledger; None: sleep for ``panel.poll_seconds``."""


NOTHING: Final = Beside()


def conduct(
    ledger: Ledger, parts: Parts, beside: Beside = NOTHING, *, stay: bool = False
) -> Outcome:
    """Drive a run to its end or pause, and do what goes on beside it.

    With ``stay`` it returns only by an exception: a signal, or what ends a run.

    Raises:
        LeaseError: another controller holds the run, or took it over.
        SzpoError: what ends a run; see `szpo.training.controller.run`.
    """
    config, say = parts.config, beside.say
    source = assemble.source(ledger, parts)
    pause = beside.wait or driver.make_waiter(config)
    measured = measuring.prepare(ledger, parts, beside.score, say) if beside.measured else None
    facts = calls.read_facts(ledger)
    tracked = trackers.open_tracker(config.tracking, ledger.path.parent, say)
    every = (*beside.callbacks, *tracked)
    with web_hook.sending(ledger, config.hook, say) as begin_sending:

        def on_step(report: StepReport) -> None:
            for each in every:
                each.after_step(report)
            measuring.after_step(measured, report)
            worker.fulfil(ledger, source, say)

        def go(held: Lease, wait: Callable[[], None]) -> Outcome:
            begin_sending()
            measuring.before(measured)
            with calls.calling(every, facts) as note:
                found = driver.drive(ledger, parts, on_step=on_step, wait=wait, held=held, say=say)
                note(found)
            measuring.after(measured, found)
            return found

        if stay:
            worker.attend(ledger, source, go, wait=pause, say=say)
        return worker.drive_once(ledger, source, go, wait=pause, say=say)
