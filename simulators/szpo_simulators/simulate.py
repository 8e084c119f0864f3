"""A simulated panel as a process of its own: ``szpo simulate RUN``.

It answers a run's open comparisons through the vote service, exactly as people in a browser would
and with the rows an in-process panel would leave, until the run ends or enough votes are cast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from szpo import lease, summary, votes
from szpo.errors import RunError, UsageError
from szpo.evaluators import Judge, PanelEvaluator
from szpo.ledger import Ledger
from szpo.types import Comparison
from szpo.votes import VoteService
from szpo_simulators.panels import PANELS, Panel, build, from_spec
from szpo_simulators.rewards import Logprob

PATIENCE = 300
"""Polls without a live controller after which the process gives up: a minute at .2 s each."""


@dataclass(frozen=True, slots=True)
class Served:
    """How many votes this process cast, and why it ended."""

    votes: int
    reason: str


def simulate(
    ledger: Ledger,
    judges: Sequence[Judge],
    *,
    limit: int | None = None,
    once: bool = False,
    wait: Callable[[], None] = lambda: time.sleep(0.2),
    patience: int = PATIENCE,
    leave: int = 0,
    read: Callable[[], None] | None = None,
) -> Served:
    """Answer open comparisons until the run's controller ends, or ``limit`` votes are cast.

    Args:
        ledger: the run, opened for writing; its controller lives in another process.
        judges: the panel, in the order of its panelists.
        limit: votes of this process; only whole comparisons (M votes each) are begun.
        once: answer what is open now and return.
        wait: called whenever nothing is open.
        patience: calls of ``wait`` in a row without a live controller before giving up.
        leave: comparisons of each step that are left to people.
        read: called before each comparison, which is then answered alone: a human pace.

    Raises:
        UsageError: M is larger than the panel.
    """
    service = VoteService(ledger)
    panel = PanelEvaluator(service, judges)
    cast, idle, driven = 0, 0, False
    while True:
        held, live = _driven(ledger)
        asked = left_over(ledger, lacking(ledger), leave)
        if asked and read is not None:
            read()  # somebody may have been faster meanwhile
            asked = left_over(ledger, lacking(ledger), leave)[:1]
        chosen = asked if limit is None else _affordable(asked, limit - cast)
        if chosen:
            before = _votes(ledger)
            try:
                submit(ledger, panel, [comparison for comparison, _ in chosen])
            except RunError:
                if not leave:  # else a person took the last seat in this moment
                    raise
            cast += _votes(ledger) - before
        if limit is not None and (cast >= limit or len(chosen) < len(asked)):
            return Served(cast, f"{cast} of {limit} votes are cast")
        if once:
            return Served(cast, "nothing else is open")
        if driven and not held and not asked:
            return Served(cast, "the run's controller has ended")
        driven |= live
        idle = 0 if live or asked else idle + 1
        if idle > patience:
            return Served(cast, "nobody drives this run; start it with: szpo run --resume")
        if not asked:
            wait()


def lacking(ledger: Ledger) -> list[tuple[Comparison, int]]:
    """Comparisons of the open step with the votes they lack, those already begun first.

    None while the run is paused: a simulated panel rests as people do.
    """
    rows = [row for row in ledger.steps() if row["state"] == "open"]
    if not rows or lease.controller(ledger)["paused_by"] is not None:
        return []
    step, m = rows[-1]["step"], rows[-1]["m"]
    have: dict[str, int] = {}
    for vote in votes.counted(ledger, step):
        have[vote.comparison] = have.get(vote.comparison, 0) + 1
    found = [
        (comparison, m - have.get(comparison.id, 0))
        for comparison in ledger.comparisons(step)
        if not comparison.identical
    ]
    return sorted(((c, lack) for c, lack in found if lack > 0), key=lambda pair: pair[1] == m)


def left_over(
    ledger: Ledger, asked: list[tuple[Comparison, int]], leave: int
) -> list[tuple[Comparison, int]]:
    """What is there for this panel when ``leave`` comparisons of the step are for people.

    Comparisons that a person has before them, or has answered, are counted as theirs. With
    ``leave`` 0 there are no people, and everything is there.
    """
    if not leave or not asked:
        return asked
    now = ledger.clock()
    rows = ledger.query(
        "SELECT DISTINCT a.comparison FROM assignments a JOIN panelists p USING (panelist) "
        "JOIN comparisons c USING (comparison) WHERE p.kind = 'person' AND c.kind = 'train' "
        "AND c.run = ? AND c.step = ? AND (a.expires_us > ? OR EXISTS "
        "(SELECT 1 FROM votes v WHERE v.assignment = a.assignment AND v.choice <> 'skip'))",
        (ledger.run, asked[0][0].step, now),
    )
    theirs = {row["comparison"] for row in rows}
    free = [pair for pair in asked if pair[0].id not in theirs]
    kept = max(0, leave - len(theirs))
    return free[: len(free) - kept] if kept else free


def _affordable(asked: list[tuple[Comparison, int]], left: int) -> list[tuple[Comparison, int]]:
    """The first comparisons that ``left`` votes can complete."""
    chosen = []
    for comparison, lack in asked:
        left -= lack
        if left < 0:
            break
        chosen.append((comparison, lack))
    return chosen


def panel_of(ledger: Ledger, *, logprob: Logprob | None = None) -> Panel:
    """The simulated panel that a run has on record.

    Raises:
        UsageError: the run is for people or for another evaluator.
    """
    recorded = ledger.spec.get("panel")
    if not isinstance(recorded, dict) or "raters" not in recorded:
        raise UsageError(
            f"{ledger.path.name} has no simulated panel on record; name one with --panel bt70 "
            "--reward sentiment --beta 10"
        )
    if logprob is None and "fluency" in str(recorded.get("reward")):
        logprob = _base_logprob(ledger)
    return from_spec(recorded, logprob=logprob)


def _base_logprob(ledger: Ledger) -> Logprob:
    """Log-probabilities under the run's base model, which is loaded for it."""
    from szpo import assemble  # torch and the model: only a reward with fluency needs them

    logprob: Logprob = assemble.reopen(ledger).policy.logprob_base
    return logprob


