"""Measurements on held-out prompts before and after tuning, as recorded in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from szpo.data import preference_files
from szpo.ledger.database import Ledger
from szpo.policies import text_guards
from szpo.policies.protocol import Speaker
from szpo.policies.text_guards import Guard
from szpo.types import Answer, Prompt

KEYS = ("name", "before", "after", "change")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A measurement: rows of a table as texts, and the guards."""

    rows: tuple[Mapping[str, str], ...]
    """Each row has `KEYS`."""
    guards: tuple[Guard, ...] = ()
    gap: str | None = None
    """Why the topic's guard is missing; None if it is there."""
    theta_sha256: str | None = None
    """Digest of the measured weights; None where these are not the run's."""

    @property
    def verdict(self) -> str:
        """How many guards hold, in words."""
        return self.failure or f"all {len(self.guards)} hold"

    @property
    def failure(self) -> str:
        """Which guards fail, in words; "" if none does."""
        failed = [guard.name for guard in self.guards if not guard.ok]
        return f"{len(failed)} of {len(self.guards)} fail: {'; '.join(failed)}" if failed else ""


def read_questions(file: str | None) -> tuple[tuple[Prompt, Answer], ...]:
    """The questions of ``guards.keep`` with their right answers; none without a file."""
    return () if file is None else preference_files.read_examples(file)


def measure_right(
    policy: Speaker, file: str | None
) -> tuple[tuple[Mapping[str, str], ...], tuple[Guard, ...]]:
    """Right answers of a policy's start and of the policy as it is: a row, and its guard."""
    questions = read_questions(file)
    if not questions:
        return (), ()
    before, after = (text_guards.count_right(policy, questions, base=b) for b in (True, False))
    name = f"right answers to {len(questions)} questions"
    texts = (name, str(before), str(after), f"{after - before:+d}")
    return (dict(zip(KEYS, texts, strict=True)),), (text_guards.keep_right(before, after),)


def record(ledger: Ledger, by: str, found: HeldOut) -> None:
    """Record a measurement as an event of kind ``evaluation``."""
    body: dict[str, Any] = {
        "rows": [dict(row) for row in found.rows],
        "guards": [asdict(guard) for guard in found.guards],
        "topic": found.gap,
        "theta_sha256": found.theta_sha256,
    }
    ledger.record_event("evaluation", by, body)


def read(ledger: Ledger) -> HeldOut | None:
    """The last measurement that the ledger records; None without one."""
    events = list(ledger.events("evaluation"))
    if not events:
        return None
    body = events[-1]["body"]
    return HeldOut(
        tuple(body["rows"]),
        tuple(Guard(**guard) for guard in body["guards"]),
        body["topic"],
        body["theta_sha256"],
    )
