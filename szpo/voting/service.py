"""The vote service: serves comparisons to panelists and stores their answers as votes.

Every interface uses it: people, simulated panels and judges leave the same rows. A UNIQUE
constraint and an aggregate over rows make a vote count once, whatever the client does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Final, Literal, TypeVar

from szpo.config.section import checked
from szpo.errors import StorageError, UsageError
from szpo.failpoints import failpoint
from szpo.ledger import canonical, orders
from szpo.ledger.database import Clock, Ledger, Record
from szpo.types import Assignment, Choice, Vote
from szpo.voting import blind, casting, counting, seats
from szpo.voting.casting import Receipt, VoteRequest
from szpo.voting.counting import ComparisonSeats, RunNow, Seat, SeatCounts, StepVotes
from szpo.voting.seats import PanelistKind

T = TypeVar("T")
SeatKind = Literal["round", "final"]
"""What a panelist may be shown: a comparison of the open step, or one outside training."""
SEAT_TTL_US: Final = 600_000_000
"""How long a comparison stays reserved for the panelist who was shown it: ten minutes."""


class VoteService:
    """Serves comparisons to panelists and stores their answers.

    ``spare``: how many seats may be held beyond those needed. One is made once a needed seat has
    been held unanswered for ``spare_after_us``, so that its answer is seldom one too many.
    ``seat_ttl_us``: how long an unanswered seat is held. ``rubric_version`` is stored with every
    vote. The service does not decide which answers count: see `StepVotes`.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock | None = None,
        *,
        seat_ttl_us: int = SEAT_TTL_US,
        spare: int = 0,
        spare_after_us: int = 0,
        rubric_version: int | None = None,
    ):
        self.ledger: Final = ledger
        self.clock: Final = clock or ledger.clock
        self.seat_ttl_us: Final = seat_ttl_us
        self.spare: Final = spare
        self.spare_after_us: Final = spare_after_us
        self.rubric_version: Final = rubric_version
        self._kinds: dict[str, str] = {}
        self._votes: StepVotes | None = None
        self._now: RunNow | None = None

    # ---- panelists ----

    def enroll(self, kind: PanelistKind, pseudonym: str) -> str:
        """Enroll a panelist at the first call with this pseudonym; return the panelist's id.

        Ids of simulated panelists and judges derive from the root seed; persons' are random.
        """
        return seats.enroll(self.ledger, kind, pseudonym, self.clock())

    def panelists(self) -> list[Record]:
        """The rows of all panelists, in order of enrolment."""
        return self.ledger.query("SELECT * FROM panelists ORDER BY rowid")

    # ---- seats ----

    def ask(self, kind: SeatKind, panelist: str, *, tab: str | None = None) -> Assignment | None:
        """Serve a comparison of that kind to this panelist; None while there is none."""
        match kind:
            case "round":
                return self.assign(panelist, tab=tab)
            case "final":
                return self.final(panelist, tab=tab)

    def assign(self, panelist: str, *, tab: str | None = None) -> Assignment | None:
        """Serve a comparison of the open step to this panelist; None while none is left.

        A seat that the panelist holds unanswered is served again, to the tab that asks last.
        Otherwise it is the comparison with the fewest answered or held seats, of those that have
        room and that this panelist has not been shown. While the run is paused the result is
        None, and seats stay as they are.
        """
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            counts = self._fresh_counts()
            if counts is None or self.look().paused:
                return None
            for seat in counts.by_panelist.get(panelist, ()):
                if seat.vote is None and self._may_hold(counts, seat):
                    return self.serve_again(seat.assignment, tab)
            best = self._choose(counts, panelist)
            return best and self._serve(best[0].head, counts.d, best[1], panelist, tab)

    def sheet(self, panelist: str, rows: int, *, tab: str | None = None) -> tuple[Assignment, ...]:
        """Serve a sheet of the open step: up to ``rows`` comparisons that are shown at once.

        A sheet of which some seat is held unanswered is served again, with the seats that the
        panelist has answered. Rows that were given to somebody else meanwhile are left out. A new
        sheet has plus on side A in half of its rows, in an order that is drawn, as far as the
        step's plan of sides allows. Empty while nothing is left, or while the run is paused.
        """
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            counts = self._fresh_counts()
            if counts is None or self.look().paused:
                return ()
            own = counts.by_panelist.get(panelist, [])
            held = {s.sheet for s in own if s.vote is None and self._may_hold(counts, s)}
            if held:
                name = next(s.sheet for s in reversed(own) if s.sheet in held)
                found = []
                for seat in own:
                    if seat.sheet == name and seat.vote is not None:
                        found.append(seats.find(self.ledger, seat.assignment))
                    elif seat.sheet == name and self._may_hold(counts, seat):
                        found.append(self.serve_again(seat.assignment, tab))
                return tuple(each for each in found if each is not None)
            chosen: dict[str, tuple[ComparisonSeats, seats.Letter]] = {}
            on_a = (rows + secrets.randbelow(2)) // 2
            while len(chosen) < rows:  # an order drawn, so that no side tells the next one
                lack = on_a - sum(side == "A" for _, side in chosen.values())
                wanted: seats.Letter = "A" if secrets.randbelow(rows - len(chosen)) < lack else "B"
                at = self._choose(counts, panelist, wanted, chosen)
                if at is None:
                    break
                chosen[at[0].head["comparison"]] = at
            name = secrets.token_hex(8)
            return tuple(
                self._serve(at.head, counts.d, side, panelist, tab, name)
                for at, side in chosen.values()
            )

    def _may_hold(self, counts: SeatCounts, seat: Seat) -> bool:
        return counts.comparisons[seat.comparison].may_hold(seat, self.clock(), self.spare)

    def _choose(
        self,
        counts: SeatCounts,
        panelist: str,
        scarce: seats.Letter | None = None,
        but: Container[str] = (),
    ) -> tuple[ComparisonSeats, seats.Letter] | None:
        """A comparison with room that this panelist has not been shown, and its side of plus."""
        now = self.clock()
        best: tuple[ComparisonSeats, seats.Letter] | None = None
        fewest = (True, 2**31, False)
        for at in counts.in_order_of(self.ledger, panelist):
            comparison = at.head["comparison"]
            own = counts.judged_by.get(comparison) == panelist
            if panelist in at.holders or comparison in but:
                continue
            if (own, in_use := at.in_use(now), False) >= fewest:
                continue
            if (side := at.free_side(now, self.spare, self.spare_after_us)) is not None:
                rank = own, in_use, scarce is not None and side != scarce
                if rank < fewest:
                    best, fewest = (at, side), rank
        return best

    def assign_to(
        self, comparison: str, panelist: str, *, tab: str | None = None
    ) -> Assignment | None:
        """Serve this comparison to this panelist; None if it is answered or there is no room."""
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            counts = self._fresh_counts()
            at = None if counts is None else counts.comparisons.get(comparison)
            if counts is None or at is None:
                self._check_identical(comparison)
                return None
            own = at.holders.get(panelist)
            if own is not None:
                return None if own.vote else self.serve_again(own.assignment, tab)
            side = at.free_side(self.clock(), self.spare, self.spare_after_us)
            return side and self._serve(at.head, counts.d, side, panelist, tab)

    def final(self, panelist: str, *, tab: str | None = None) -> Assignment | None:
        """Serve a blind final comparison; None while there is none for this panelist.

        It is the one with the fewest answers that they have not been shown. Sides are balanced
        over an order: see `szpo.voting.blind`.
        """
        with self.ledger.transaction("votes"):
            self._kind(panelist)
            now = self.clock()
            held = seats.find_unanswered(self.ledger, panelist, ("final",), now)
            if held is not None and orders.takes_votes(self.ledger, held.comparison):
                return self.serve_again(held.id, tab)
            found = blind.choose(self.ledger, panelist, now)
            return None if found is None else self.make_seat(*found, panelist, tab)

    def assignment(self, assignment: str) -> Assignment | None:
        """The seat of that id, or None."""
        return seats.find(self.ledger, assignment)

    def release(self, assignment: str) -> None:
        """Give an unanswered seat back before it expires."""
        with self.ledger.transaction("votes"):
            now = self.clock()
            self.ledger.execute(
                "UPDATE assignments SET released_us = ?, expires_us = min(expires_us, ?) "
                "WHERE assignment = ?",
                (now, now, assignment),
            )
            self._note_expiry(assignment, now)

    def extend(self, assignment: str) -> int | None:
        """Hold a seat for another full term; return when it expires, µs, or None if not held.

        A seat that expired or was given back is held again only where its comparison still lacks
        an answer, and never outside the open step. A pause extends nothing; at its end every seat
        gets back the time that it had left.
        """
        with self.ledger.transaction("votes"):
            found, counts, now = self.assignment(assignment), self._fresh_counts(), self.clock()
            if found is None:
                return None
            held = found.expires_us if found.expires_us > now else None
            if self.look().paused:
                return held
            seat = None if counts is None else counts.seats.get(assignment)
            if counts is None or seat is None:
                may = held is not None
            else:
                may = counts.comparisons[seat.comparison].may_hold(seat, now, self.spare)
            return self._hold(assignment, "expires_us = ?, released_us = NULL") if may else None

    def take(self, assignment: str, tab: str) -> None:
        """Hand a seat, answered or not, to another tab; the former one can no longer vote."""
        with self.ledger.transaction("votes"):
            self.ledger.execute(
                "UPDATE assignments SET tab = ? WHERE assignment = ?", (tab, assignment)
            )

    def look(self) -> RunNow:
        """The run's steps and the seats of the open one, as they stand in the file now.

        Call this inside a transaction, or in a block of `Ledger.alone`.
        """
        marks, before = self.ledger.changes(), self._now
        if before is not None and before.marks == marks:
            return before
        rows = self.ledger.query(counting.RUN, (self.ledger.run,))
        step = next((row for row in reversed(rows) if row["state"] == "open"), None)
        counts = None if before is None or before.marks[2] != marks[2] else before.seats
        if step is None:
            counts = None
        elif before is None or counts is None or counts.step != step["step"]:
            counts = SeatCounts(self.ledger, step)
        else:
            counts.stale |= before.marks[0] != marks[0]
            counts.catch_up(self.ledger)
        self._now = RunNow(marks, rows, counts, paused=rows[0]["paused_by"] is not None)
        return self._now

    # ---- answers ----

    def cast(
        self,
        assignment: str,
        choice: Choice,
        idem: str,
        *,
        panelist: str | None = None,
        **more: Any,
    ) -> Receipt:
        """Store an answer; when this returns, it survives a kill of any process.

        With the key (``idem``) of a stored answer it returns that one. A new key from the
        current tab is a revision, until the step (or a final comparison's order) closes. A first
        answer after the close is stored as late. ``panelist`` must be the
        seat's if given; ``more`` are the other fields of `VoteRequest`.

        Raises:
            UsageError: a field is wrong, or there is no such seat.
            VoteConflictError: the seat has closed, or another answer stands.
        """
        fields = {"assignment": assignment, "choice": choice, "idem": idem, **more}
        request = checked(VoteRequest, fields, "vote: ")
        with self.ledger.transaction("votes"):
            seat = casting.read_seat(self.ledger, request.assignment, panelist)
            version, now = self.rubric_version, self.clock()
            receipt = casting.store(self.ledger, request, seat, rubric_version=version, at_us=now)
        failpoint("cp6")
        return receipt

    def call_in_one_transaction(self, acts: Iterable[Callable[[], T]]) -> list[T | Exception]:
        """Call all ``acts`` in one transaction; an act that fails undoes only its own writes.

        Returns each act's result or exception. When this returns, the rows of the acts that
        succeeded survive a kill of any process.
        """
        results: list[T | Exception] = []
        alone = isinstance(acts, Sequence) and len(acts) == 1  # then it needs no savepoint
        with nullcontext() if alone else self.ledger.transaction("votes"):
            for act in acts:
                try:
                    with self.ledger.transaction("votes") if alone else self.ledger.savepoint():
                        result: T | Exception = act()
                except StorageError:  # it may have ended the transaction, so no act may follow
                    raise
                except Exception as error:
                    result = error
                results.append(result)
        failpoint("cp6")
        return results

    def amend(self, vote: int, action: casting.Action, reason: str, actor: str) -> int:
        """Exclude a vote from counting, or reinstate it; return the amendment's id.

        A step that is closed keeps the votes that it counted.
        """
        return casting.amend(self.ledger, vote, action, reason, actor, self.clock())

    def counted(self, step: int) -> tuple[Vote, ...]:
        """The votes of a step that count, as they stand now (see `StepVotes.counted`)."""
        with self.ledger.alone:
            return self._read(step).counted

    def missing(self, step: int, comparisons: Iterable[str]) -> list[int]:
        """How many votes each of these comparisons of a step still needs."""
        with self.ledger.alone:
            votes = self._read(step)
            return [votes.missing_at(comparison) for comparison in comparisons]

    # ---- the inside ----

    def _read(self, step: int) -> StepVotes:
        if self._votes is None or self._votes.step != step:
            self._votes = StepVotes(self.ledger, step)
        return self._votes.look()

    def _kind(self, panelist: str) -> str:
        if panelist not in self._kinds:
            found = self.ledger.query("SELECT kind FROM panelists WHERE panelist = ?", (panelist,))
            if not found:
                raise UsageError(f"panelist {panelist!r} is not enrolled in this run")
            self._kinds[panelist] = str(found[0]["kind"])
        return self._kinds[panelist]

    def _fresh_counts(self) -> SeatCounts | None:
        counts = self.look().seats
        if counts is not None and counts.stale:
            counts.refresh_expiry(self.ledger)
        return counts

    def make_seat(self, comparison: str, side: str, panelist: str, tab: str | None) -> Assignment:
        """Make a seat at a comparison outside the open step; call this inside a transaction."""
        head = self.ledger.query(
            "SELECT *, (SELECT count(*) FROM answers WHERE comparison = c.comparison) AS d "
            "FROM comparisons c WHERE comparison = ?",
            (comparison,),
        )[0]
        return self._serve(head, head["d"], side, panelist, tab)

    def _serve(
        self,
        head: Record,
        d: int,
        side: str,
        panelist: str,
        tab: str | None,
        sheet: str | None = None,
    ) -> Assignment:
        now, root = self.clock(), self.ledger.root_seed
        person = self._kind(panelist) == "person"
        row = {
            "assignment": secrets.token_hex(16) if person else seats.seat_id(root, head, panelist),
            "comparison": head["comparison"],
            "panelist": panelist,
            "plus_side": side,
            "prompt_order": canonical.canonical(seats.prompt_order(root, head, panelist, d)),
            "served_us": now,
            "expires_us": now + self.seat_ttl_us,
            "tab": tab,
            "sheet": sheet,
        }
        self.ledger.append("assignments", row)
        return seats.assignment(row)

    def serve_again(self, assignment: str, tab: str | None) -> Assignment:
        """Hold a seat for another full term and return it; call this inside a transaction."""
        self._hold(assignment, "expires_us = ?, released_us = NULL, tab = ?", tab)
        found = self.assignment(assignment)
        assert found is not None
        return found

    def _hold(self, assignment: str, change: str, *values: str | None) -> int:
        expires = self.clock() + self.seat_ttl_us
        self.ledger.execute(
            f"UPDATE assignments SET {change} WHERE assignment = ?", (expires, *values, assignment)
        )
        self._note_expiry(assignment, expires)
        return expires

    def _note_expiry(self, assignment: str, expires_us: int) -> None:
        if (counts := self.look().seats) is not None:
            counts.set_expiry(assignment, expires_us)

    def _check_identical(self, comparison: str) -> None:
        """Raise UsageError unless both batches of this comparison of the open step are equal."""
        found = self.ledger.query(
            "SELECT 1 FROM comparisons c JOIN steps s USING (run, step) "
            "WHERE c.comparison = ? AND c.kind = 'train' AND c.identical = 1 AND s.state = 'open'",
            (comparison,),
        )
        if not found:
            raise UsageError(f"comparison {comparison} is not open for votes")
