"""What a run may still spend: limits that a person sets or withdraws while it goes on.

A limit keeps the next step from being opened; a step that people are voting on is finished.
The settings' own budget (`run.votes`, `run.steps`) holds besides.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from szpo import lease, summary
from szpo.errors import UsageError
from szpo.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the run stops; None where it does not.

    Raises:
        UsageError: a limit is negative or not a number.
    """

    step: int | None = None
    """This step is not opened."""
    votes: int | None = None
    """No step is opened that would bring the counted votes above this."""
    at_us: int | None = None
    """No step is opened from this time on, µs since 1970."""
    person_hours: float | None = None
    """No step is opened once reading has taken this long, at 238 words a minute."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"limit {name} is {value}; give a number of at least 0")


def limit(ledger: Ledger, by: str, limits: Limits) -> None:
    """Set the run's limits, in place of all former ones; recorded as events."""
    with ledger.transaction(by):
        if lease.controller(ledger)["stop_at"] != limits.step:
            lease.stop_at(ledger, limits.step, by)
        body = {name: value for name, value in asdict(limits).items() if name != "step"}
        ledger.record_event("limits", by, body)


def limits(ledger: Ledger) -> Limits:
    """The limits in force."""
    found = list(ledger.events("limits"))[-1:]
    rest = found[0]["body"] if found else {}
    return Limits(step=lease.controller(ledger)["stop_at"], **rest)


def reached(ledger: Ledger, *, step: int, votes: int, per_step: int) -> str | None:
    """Why ``step`` is not to be opened after so many counted votes; None if nothing forbids it."""
    found = limits(ledger)
    if found.step is not None and step >= found.step:
        return f"asked to stop before step {found.step}"
    if found.votes is not None and votes + per_step > found.votes:
        return f"asked to stop at {found.votes} votes: {votes} are spent, a step takes {per_step}"
    if found.at_us is not None and ledger.clock() >= found.at_us:
        when = datetime.fromtimestamp(found.at_us / 1e6, UTC)
        return f"asked to stop at {when:%Y-%m-%d %H:%M} UTC"
    if found.person_hours is not None and (hours := person_hours(ledger)) >= found.person_hours:
        return f"asked to stop at {found.person_hours:g} person-hours: reading took {hours:.2f}"
    return None


def person_hours(ledger: Ledger) -> float:
    """Hours that reading the voted comparisons takes at 238 words a minute."""
    return summary.summary(ledger).person_minutes / 60
