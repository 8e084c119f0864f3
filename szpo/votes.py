"""The vote service: who is asked what, and how an answer becomes a counted vote.

Plain Python behind every door: people, simulated panels and judges leave the same rows. Counting
exactly once is a UNIQUE constraint and an aggregate over rows, never a client's good behaviour.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from szpo import records, seeds
from szpo.counting import counted, missing, sides, standing, tally, verdict
from szpo.errors import SzpoError, UsageError
from szpo.failpoints import failpoint
from szpo.ledger import Clock, Ledger, Record
from szpo.types import Assignment, Choice, Vote

__all__ = [
    "CHOICES",
    "SEAT_TTL_US",
    "PanelistKind",
    "Receipt",
    "VoteConflictError",
    "VoteService",
    "counted",
    "missing",
    "sides",
    "standing",
    "tally",
    "verdict",
]

PanelistKind = Literal["person", "simulated", "judge"]
CHOICES: Final = get_args(Choice)
SEAT_TTL_US: Final = 600_000_000
"""How long a comparison stays reserved for the panelist who was shown it: ten minutes."""

_IDEM = re.compile(r"[A-Za-z0-9_.:-]{16,64}")
_SEATS = (
    "SELECT a.*, f.vote AS first_vote, l.choice AS last_choice, "
    "(SELECT action FROM amendments WHERE vote = l.vote ORDER BY amendment DESC LIMIT 1) "
    "AS last_action FROM assignments a "
    "LEFT JOIN votes f ON f.assignment = a.assignment AND f.revision = 0 "
    "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
    "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
    "WHERE a.comparison = ? ORDER BY a.served_us, a.rowid"
)
"""The seats of a comparison, each with its first answer, its last one and what became of that."""


class VoteConflictError(SzpoError):
    """A vote that cannot be taken as sent; ``code`` says why, ``stored`` what stands instead."""

    exit_code = 2

    def __init__(self, code: str, message: str, stored: Receipt | None = None):
        super().__init__(message)
        self.code: Final = code
        self.stored: Final = stored


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was stored for an answer; ``replayed`` marks the retry of one stored before."""

    vote: int
    assignment: str
    revision: int
    choice: Choice
    late: bool
    received_us: int
    replayed: bool = False


