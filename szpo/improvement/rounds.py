"""When a run improves on the taste of its votes, beside its rounds of votes.

It is due after the step in which the votes first show a taste, at each doubling of them, and when
they are spent. Where no people vote, a run waits for it. Where they do, it moves while the run
waits for them, in turns of half a second or a pass of the model (`szpo.turns`): it keeps no vote
and no sheet waiting. What it finds is adopted between two rounds of votes.

After each step its state is written beside the run's file. So a killed process loses at most a
step, and ends like one that was not killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from szpo.analysis import taught
from szpo.errors import IntegrityError, LeaseError, RunError, StorageError, UsageError
from szpo.evaluators.panel_factory import PEOPLE
from szpo.improvement import improve_run, loop
from szpo.improvement.improve_run import Begun, Found
from szpo.improvement.loop import Improved, Plan
from szpo.ledger import adopted
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.runs import setup_progress
from szpo.runs.assemble import RunParts
from szpo.runs.setup_progress import IMPROVING
from szpo.turns import Turns
from szpo.types import Say
from szpo.voting import lease, set_aside, withdrawals
from szpo.voting.step_report import Outcome

ENDED_BY: Final = (adopted.KIND, adopted.RETURN, withdrawals.EVENT, set_aside.EVENT)
"""Kinds of events after which what an improvement began from no longer holds."""


def state_of(run: Path) -> Path:
    """The file with the state of an improvement that goes on, beside that of its run."""
    return run.with_name(f"{run.name}-improving.npz")


class Improving:
    """Improves a run whose settings ask for it; close it where the run is left."""

    def __init__(self, ledger: Ledger, parts: RunParts, say: Say, *, waits: bool = False):
        """``waits``: the run waits for an improvement also where people vote."""
        self._ledger, self._parts, self._say = ledger, parts, say
        asked = parts.config.improve
        waits = waits or parts.config.panel.kind != PEOPLE
        self._nats: Final = asked.nats
        self._beside: Final = not waits and parts.config.engine.is_local
        self._along: Final = asked.when == "doubling" and (waits or self._beside)
        self._file: Final = state_of(ledger.path)
        self._tried = _applied(ledger) - 1
        """Steps after which it last began; nothing from before is made up for."""
        self._begun: Begun | None = None
        self._turns: Turns[Found] | None = None
        self._found: Found | None = None
        self._told = ExitStack()

    def look(self) -> None:
        """Between two rounds: adopt what was found, and begin what is due or was interrupted."""
        if self._nats is None or not self._along:
            return
        self._settle()
        self._resume()
        if self._begun is None and self._last() < last_due(self._ledger):
            self._begin(improve_run.begin(self._ledger))

    @property
    def at_work(self) -> bool:
        """Whether an improvement goes on beside the rounds."""
        return self._turns is not None and self._found is None

    def wait(self, seconds: float) -> None:
        """Let an improvement move for so long; sleep where none does, or the run is paused."""
        if self._turns is None or not self.at_work or self._is_paused():
            time.sleep(seconds)
            return
        with self._saying_why_not():
            self._found = self._turns.move(seconds)
            if self._found is not None:
                self._told.close()

    def _is_paused(self) -> bool:
        return lease.controller(self._ledger)["paused_by"] is not None

    def at_end(self, outcome: Outcome, turn: Callable[[], bool]) -> None:
        """Improve a run whose votes are spent, once.

        ``turn`` calls `wait`, and says whether the run is still at its end.
        """
        if self._nats is None or outcome.status != "finished":
            return
        self._settle()
        self._resume()
        if self._begun is not None and self._begun.steps < outcome.steps:
            self._leave()
        if self._begun is None and self._last() < outcome.steps:
            self._begin(improve_run.begin(self._ledger))
        while self.at_work and turn():
            pass
        self._settle()

    def close(self) -> None:
        """Stop an improvement; the next process goes on with it."""
        if self._turns is not None:
            self._turns.stop()
        self._told.close()

    def _last(self) -> int:
        """Steps after which it last began, here or on record, or went back to the start."""
        last = adopted.last(self._ledger)
        return max(self._tried, 0 if last is None else last.get("begun", last)["steps"])

    def _begin(self, begun: Begun, since: Improved | None = None) -> None:
        assert self._nats is not None
        self._tried, self._begun, nats = begun.steps, begun, self._nats
        path = self._ledger.path
        tell = self._told.enter_context(setup_progress.writing(path, IMPROVING))
        tell("improving", 0 if since is None else len(since.steps), Plan().steps)
        with self._saying_why_not():
            show = reporter(self._say, nats)

            def report(state: Improved) -> None:
                loop.save(state, self._file, (self._ledger.run, begun.event))
                tell("improving", len(state.steps), Plan().steps)
                show(state)

            search = partial(
                improve_run.search, self._ledger, self._parts, begun, nats=nats,
                given=self._parts.config.features.own, since=since, report=report,
            )  # fmt: skip
            if self._beside:
                self._turns = Turns(search)
                return
            self._found = search()
        self._settle()

    def _resume(self) -> None:
        if self._begun is not None or not self._file.exists():
            return
        try:
            since, (run, event) = loop.load(self._file)
        except IntegrityError:  # what it held is found again
            self._leave()
            return
        begun = improve_run.begin(self._ledger, event)
        if run == self._ledger.run and not _is_over(self._ledger, begun):
            self._begin(begun, since)
        else:
            self._leave()

    def _settle(self) -> None:
        begun, found = self._begun, self._found
        if begun is not None and _is_over(self._ledger, begun):
            self._tried = begun.steps - 1
            self._leave()
        elif begun is not None and found is not None:
            with self._saying_why_not():
                improve_run.adopt(self._ledger, self._parts, begun, found)
                self._leave()
                self._say(describe(found.state))

    def _leave(self) -> None:
        self.close()
        self._begun = self._turns = self._found = None
        self._file.unlink(missing_ok=True)

    @contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except (LeaseError, StorageError, IntegrityError):
            raise
        except Exception as error:
            if not (self._beside or isinstance(error, RunError | UsageError)):
                raise
            self._leave()  # where people vote, the run goes on
            self._say(f"not improved: {error}")


def last_due(ledger: Ledger) -> int:
    """The number of steps after which an improvement was last due; 0: never.

    >>> [_passes(64, votes) for votes in ([64], [64, 120], [64, 120, 128], [64, 300])]
    [True, False, True, True]
    """
    votes, applied = taught.shown_from(ledger), _applied(ledger)
    passed = (back for back in range(len(votes)) if _passes(votes[0], votes[: len(votes) - back]))
    return applied - next(passed, applied)


def _passes(first: float, votes: Sequence[float]) -> bool:
    doublings = [math.floor(math.log2(each / first)) for each in votes]
    return len(doublings) == 1 or doublings[-1] > doublings[-2]


def _applied(ledger: Ledger) -> int:
    return len(theta_digests(ledger)) - 1


def _is_over(ledger: Ledger, begun: Begun) -> bool:
    """Whether what an improvement began from no longer holds, or never was in this record."""
    marks = ", ".join("?" * len(ENDED_BY))
    sql = f"SELECT count(*) AS n FROM events WHERE event >= ? AND kind IN ({marks})"
    later = ledger.query(sql, (begun.event, *ENDED_BY))[0]["n"]
    return bool(later) or begun.event > improve_run.begin(ledger).event


def reporter(
    say: Say, nats: float, note: Callable[[str], object] = lambda doing: None
) -> Callable[[Improved], None]:
    """Begin to say how an improvement goes: the ``report`` of `improve_run`.

    ``note`` gets what is done now.
    """
    say(
        "improving: the model moves by its own answers to what the votes liked, at most "
        f"{nats:g} nats away from its start; nobody is asked"
    )
    note("improving: the start's answers, to compare with")

    def report(state: Improved) -> None:
        say(f"improving: {describe_step(state)}")
        step = f"step {len(state.steps) + 1}"
        doing = f"improving: {step}: it answers, learns from its best answers, and is measured"
        note("" if state.stopped else doing)

    return report


def describe_step(state: Improved) -> str:
    """Where an improvement is, in a line for people."""
    if not state.steps:
        return (
            f"by what the votes liked, the start's answers score {state.base.score:+.2f}; higher "
            "is better"
        )
    step = state.steps[-1]
    said = (
        f"step {len(state.steps)}: answers score {step.checked.score:+.2f} (start "
        f"{state.base.score:+.2f}), {step.checked.nats:.2f} nats away"
    )
    return said if step.kept else f"{said}; undone: {state.stopped}"


def describe(state: Improved) -> str:
    """What came of an improvement."""
    end = f"{len(state.steps)} steps, {state.answers:,} own answers; it stopped: {state.stopped}"
    if not state.best:
        return f"no step scored higher than where it began; {end}"
    failed = [guard.name for guard in state.steps[state.best - 1].guards if not guard.ok]
    guards = f"; changed with the taste: {', '.join(failed)}" if failed else "; guards hold"
    return (
        f"improved: by what the votes liked, answers score {state.checked.score:+.2f} (start "
        f"{state.base.score:+.2f}), {state.checked.nats:.1f} nats away{guards} ({end})"
    )
