"""Messages of a run to a web hook. They follow from the record, and each has a key.

They hold no prompts or answers and no name of a person. A message that was sent, or given up, is
recorded as an event of kind ``hook`` with its key, so a restart sends nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger, Record
from szpo.training.status import RoundStatus

KIND: Final = "hook"
What = Literal["round_waits", "guard_paused", "run_ended", "setup_failed"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a web hook."""

    run: str
    what: What
    key: str
    """Unique within its run."""
    at_us: int
    facts: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def delivery(self) -> str:
        """An id, the same at every try and after a restart, so receivers can drop doubles."""
        return sha256(f"{self.run} {self.key} {self.at_us}")[:32]


def due(ledger: Ledger, status: RoundStatus) -> list[Message]:
    """The messages neither sent nor given up, oldest first; ``status`` is the run's status now."""
    settled = {event["body"]["key"] for event in ledger.events(KIND)}
    found = [each for each in _messages(ledger, status) if each.key not in settled]
    return sorted(found, key=lambda each: each.at_us)


def settle(ledger: Ledger, message: Message, tries: int, failure: str) -> None:
    """Record that a message was delivered, or given up if ``failure`` is not empty."""
    body = {"key": message.key, "what": message.what, "tries": tries, "failure": failure}
    ledger.record_event(KIND, "hook", body)


def last_failure(ledger: Ledger) -> Record | None:
    """The event of the last message if that was given up; else None."""
    events = list(ledger.events(KIND))[-1:]
    return events[0] if events and events[0]["body"]["failure"] else None


def _messages(ledger: Ledger, status: RoundStatus) -> Iterator[Message]:
    run = ledger.path.stem
    panel = ledger.spec.get("config", {}).get("panel", {})
    waits = panel.get("kind", "people") == "people" or not panel.get("inside", True)
    if waits and status.state == "open" and status.step is not None:
        facts: dict[str, str | int] = {"round": status.step + 1, "votes": status.votes_needed}
        yield Message(run, "round_waits", f"round {status.step}", status.opened_us or 0, facts)
    for event in ledger.query(
        "SELECT event, at_us, actor FROM events WHERE kind = 'pause' AND actor LIKE 'guard %' "
        "ORDER BY event"
    ):
        facts = {"guard": str(event["actor"]).removeprefix("guard ")}
        yield Message(run, "guard_paused", f"pause {event['event']}", event["at_us"], facts)
    at_limit = status.paused_by == "limit"
    if status.state == "finished" or at_limit:
        last = ledger.query(
            "SELECT step, max(applied_us) AS at_us, "
            "(SELECT coalesce(sum(n_votes), 0) FROM updates) AS votes FROM updates"
        )[0]
        if last["step"] is not None:
            facts = {
                "rounds": last["step"] + 1, "votes": int(last["votes"]),
                "why": "limit" if at_limit else "done",
            }  # fmt: skip
            yield Message(run, "run_ended", f"end {last['step']}", last["at_us"], facts)