class VoteService:
    """Serves comparisons to panelists and stores their answers.

    ``spare`` seats beyond M may be served while others still think; ``seat_ttl_us`` is how long
    an unanswered seat is held. Only the first M answers of a comparison count (see `counted`).
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock | None = None,
        *,
        seat_ttl_us: int = SEAT_TTL_US,
        spare: int = 0,
        rubric_version: int | None = None,
    ):
        self.ledger: Final = ledger
        self.clock: Final = clock or ledger.clock
        self.seat_ttl_us: Final = seat_ttl_us
        self.spare: Final = spare
        self.rubric_version: Final = rubric_version

    # ---- panelists ----

    def enroll(self, kind: PanelistKind, pseudonym: str) -> str:
        """The id of the panelist of that name, enrolling them at the first call.

        Ids of simulated panelists and judges derive from the root seed; persons' are random.

        Raises:
            UsageError: the name belongs to a panelist of another kind, or is not 1–64 characters.
        """
        if kind not in get_args(PanelistKind):
            raise UsageError(f"panelist {pseudonym!r}: kind {kind!r} is unknown")
        if not 1 <= len(pseudonym) <= 64:
            raise UsageError("panelist: a pseudonym has 1 to 64 characters")
        with self.ledger.transaction("votes"):
            found = self.ledger.query("SELECT * FROM panelists WHERE pseudonym = ?", (pseudonym,))
            if found:
                if found[0]["kind"] != kind:
                    raise UsageError(f"panelist {pseudonym!r} is enrolled as {found[0]['kind']}")
                return str(found[0]["panelist"])
            if kind == "person":
                panelist = secrets.token_hex(8)
            else:
                panelist = panelist_id(self.ledger.root_seed, kind, pseudonym)
            self.ledger.execute(
                "INSERT INTO panelists VALUES (?, ?, ?, ?)",
                (panelist, kind, pseudonym, self.clock()),
            )
            return panelist

    def panelists(self) -> list[Record]:
        """Everybody enrolled, in order of enrolment."""
        return self.ledger.query("SELECT * FROM panelists ORDER BY rowid")

    # ---- seats ----

    def assign(self, panelist: str, *, tab: str | None = None) -> Assignment | None:
        """A comparison of the open step for this panelist, or None while nothing is left.

        A seat that the panelist holds unanswered is served again (to the tab that asks last).
        Otherwise the comparison with the fewest answered or running seats, below M plus spare,
        that this panelist has not been shown.

        Raises:
            UsageError: nobody of that id is enrolled.
        """
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            step = self._open_step()
            if step is None:
                return None
            choices: list[tuple[int, str, Record]] = []
            for head in self._asked(step["step"]):
                seats = self.ledger.query(_SEATS, (head["comparison"],))
                own = next((seat for seat in seats if seat["panelist"] == panelist), None)
                taken = self._taken(seats, but=panelist)
                if own is not None and own["first_vote"] is None:
                    if own["expires_us"] > self.clock() or taken < step["m"] + self.spare:
                        return self._serve_again(own, tab)
                elif own is None and taken < step["m"] + self.spare:
                    # Ties between equally filled ones fall differently for each panelist.
                    key = seeds.derive(
                        self.ledger.root_seed, "serve", name=f"{head['comparison']}/{panelist}"
                    )
                    choices.append((taken, key.hex(), head))
            if not choices:
                return None
            return self._seat(min(choices, key=lambda c: c[:2])[2], panelist, step["m"], tab)

    def assign_to(
        self, comparison: str, panelist: str, *, tab: str | None = None
    ) -> Assignment | None:
        """The seat of this panelist at this comparison, made if M leaves room; else None.

        Raises:
            UsageError: no such panelist, or the comparison is not open for votes.
        """
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            step = self._open_step()
            found = self.ledger.query(
                "SELECT * FROM comparisons WHERE comparison = ?", (comparison,)
            )
            if step is None or not found or found[0]["step"] != step["step"]:
                raise UsageError(f"comparison {comparison} is not open for votes")
            seats = self.ledger.query(_SEATS, (comparison,))
            own = next((seat for seat in seats if seat["panelist"] == panelist), None)
            if own is not None:
                return None if own["first_vote"] else self._serve_again(own, tab)
            if found[0]["identical"] or self._taken(seats) >= step["m"] + self.spare:
                return None
            return self._seat(found[0], panelist, step["m"], tab)

    def assignment(self, assignment: str) -> Assignment | None:
        """The seat of that id, or None."""
        found = self.ledger.query("SELECT * FROM assignments WHERE assignment = ?", (assignment,))
        return _assignment(found[0]) if found else None

    def release(self, assignment: str) -> None:
        """Give an unanswered seat back before it expires."""
        with self.ledger.transaction("votes"):
            now = self.clock()
            self.ledger.execute(
                "UPDATE assignments SET released_us = ?, expires_us = min(expires_us, ?) "
                "WHERE assignment = ?",
                (now, now, assignment),
            )

    def extend(self, assignment: str) -> None:
        """Hold a seat for another full term (the page's heartbeat)."""
        with self.ledger.transaction("votes"):
            self.ledger.execute(
                "UPDATE assignments SET expires_us = ?, released_us = NULL WHERE assignment = ?",
                (self.clock() + self.seat_ttl_us, assignment),
            )

    # ---- answers ----

    def cast(
        self,
        assignment: str,
        choice: Choice,
        *,
        idem: str,
        skip_reason: str | None = None,
        dwell_ms: int | None = None,
        details: Mapping[str, Any] | None = None,
        tab: str | None = None,
        panelist: str | None = None,
    ) -> Receipt:
        """Store an answer; when this returns, it survives a kill of any process.

        ``idem`` is the client's key (16–64 of [A-Za-z0-9_.:-]): the same key again returns the
        stored answer. A new key from the current tab before the step closes is a revision. The
        first answer after the close is stored as late. ``panelist`` checks whose seat it is.

        Raises:
            UsageError: unknown seat or choice, or a key of another form.
            VoteConflictError: key_reused (other answer, same key), stale_tab, or closed.
        """
        if choice not in CHOICES:
            raise UsageError(f"vote: choice {choice!r} is not one of {', '.join(CHOICES)}")
        if not isinstance(idem, str) or not _IDEM.fullmatch(idem):
            raise UsageError("vote: the key must be 16 to 64 of A-Z a-z 0-9 _ . : -")
        if skip_reason is not None and choice != "skip":
            raise UsageError("vote: a skip reason belongs to a skip")
        if dwell_ms is not None and not 0 <= dwell_ms < 2**53:
            raise UsageError(f"vote: dwell_ms is {dwell_ms}; give milliseconds from 0")
        dwell_ms = None if dwell_ms is None else int(dwell_ms)
        text = None if details is None else records.utf8(records.canonical(details))
        skip_reason = None if skip_reason is None else records.utf8(skip_reason)
        payload = records.payload_sha256(assignment, choice, skip_reason, dwell_ms, text)
        with self.ledger.transaction("votes"):
            seat = self._seat_row(assignment, panelist)
            before = self.ledger.query(
                "SELECT * FROM votes WHERE assignment = ? ORDER BY revision", (assignment,)
            )
            for row in before:
                if row["idem"] == idem:
                    if row["payload_sha256"] != payload:
                        raise VoteConflictError(
                            "key_reused",
                            "vote: this key was used for another answer; send a new key",
                            _receipt(row),
                        )
                    return _receipt(row, replayed=True)
            is_open = seat["state"] == "open"
            if before and not is_open:
                raise VoteConflictError(
                    "closed",
                    "vote: the round has closed; your answer stands",
                    _receipt(before[-1]),
                )
            if is_open and seat["tab"] != tab:
                raise VoteConflictError(
                    "stale_tab",
                    "vote: this comparison is open in another tab",
                    _receipt(before[-1]) if before else None,
                )
            row = self.ledger.append(
                "votes",
                {
                    "assignment": assignment,
                    "revision": len(before),
                    "choice": choice,
                    "skip_reason": skip_reason,
                    "rubric_version": self.rubric_version,
                    "dwell_ms": dwell_ms,
                    "details": text,
                    "late": not is_open,
                    "idem": idem,
                    "payload_sha256": payload,
                    "received_us": self.clock(),
                },
            )
        failpoint("cp6")
        return _receipt(row)

    def amend(
        self, vote: int, action: Literal["exclude", "reinstate"], reason: str, actor: str
    ) -> int:
        """Exclude a vote from counting, or take it back in; after a close it changes nothing.

        Raises:
            UsageError: unknown vote or action, or no reason.
        """
        if action not in ("exclude", "reinstate"):
            raise UsageError(f"amendment: {action!r} is not exclude or reinstate")
        if not reason:
            raise UsageError("amendment: give a reason; it stays in the record")
        with self.ledger.transaction(actor):
            if not self.ledger.query("SELECT 1 FROM votes WHERE vote = ?", (vote,)):
                raise UsageError(f"amendment: there is no vote {vote}")
            row = self.ledger.append(
                "amendments",
                {
                    "vote": vote,
                    "action": action,
                    "reason": reason,
                    "actor": actor,
                    "at_us": self.clock(),
                },
            )
            return int(row["amendment"])

    def counted(self, step: int) -> tuple[Vote, ...]:
        """The votes of a step that count, as they stand now (see `counted`)."""
        return counted(self.ledger, step)

    # ---- the inside ----

    def _kind(self, panelist: str) -> str:
        found = self.ledger.query("SELECT kind FROM panelists WHERE panelist = ?", (panelist,))
        if not found:
            raise UsageError(f"panelist {panelist!r} is not enrolled in this run")
        return str(found[0]["kind"])

    def _open_step(self) -> Record | None:
        found = self.ledger.query(
            "SELECT * FROM steps WHERE run = ? AND state = 'open'", (self.ledger.run,)
        )
        return found[0] if found else None

    def _asked(self, step: int) -> list[Record]:
        return self.ledger.query(
            "SELECT * FROM comparisons WHERE run = ? AND step = ? AND kind = 'train' "
            "AND identical = 0 ORDER BY k, n",
            (self.ledger.run, step),
        )

    def _taken(self, seats: Iterable[Record], but: str | None = None) -> int:
        """Seats that are answered (not skipped or excluded) or still running."""
        now = self.clock()
        return sum(self._side_in_use(seat, now) for seat in seats if seat["panelist"] != but)

    def _side_in_use(self, seat: Record, now: int) -> bool:
        if seat["first_vote"] is None:
            return bool(seat["expires_us"] > now)
        return bool(seat["last_choice"] != "skip" and seat["last_action"] != "exclude")

    def _seat(self, head: Record, panelist: str, m: int, tab: str | None) -> Assignment:
        now, root = self.clock(), self.ledger.root_seed
        if self._kind(panelist) == "person":
            assignment = secrets.token_hex(16)
        else:
            assignment = seat_id(root, head, panelist)
        d = self.ledger.query(
            "SELECT count(*) AS d FROM answers WHERE comparison = ?", (head["comparison"],)
        )[0]["d"]
        row = {
            "assignment": assignment,
            "comparison": head["comparison"],
            "panelist": panelist,
            "plus_side": self._free_side(head, m, now),
            "prompt_order": records.canonical(prompt_order(root, head, panelist, d)),
            "served_us": now,
            "expires_us": now + self.seat_ttl_us,
            "tab": tab,
        }
        self.ledger.append("assignments", row)
        return _assignment(row)

    def _free_side(self, head: Record, m: int, now: int) -> str:
        """The first planned side of the comparison that no live seat uses; a spare repeats one."""
        rank = self.ledger.query(
            "SELECT count(*) AS rank FROM comparisons WHERE run = ? AND step = ? AND k = ? "
            "AND n < ? AND kind = 'train' AND identical = 0",
            (self.ledger.run, head["step"], head["k"], head["n"]),
        )[0]["rank"]
        planned = sides(
            self.ledger.root_seed, step=head["step"], k=head["k"], n=head["n"], m=m, rank=rank
        )
        seats = self.ledger.query(_SEATS, (head["comparison"],))
        in_use = [seat["plus_side"] for seat in seats if self._side_in_use(seat, now)]
        free = list(planned)
        for side in in_use:
            if side in free:
                free.remove(side)
        if free:
            return free[0]
        waiting = [seat["plus_side"] for seat in seats if seat["first_vote"] is None]
        return str(waiting[0]) if waiting else planned[0]

    def _serve_again(self, seat: Record, tab: str | None) -> Assignment:
        expires = self.clock() + self.seat_ttl_us
        self.ledger.execute(
            "UPDATE assignments SET expires_us = ?, released_us = NULL, tab = ? "
            "WHERE assignment = ?",
            (expires, tab, seat["assignment"]),
        )
        return _assignment({**seat, "expires_us": expires})

    def _seat_row(self, assignment: str, panelist: str | None) -> Record:
        found = self.ledger.query(
            "SELECT a.*, s.state FROM assignments a JOIN comparisons c USING (comparison) "
            "LEFT JOIN steps s ON s.run = c.run AND s.step = c.step WHERE a.assignment = ?",
            (assignment,),
        )
        # One text for "no such seat" and "not yours": ids are not to be probed.
        if not found or panelist not in (None, found[0]["panelist"]):
            raise UsageError("vote: there is no such comparison for this panelist")
        return found[0]


def panelist_id(root_seed: int, kind: str, pseudonym: str) -> str:
    """The id of a simulated panelist or a judge; persons' are random."""
    return seeds.derive(root_seed, "panelist", name=f"{kind}/{pseudonym}")[:8].hex()


def seat_id(root_seed: int, head: Mapping[str, Any], panelist: str) -> str:
    """The id of such a panelist's seat at a comparison (a row of `comparisons`)."""
    return _seat_key(root_seed, "assignment", head, panelist).hex()


def prompt_order(root_seed: int, head: Mapping[str, Any], panelist: str, d: int) -> list[int]:
    """In which order a panelist is shown the D prompts of a comparison."""
    order = seeds.permutation(_seat_key(root_seed, "order", head, panelist), d)
    return [int(i) for i in order]


def _seat_key(root_seed: int, purpose: str, head: Mapping[str, Any], panelist: str) -> bytes:
    name = f"{head['n']}/{panelist}"
    return seeds.derive(root_seed, purpose, step=head["step"], k=head["k"], name=name)


def _assignment(row: Mapping[str, Any]) -> Assignment:
    return Assignment(
        id=row["assignment"],
        comparison=row["comparison"],
        panelist=row["panelist"],
        plus_side=row["plus_side"],
        prompt_order=tuple(json.loads(row["prompt_order"])),
        expires_us=row["expires_us"],
    )


def _receipt(row: Mapping[str, Any], *, replayed: bool = False) -> Receipt:
    return Receipt(
        vote=row["vote"],
        assignment=row["assignment"],
        revision=row["revision"],
        choice=row["choice"],
        late=bool(row["late"]),
        received_us=row["received_us"],
        replayed=replayed,
    )
