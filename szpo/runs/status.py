"""The public status of a run, its totals, and one row per step.

Nothing here reveals how anybody voted, or which policy is on which side.

Nothing is written. Votes are counted as everywhere: answers A, B or tie on training comparisons,
in the highest revision up to the step's close, with amendments applied. Skips, automatic ties and
late votes are counted separately.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from szpo.config.schema import Config
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import read_budget, recorded_config
from szpo.ledger.theta import recommended_digest
from szpo.runs import budget
from szpo.voting import lease, step_states, withdrawals
from szpo.voting.applied_step import StepReport, read_reports
from szpo.voting.counting import RunNow
from szpo.voting.pauses import describe_pause
from szpo.voting.service import VoteService

State = Literal["none", "generating", "open", "closed", "paused", "finished"]
RunState = Literal["running", "paused", "stopped", "finished"]
LIMIT: Final = "limit"
"""Who pauses a run that an operator's limit keeps from its next round."""
FRESH_US: Final = 5_000_000
ROUNDS_OF_WAIT: Final = 5
"""The usual wait is the median over this many of the latest rounds."""

RUNNING: Final = {
    "none": "preparing the first round", "generating": "writing answers",
    "open": "collecting votes", "closed": "updating",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """A run's round, counted from step 0; times are µs since 1970.

    ``step`` is the step that people vote on, or the next one; the last step after the run's end.
    """

    step: int | None
    rounds: int
    """Planned number of rounds; without a plan, the number of rounds so far."""
    votes_planned: int
    """Planned number of votes; without a plan, those of the rounds so far."""
    state: State
    votes_in: int
    votes_needed: int
    opened_us: int | None
    deadline_us: int | None
    """Latest time at which the round closes; None without a deadline and while paused."""
    paused_by: str | None
    pause_reason: str | None
    usual_wait_s: float | None
    """Median of the last five times between a close and the next opening; None without any."""
    generated: bool
    """The answers of the step after the open one, or of the next one, are stored."""
    version: str
    """Changes with anything above."""


class StatusReader:
    """Reads a run's status repeatedly; recomputes it only when the file has changed."""

    def __init__(self, ledger: Ledger, look: Callable[[], RunNow] | None = None):
        """``look``: the `look` of a vote service over the same ledger, if there is one."""
        self._ledger: Final = ledger
        self._look: Final = look or VoteService(ledger).look
        self._config: Final = recorded_config(ledger)
        self._run: RunNow | None = None
        self._at_us = 0
        self._status: RoundStatus

    def read(self) -> RoundStatus:
        """The run's status, never older than `FRESH_US`.

        A limit by date can change it although the file has not changed.
        """
        with self._ledger.alone:
            run, at_us, last = self._look(), self._ledger.clock(), self._run
            if last is not run or not 0 <= at_us - self._at_us < FRESH_US:
                self._status = _status(self._ledger, self._config, run)
                self._run, self._at_us = run, at_us
            return self._status


def round_status(ledger: Ledger) -> RoundStatus:
    """The run's status, read once."""
    return StatusReader(ledger).read()


def run_state(status: RoundStatus, *, driven: bool) -> tuple[RunState, str]:
    """The state of a run, and what it means, in words; ``driven``: a process holds the run.

    A process that holds a finished run waits for its pages.
    """
    if status.state == "finished":
        return "finished", "all its rounds are done"
    if status.paused_by is not None:
        return "paused", f"by {describe_pause(status.paused_by, status.pause_reason or '')}"
    if driven:
        return "running", RUNNING[status.state]
    open_ = " Votes are taken." if status.state == "open" else ""
    return "stopped", f"no process holds its model.{open_}"


def redact_for_panelists(status: RoundStatus) -> RoundStatus:
    """The status without a guard's figures, which would show panelists how to vote next.

    A person's reason for a pause stays.
    """
    if status.paused_by is None or not status.paused_by.startswith("guard "):
        return status
    return replace(status, paused_by="guard", pause_reason=None)


def planned_rounds(base: int, sizes: Sequence[int]) -> int:
    """The rounds of a run in all, if those to come are as large as the last.

    Its budget pays for ``base`` rounds of the settings' size, the unit of ``sizes`` so far.

    >>> planned_rounds(20, []), planned_rounds(20, [1, 3, 4]), planned_rounds(1, [1, 1])
    (20, 6, 2)
    """
    left = max(0, base - sum(sizes))
    return len(sizes) + math.ceil(left / (sizes[-1] if sizes else 1))


def _status(ledger: Ledger, config: Config | None, run: RunNow) -> RoundStatus:
    flags, rows = run.rows[0], [row for row in run.rows if row["step"] is not None]
    live = [row for row in rows if row["state"] != "applied"]
    shown = next((row for row in live if row["state"] in ("open", "closed")), None)
    if config is not None and flags["budget"]:
        ends = config.run.model_copy(update=json.loads(flags["budget"]))
        config = config.model_copy(update={"run": ends})
    state, step = _state(ledger, config, rows, shown)
    by, reason = flags["paused_by"], flags["pause_reason"]
    if by is None and shown is None and state != "finished":
        reason = _find_limit(ledger, config, len(rows) - len(live), live)
        by = None if reason is None else LIMIT
    minutes = None if config is None or by is not None else config.panel.deadline_minutes
    is_open = shown is not None and shown["state"] == "open"
    # A round that is only prepared may never open.
    begun = [row for row in rows if row["state"] == "applied" or row is shown]
    base = 0 if config is None else config.steps
    usual = 1 if config is None else config.optimizer.N
    found = RoundStatus(
        step=step,
        rounds=planned_rounds(base, [row["n"] // usual for row in begun]),
        votes_planned=max(
            0 if config is None else base * config.votes_per_step,
            sum(row["k"] * row["n"] * row["m"] for row in begun),
        ),
        state="paused" if by is not None and state != "finished" else state,
        votes_in=0 if run.seats is None else run.seats.votes_in,
        votes_needed=0 if run.seats is None else run.seats.votes_needed,
        opened_us=None if shown is None else shown["opened_us"],
        deadline_us=None
        if minutes is None or shown is None or not is_open
        else step_states.deadline_us(ledger, shown, minutes * 60),
        paused_by=by,
        pause_reason=reason,
        usual_wait_s=_usual_wait(rows),
        generated=bool(live) and bool(live[-1]["stored"]) and live[-1] is not shown,
        version="",
    )
    return replace(found, version=sha256(canonical(asdict(found)))[:16])


def _state(
    ledger: Ledger, config: Config | None, rows: list[Record], shown: Record | None
) -> tuple[State, int | None]:
    if shown is not None:
        return shown["state"], shown["step"]
    done = sum(row["state"] == "applied" for row in rows)
    if config is not None and done and config.is_spent(int(ledger.votes_applied())):
        return "finished", done - 1
    if not rows:
        return "none", None
    return "generating", done


def _find_limit(
    ledger: Ledger, config: Config | None, step: int, live: Sequence[Record]
) -> str | None:
    """Why a person's limit prevents the next step from opening; None if none does."""
    per_step = 1 if config is None else config.votes_per_step
    per_step = sum(row["k"] * row["n"] * row["m"] for row in live) or per_step
    return budget.reason_to_stop(
        ledger, step=step, votes=int(ledger.votes_applied()), per_step=per_step
    )


def _usual_wait(rows: list[Record]) -> float | None:
    waits = [
        (after["opened_us"] - before["closed_us"]) / 1e6
        for before, after in pairwise(rows)
        if before["closed_us"] is not None and after["opened_us"] is not None
    ]
    return round(median(waits[-ROUNDS_OF_WAIT:]), 3) if waits else None


def kl_after(ledger: Ledger, steps: int | None = None) -> float | None:
    """KL to the start, nats, as recorded after ``steps`` steps, or after the last step."""
    found = ledger.query(
        "SELECT json_extract(body, '$.kl') AS kl FROM events WHERE kind = 'step' "
        "AND coalesce(json_extract(body, '$.step') = ?, 1) ORDER BY event DESC LIMIT 1",
        (None if steps is None else steps - 1,),
    )
    value = found[0]["kl"] if found else None
    return float(value) if isinstance(value, int | float) else None


# ---- votes counted ----


@dataclass(frozen=True)
class Run:
    """A run in numbers."""

    path: str
    run: str
    name: str
    state: str
    seed: int
    model: str
    panel: str
    rule: str
    created_us: int
    steps: int
    votes: int
    budget: int | None
    """Votes at which the run ends, including added ones."""
    added: int
    """How many of these were added to the run's first budget."""
    skips: int
    automatic_ties: int
    late: int
    answers_read: int
    person_minutes: float
    panelists: int
    win_rate: float | None
    """Share of votes for plus; says nothing of quality: every step draws which side is plus."""
    head: str
    """Hash of the last event, which covers all before it; ``szpo verify --head`` takes it."""
    theta_sha256: str
    """Digest of the weights after the last applied step."""
    beta: float | None = None
    """Sharpness of a simulated panel."""
    agreement: float | None = None
    """How often two of its members agree on base answers."""
    withdrawn: int = 0
    """How many of ``votes`` were withdrawn after their round."""
    table: tuple[StepReport, ...] = ()
    """Every planned step, in order; of a finished run, only steps that are over."""

    @property
    def fit(self) -> str:
        """The panel's sharpness in words; "" without one."""
        agreed = "" if self.agreement is None else f", agreement {self.agreement:.3f}"
        return "" if self.beta is None else f", beta {self.beta:.6g}{agreed}"

    @property
    def of_budget(self) -> str:
        """The budget, and withdrawn votes, to print after the number of votes; "" without."""
        added = f" ({self.added:,} of them added)" if self.added else ""
        out = f", {self.withdrawn:,} withdrawn since" if self.withdrawn else ""
        return f" of {self.budget:,}{added}{out}" if self.budget else out

    def as_dict(self) -> dict[str, Any]:
        """The totals, for ``--json``; added and withdrawn votes only where there are some."""
        none = {name for name in ("added", "withdrawn") if not getattr(self, name)}
        return {k: value for k, value in vars(self).items() if k not in {"table", *none}}


def read_results(ledger: Ledger, *, open_round: bool = True) -> Run:
    """The totals of a run and its table of steps, without its open round unless ``open_round``."""
    state = run_state_of(ledger)
    hidden = set() if open_round else {"open"}
    if state == "finished":  # prepared for after the end
        hidden |= {"planned", "generating"}
    table = tuple(row for row in read_reports(ledger) if row.state not in hidden)
    config = ledger.spec.get("config", {})
    run, panel = config.get("run", {}), config.get("panel", {})
    most = read_budget(ledger).get("votes", run.get("votes"))
    late = ledger.query("SELECT count(*) AS n FROM votes WHERE late = 1")[0]["n"]
    people = ledger.query("SELECT count(*) AS n FROM panelists")[0]["n"]
    last, total = ledger.last_event(), sum(row.votes for row in table)
    wins = sum((row.win_rate or 0) * row.votes for row in table)
    voters, asked = panel.get("kind", "–"), ledger.spec.get("panel") or {}
    if voters == "judge":
        voters = f"judge ({config.get('judge', {}).get('model')})"
    elif voters == "function":  # it has no reward, whatever the setting says
        voters = f"function {asked.get('function')}"
    elif voters not in {"people", "–"}:
        voters = f"{voters} ({panel.get('reward')})"
    fitted = asked.get("calibration") or {}
    return Run(
        path=str(ledger.path),
        run=ledger.run,
        name=str(run.get("name") or Path(ledger.path).stem),
        state=state,
        seed=ledger.root_seed,
        model=str(config.get("model", {}).get("name", "–")),
        panel=voters,
        rule=str(ledger.spec.get("optimizer", {}).get("rule", "–")),
        created_us=ledger.row["created_us"],
        steps=sum(row.state == "applied" for row in table),
        votes=total,
        budget=most,
        added=(most or 0) - (run.get("votes") or 0),
        skips=sum(row.skips for row in table),
        automatic_ties=sum(row.automatic_ties for row in table),
        late=late,
        answers_read=sum(row.answers_read for row in table),
        person_minutes=sum(row.words_read for row in table) / budget.WORDS_PER_MINUTE,
        panelists=people,
        win_rate=wins / total if total else None,
        head="" if last is None else str(last["row_sha256"]),
        theta_sha256=recommended_digest(ledger),
        beta=fitted.get("beta", panel.get("beta")),
        agreement=fitted.get("agreement"),
        withdrawn=withdrawals.count_out(ledger),
        table=table,
    )


def run_state_of(ledger: Ledger) -> str:
    """Whether a run is finished, running, paused or stopped, in words."""
    control = lease.controller(ledger)
    driven = lease.is_driven(control["lease"], control["expires_us"], ledger.clock())
    found, detail = run_state(round_status(ledger), driven=driven)
    if found == "stopped" and any(row["state"] != "applied" for row in ledger.steps()):
        return "stopped within a step"
    return f"paused {detail}" if found == "paused" else found
