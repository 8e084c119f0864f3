"""Store a vote exactly once: idempotency keys, revisions, late votes, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from szpo.config.section import Section
from szpo.errors import SzpoError, UsageError
from szpo.ledger import canonical, orders
from szpo.ledger.database import Ledger, Record
from szpo.types import Choice

CHOICES: Final = get_args(Choice)
Action = Literal["exclude", "reinstate"]

MOST_VOTES: Final = 100
"""The most answers by one panelist to one comparison, revisions included. No person needs more,
and each of them stays in the record."""
_CLOSED: Final = {"train": "the round has closed", "final": "this comparison has closed"}


class VoteConflictError(SzpoError):
    """A refused vote: ``code`` is the reason, ``stored`` the answer that stands instead."""

    exit_code = 2

    def __init__(self, code: str, message: str, stored: Receipt | None = None):
        super().__init__(message)
        self.code: Final = code
        self.stored: Final = stored


class VoteRequest(Section):
    """An answer as a client sends it: every way to vote makes one, and all is checked here."""

    assignment: str
    choice: Choice
    idem: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{16,64}$")]
    """The client's idempotency key; a retry sends the same key."""
    skip_reason: str | None = None
    dwell_ms: int | None = Field(None, ge=0, lt=2**53)
    details: Mapping[str, Any] | None = None
    tab: str | None = None

    @field_validator("details")
    @classmethod
    def _plain_json(cls, details: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        try:
            canonical.canonical(details)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not plain JSON ({error})") from None
        return details

    @model_validator(mode="after")
    def _reason_of_a_skip(self) -> Self:
        if self.skip_reason is not None and self.choice != "skip":
            raise ValueError("skip_reason belongs to the choice skip")
        return self


@dataclass(frozen=True, slots=True)
class Receipt:
    """The stored answer; ``replayed`` if it was stored before and the request is a retry."""

    vote: int
    assignment: str
    revision: int
    choice: Choice
    late: bool
    received_us: int
    replayed: bool = False


def amend(ledger: Ledger, vote: int, action: Action, reason: str, actor: str, at_us: int) -> int:
    """Record that a vote is excluded from counting or reinstated; return the amendment's id."""
    if action not in get_args(Action):
        raise UsageError(f"amendment: {action!r} is not exclude or reinstate")
    if not reason:
        raise UsageError("amendment: give a reason; it stays in the record")
    with ledger.transaction(actor):
        if not ledger.query("SELECT 1 FROM votes WHERE vote = ?", (vote,)):
            raise UsageError(f"amendment: there is no vote {vote}")
        row = {"vote": vote, "action": action, "reason": reason, "actor": actor, "at_us": at_us}
        return int(ledger.append("amendments", row)["amendment"])


def store(
    ledger: Ledger,
    request: VoteRequest,
    seat: Sequence[Record],
    *,
    noted: Mapping[str, Any] | None = None,
    rubric_version: int | None,
    at_us: int,
) -> Receipt:
    """Store an answer within the caller's transaction; refusals are those of `VoteService.cast`.

    ``seat``: the rows of `read_seat`, read in the same transaction. ``noted``: what the server
    adds to the details; it may differ in a retry.
    """
    if not seat:  # one message for "no such seat" and "not yours", so nobody can probe ids
        raise UsageError("vote: there is no such comparison for this panelist")
    row = _row(request, noted or {})
    before = [each for each in seat if each["vote"] is not None]
    for earlier in before:
        if earlier["idem"] == request.idem:
            same = _row(request, _stored(earlier, noted or {}))
            if earlier["payload_sha256"] != same["payload_sha256"]:
                raise VoteConflictError(
                    "key_reused",
                    "vote: this key was used for another answer; send a new key",
                    receipt(earlier),
                )
            ledger.attest_head()
            return receipt(earlier, replayed=True)
    stands = receipt(before[-1]) if before else None
    is_open = _is_open(ledger, seat[0])
    if before and not is_open:
        why = _CLOSED.get(seat[0]["kind"], _CLOSED["train"])
        raise VoteConflictError("closed", f"vote: {why}; your answer stands", stands)
    if is_open and seat[0]["tab"] != request.tab:
        raise VoteConflictError(
            "stale_tab", "vote: this comparison is open in another tab", stands
        )
    if len(before) >= MOST_VOTES:
        raise VoteConflictError(
            "changed_often",
            f"vote: this comparison was answered {MOST_VOTES} times; the last answer stands",
            stands,
        )
    stored = ledger.append(
        "votes",
        {
            **row,
            "revision": len(before),
            "rubric_version": rubric_version,
            "late": not is_open,
            "received_us": at_us,
        },
    )
    return receipt(stored)


def _is_open(ledger: Ledger, seat: Record) -> bool:
    if seat["kind"] == "final":
        return orders.takes_votes(ledger, seat["comparison"])
    return bool(seat["state"] == "open")


def read_seat(ledger: Ledger, assignment: str, panelist: str | None = None) -> list[Record]:
    """One row for each answer given in a seat, oldest first; with no answer, one of ``vote`` None.

    Empty where there is no such seat, or where it is not this ``panelist``'s.
    """
    found = ledger.query(
        "SELECT a.*, c.kind, c.step, s.state, v.vote, v.revision, v.choice, v.late, "
        "v.received_us, v.idem, v.payload_sha256, v.details, v.skip_reason "
        "FROM assignments a JOIN comparisons c USING (comparison) "
        "LEFT JOIN steps s ON s.run = c.run AND s.step = c.step "
        "LEFT JOIN votes v ON v.assignment = a.assignment WHERE a.assignment = ? "
        "ORDER BY v.revision",
        (canonical.utf8(assignment),),
    )
    return found if found and panelist in (None, found[0]["panelist"]) else []


def _stored(earlier: Record, noted: Mapping[str, Any]) -> Record:
    """The fields of ``noted``, with the values stored for an earlier answer."""
    kept = json.loads(earlier["details"] or "{}")
    return {name: kept[name] for name in noted if name in kept}


def _row(request: VoteRequest, noted: Mapping[str, Any]) -> Record:
    """The columns of `votes` that a request fills; ``noted`` is added to the details."""
    details = {**(request.details or {}), **noted} if noted else request.details
    text = None if details is None else canonical.utf8(canonical.canonical(details))
    reason = None if request.skip_reason is None else canonical.utf8(request.skip_reason)
    content = (request.choice, reason, request.dwell_ms, text)
    names = ("choice", "skip_reason", "dwell_ms", "details")
    return {
        **dict(zip(names, content, strict=True)),
        "assignment": request.assignment,
        "idem": request.idem,
        "payload_sha256": canonical.payload_sha256(request.assignment, *content),
    }


def receipt(row: Mapping[str, Any], *, replayed: bool = False) -> Receipt:
    """The receipt for a row of `votes`."""
    return Receipt(
        vote=row["vote"],
        assignment=row["assignment"],
        revision=row["revision"],
        choice=row["choice"],
        late=bool(row["late"]),
        received_us=row["received_us"],
        replayed=replayed,
    )
