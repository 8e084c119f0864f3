"""Improve a run's policy on the taste of its votes: when it is due, and what a run adopts.

It is due after the step in which the votes first show a taste, at each doubling of them, and when
they are spent. Where no people vote, a run waits for it. Where they do, it moves while the run
waits for them, in turns of half a second or a pass of the model (`szpo.background_work`): it
keeps no vote and no sheet waiting. What it finds is adopted between two rounds of votes.

The weights that it adopts join the record (`szpo.ledger.theta`); how they are found is in
`szpo.improvement.policy_search`.

After each step its state is written beside the run's file. So a killed process loses at most a
step and those answers, and ends like one that was not killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from szpo import cache
from szpo.analysis import taught_taste
from szpo.background_work import Turns
from szpo.config.schema import Config
from szpo.errors import (
    EngineError,
    IntegrityError,
    LeaseError,
    ResourceError,
    RunError,
    StorageError,
    UsageError,
)
from szpo.improvement import begun_before, policy_search
from szpo.improvement.policy_search import PACE, Begun, Found, Improved, search_move
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.policies import subspaces, text_guards
from szpo.runs import setup_progress
from szpo.runs.assemble import RunParts
from szpo.runs.setup_progress import IMPROVING, STEPS
from szpo.types import Progress, Say, unseen
from szpo.voting import lease, withdrawals
from szpo.voting.applied_step import Outcome
from szpo.voting.panel_factory import PEOPLE


def begin(ledger: Ledger, event: int | None = None) -> Begun:
    """What an improvement begins from that begins now, or began when ``event`` was the next."""
    event = event or ledger.next_event()
    found = ledger.query("SELECT row_sha256 FROM events WHERE event = ?", (event - 1,))
    head = found[0]["row_sha256"] if found else ""
    sql = "SELECT count(*) AS n FROM events WHERE kind = ? AND event < ?"
    steps, made = (ledger.query(sql, (kind, event))[0]["n"] for kind in ("step", theta.ADOPTED))
    taken_back = begun_before.happened(ledger, begun_before.NO_LONGER, before=event)
    return Begun(event, head, steps, made, taken_back, lease.controller(ledger)["epoch"])


def improve_run(
    ledger: Ledger,
    parts: RunParts,
    *,
    nats: float,
    given: Sequence[str] = (),
    report: Callable[[Improved], object] = lambda state: None,
    progress: Progress = unseen,
) -> Found:
    """Improve the run's policy on the taste of its votes, and adopt what scores higher.

    The run's lease is held; for arguments and errors see `search_move` and `adopt`.
    """
    begun = begin(ledger)
    found = search_move(
        ledger, parts, begun, nats=nats, given=given, report=report, progress=progress
    )
    adopt(ledger, parts, begun, found)
    return found


def adopt(ledger: Ledger, parts: RunParts, begun: Begun, found: Found) -> None:
    """Let a run adopt what an improvement found, or note that it found nothing to adopt.

    Raises:
        LeaseError: another controller has taken the run over.
        RunError: votes were withdrawn meanwhile.
    """
    body, others, policy = dict(found.body), None, parts.language
    body["steps"] = _applied(ledger)
    if found.adopts is None:
        with ledger.transaction("controller"):
            lease.check(ledger, begun.epoch)
            ledger.record_event(theta.KEPT, "controller", body)
        return
    if not ledger.spec["space"]["sites"]:
        earlier = any(each.get("conv1d") for each in theta.adopted_bodies(ledger))
        held, conv1d = found.sites or (policy.subspace, earlier)
        facts, others = subspaces.describe_recorded(held)
        body |= {**facts, "conv1d": conv1d}
    out = withdrawals.withdrawals(ledger, begun.event)
    withdrawals.adopt(ledger, begun.epoch, out, found.adopts, body, others)
    if found.sites is not None:
        assert parts.base is not None
        policy.subspace = found.sites[0]
        policy.backend = parts.base.host.at(policy.subspace, policy.space, run=True)


def allowed(config: Config, nats: float) -> float:
    """The nats that a policy may be improved by, which are no more than those of ``guards.kl``.

    >>> [allowed(Config(guards={"kl": kl}), 3.0) for kl in (None, 1.0, 5.0)]
    [3.0, 1.0, 3.0]
    """
    return min(nats, config.guards.kl or nats)


class Improving:
    """Improves a run whose settings ask for it; close it where the run is left."""

    def __init__(self, ledger: Ledger, parts: RunParts, say: Say, *, waits: bool = False):
        """``waits``: the run waits for an improvement also where people vote."""
        self._ledger, self._parts, self._say = ledger, parts, say
        asked = parts.config.improve
        waits = waits or parts.config.panel.kind != PEOPLE
        most = asked.nats if parts.config.improves else None
        self._nats: Final = None if most is None else allowed(parts.config, most)
        self._beside: Final = not waits and parts.config.engine.is_local
        self._along: Final = asked.when == "doubling" and (waits or self._beside)
        self._file: Final = theta.improving_file(ledger.path)
        self._tried = _applied(ledger) - 1
        """Steps after which it last began; nothing from before is made up for."""
        self._begun: Begun | None = None
        self._turns: Turns[Found] | None = None
        self._told = ExitStack()

    def look(self) -> None:
        """Between two rounds: adopt what was found, and begin what is due or was interrupted."""
        if self._nats is None or not self._along:
            return
        self._settle()
        self._resume()
        if self._begun is None and self._last() < last_due(self._ledger):
            self._begin(begin(self._ledger))

    @property
    def at_work(self) -> bool:
        """Whether an improvement goes on beside the rounds."""
        return self._turns is not None and not self._turns.is_done

    def wait(self, seconds: float) -> None:
        """Let an improvement move for so long; sleep where none does, or the run is paused."""
        if self._turns is None or not self.at_work or lease.is_paused(self._ledger):
            time.sleep(seconds)
            return
        with self._saying_why_not():
            found = self._turns.move(seconds)
            if found is not None:
                self._told.close()
                self._say(describe_improving(found))

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
            self._begin(begin(self._ledger))
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
        return max(self._tried, begun_before.last_begun(self._ledger))

    def _begin(self, begun: Begun, since: Improved | None = None) -> None:
        assert self._nats is not None
        self._tried, self._begun, nats = begun.steps, begun, self._nats
        path = self._ledger.path
        tell = self._told.enter_context(setup_progress.writing(path, IMPROVING))
        tell(STEPS, 0 if since is None else len(since.at.steps), PACE.steps)
        with self._saying_why_not():
            show, told = reporter(self._say), setup_progress.telling(self._say, of="improving")

            def progress(name: str, done: int, of: int) -> None:
                tell(name, done, of)
                told(name, done, of)

            def report(state: Improved) -> None:
                policy_search.save(state, self._file, (begun.head, begun.event))
                # It may hold what withdrawn verdicts taught.
                if begun_before.is_over(self._ledger, begun.event):
                    self._file.unlink(missing_ok=True)
                tell(STEPS, len(state.at.steps), PACE.steps)
                show(state)

            search = partial(
                search_move, self._ledger, self._parts, begun, nats=nats,
                given=self._parts.config.features.own, since=since,
                starts=lambda: self._say(describe_start(nats)), report=report, progress=progress,
            )  # fmt: skip
            self._turns = Turns(search, at_once=not self._beside)
        self._settle()

    def _resume(self) -> None:
        if self._begun is not None or not self._file.exists():
            return
        found = cache.read_stored(self._file, policy_search.load)
        if found is None:  # what it held is found again
            return
        since, (head, event) = found
        begun = begin(self._ledger, event)
        kept = {each["body"]["begun"]["event"] for each in self._ledger.events(theta.KEPT)}
        over = begun_before.is_over(self._ledger, begun.event) or begun.event in kept
        if head == begun.head and not over:
            self._begin(begun, since)
        else:
            self._leave()

    def _settle(self) -> None:
        begun, found = self._begun, None if self._turns is None else self._turns.found
        if begun is not None and begun_before.is_over(self._ledger, begun.event):
            self._tried = begun.steps - 1
            self._leave()
        elif begun is not None and found is not None:
            with self._saying_why_not():
                adopt(self._ledger, self._parts, begun, found)
                self._leave()
                if not self._beside:  # else it was said as it ended
                    self._say(describe_improving(found))

    def _leave(self) -> None:
        self.close()
        self._begun = self._turns = None
        self._file.unlink(missing_ok=True)

    @contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except (LeaseError, StorageError, IntegrityError):
            raise
        except Exception as error:
            short = isinstance(error, ResourceError) and not isinstance(error, EngineError)
            expected = short or isinstance(error, RunError | UsageError)
            if not (self._beside or expected):
                raise
            self._leave()  # where people vote, the run goes on; elsewhere it is measured as it is
            self._say(f"{'' if expected else 'warning: '}not improved: {error}")


def last_due(ledger: Ledger) -> int:
    """The number of steps after which an improvement was last due; 0: never.

    >>> [_passes(64, votes) for votes in ([64], [64, 120], [64, 120, 128], [64, 300])]
    [True, False, True, True]
    >>> _passes(0, [0, 1])  # another run's votes showed it, and a round ended without any
    False
    """
    votes, applied = taught_taste.shown_from(ledger), _applied(ledger)
    passed = (back for back in range(len(votes)) if _passes(votes[0], votes[: len(votes) - back]))
    return applied - next(passed, applied)


def _passes(first: float, votes: Sequence[float]) -> bool:
    doublings = [math.floor(math.log2(max(each, 1) / max(first, 1))) for each in votes]
    return len(doublings) == 1 or doublings[-1] > doublings[-2]


def _applied(ledger: Ledger) -> int:
    return len(theta_digests(ledger)) - 1


def describe_start(nats: float) -> str:
    """What an improvement does, in a line for people."""
    return (
        "improving: the model moves by its own answers to what the votes liked, at most "
        f"{nats:g} nat{'s' * (nats != 1)} away from its start; nobody is asked"
    )


def reporter(
    say: Say, note: Callable[[str], object] = lambda doing: None
) -> Callable[[Improved], None]:
    """The ``report`` of `improve_run` that says how it goes; ``note`` gets what is done now."""

    def report(state: Improved) -> None:
        say(f"improving: {describe_step(state)}")
        note("" if state.stopped else f"improving: step {len(state.at.steps) + 1}")

    return report


def describe_step(state: Improved) -> str:
    """Where an improvement is, in a line for people."""
    if not state.at.steps:
        return f"by its own answers, at most {state.nats:.1f} nats away before it is looked at"
    step = state.at.steps[-1]
    return (
        f"step {len(state.at.steps)}: answers score {step.score:+.2f} by what the votes liked, "
        f"{step.nats:.2f} nats away"
    )


def describe_improving(found: Found) -> str:
    """What came of an improvement."""
    state, body = found.state, found.body
    taken = len(state.at.steps)
    end = (
        f"{taken} step{'s' * (taken != 1)}, {body['answers']:,} own answers; it stopped: "
        f"{state.stopped}"
    )
    if found.adopts is None:
        return f"nothing was adopted; {end}"
    guards = text_guards.describe_adopted(body["guards"])
    if body["scale"] < 1:
        end = f"drawn back to {body['scale']:.0%} of its way by fresh answers; {end}"
    by = "the votes' mix again, in place of what was adopted before" if body["mix"] else "improved"
    return (
        f"{by}: by what the votes liked, fresh answers score {body['score']:+.2f} (start "
        f"{body['score_before']:+.2f}), {body['nats']:.1f} nats away; {guards} ({end})"
    )