def command(arguments: Sequence[str]) -> int:
    """``szpo simulate RUN``: the entry point of `szpo.commands`."""
    parser = argparse.ArgumentParser(
        prog="szpo simulate",
        description="Answer a run's open comparisons with a simulated panel, as a process of its "
        "own, until the run ends or enough votes are cast.",
    )
    parser.add_argument("run", help="name or file of the run")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--votes", type=int, help="stop after so many votes of this process")
    parser.add_argument("--once", action="store_true", help="answer what is open now and stop")
    parser.add_argument("--panel", choices=PANELS, help="another panel than the recorded one")
    parser.add_argument("--reward", default="sentiment", help="what that panel likes")
    parser.add_argument("--beta", type=float, help="sharpness of that panel, in bt70's terms")
    parser.add_argument("--size", type=int, default=5, help="members of that panel")
    parser.add_argument("--pace", type=float, help="seconds to read a comparison, one at a time")
    parser.add_argument(
        "--leave", type=int, default=0, help="comparisons of each step to leave to people"
    )
    chosen = parser.parse_args(list(arguments))
    if chosen.pace is not None and not 0 < chosen.pace <= 3600:
        raise UsageError(f"--pace {chosen.pace} is no reading time; give seconds above 0")
    if chosen.leave < 0:
        raise UsageError(f"--leave {chosen.leave} is negative")
    from szpo.cli import place

    with Ledger.open(place.find(chosen.run, chosen.folder)) as ledger:
        if summary.summary(ledger).state == "finished":
            print("0 votes cast: the run is finished")
            return 0
        if chosen.panel is None:
            panel = panel_of(ledger)
        elif chosen.beta is None:
            raise UsageError("--panel needs --beta; szpo show prints that of a run")
        else:
            wanted = "fluency" in chosen.reward
            panel = build(
                chosen.panel,
                reward=chosen.reward,
                size=chosen.size,
                beta=chosen.beta,
                logprob=_base_logprob(ledger) if wanted else None,
            )
        print(panel)
        pace = chosen.pace
        served = simulate(
            ledger,
            panel.judges,
            limit=chosen.votes,
            once=chosen.once,
            leave=chosen.leave,
            read=None if pace is None else lambda: time.sleep(pace),
        )
    print(f"{served.votes} votes cast: {served.reason}")
    return 0


def submit(ledger: Ledger, panel: PanelEvaluator, asked: Sequence[Comparison]) -> None:
    """Answer, unless the step closes meanwhile (a deadline, an operator)."""
    step, wanted = asked[0].step, {comparison.id for comparison in asked}
    lack = {comparison.id for comparison, _ in lacking(ledger)}
    try:
        # Complete ones are submitted again, as after a crash: the panel leaves them as they are.
        panel.submit([c for c in ledger.comparisons(step) if c.id in wanted or c.id not in lack])
    except UsageError:
        row = ledger.step(step)
        if row is not None and row["state"] == "open":
            raise


def _votes(ledger: Ledger) -> int:
    return int(ledger.query("SELECT count(*) AS n FROM votes")[0]["n"])


def _driven(ledger: Ledger) -> tuple[bool, bool]:
    """Whether a controller holds the run, and whether its lease still runs.

    A held lease that has run out is a killed controller, or one that generates for long.
    """
    row = lease.controller(ledger)
    held = row["lease"] is not None
    return held, held and row["expires_us"] > ledger.clock()
