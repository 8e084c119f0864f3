"""Which stored votes count, and which seats are open; this only reads the ledger.

The open step's seats are counted in memory, to decide which comparison is served next. The
ledger's rows are the truth. They are read once per step; later only new rows are, and all expiry
times if another process has changed some. Seats are advisory: which votes count, and so the
balance of sides, never depends on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError
from szpo.ledger.connection import salvage
from szpo.ledger.database import Ledger, Record
from szpo.types import Choice, Kind, Tally, Verdict, Vote
from szpo.voting import seats
from szpo.voting.seats import LETTERS, balance_of, planned_sides

_VOTE: Final = (
    "SELECT v.vote, v.assignment, v.revision, v.choice, v.received_us, a.comparison, a.panelist, "
    "a.plus_side, c.k, c.n, v.skip_reason FROM "
)
HARMFUL: Final = "harmful"
"""The reason of a skip after which nobody is shown this row again, and no vote on it counts."""
UNLIMITED: Final = 2**20
"""More votes than a comparison ever has."""
_PLUS_ON_A: Final = {"Aplus": 1, "Bminus": 1, "Bplus": -1, "Aminus": -1}

RUN: Final = """
SELECT s.*, r.paused_by, r.pause_reason,
  (SELECT body FROM events WHERE kind = 'budget' ORDER BY event DESC LIMIT 1) AS budget,
  s.state <> 'applied' AND EXISTS (SELECT 1 FROM comparisons
    WHERE run = s.run AND step = s.step AND kind = 'train') AS stored
FROM controller r LEFT JOIN steps s USING (run) WHERE r.run = ? ORDER BY s.step
"""
_OF_STEP: Final = (
    "FROM comparisons c CROSS JOIN assignments a USING (comparison) "
    "LEFT JOIN votes v USING (assignment) "
    "WHERE c.run = :run AND c.step = :step AND c.kind = 'train'"
)
_NEW: Final = f"""
SELECT a.assignment, a.comparison, a.panelist, a.plus_side AS side, a.served_us, a.expires_us,
  a.sheet, NULL AS vote, NULL AS choice, NULL AS reason,
  a.rowid AS number, NULL AS event, NULL AS moved
FROM assignments a CROSS JOIN comparisons c USING (comparison)
WHERE a.rowid > coalesce(:seat, (SELECT min(a.rowid) - 1 {_OF_STEP}))
  AND c.run = :run AND c.step = :step AND c.kind = 'train'
UNION ALL SELECT assignment, NULL, NULL, NULL, NULL, NULL, NULL, vote, choice, skip_reason,
  vote, NULL, NULL
FROM votes WHERE vote > coalesce(:vote, (SELECT min(v.vote) - 1 {_OF_STEP})) AND late = 0
UNION ALL SELECT NULL, NULL, NULL, NULL, (SELECT max(rowid) FROM assignments),
  (SELECT max(vote) FROM votes), NULL, NULL, NULL, NULL,
  (SELECT max(amendment) FROM amendments), max(event),
  max(kind IN ({", ".join(f"'{kind}'" for kind in seats.MOVING_EVENTS)}))
FROM events WHERE event > coalesce(:event, (SELECT max(event) FROM events) - 1)
ORDER BY vote, number
"""
"""The seats, then the answers, that are newer than the last seat, vote and event of the file when
this was read before, and these last ones. CROSS JOIN fixes the order of the tables, so that new
rows come first, however large the step is."""


def comparisons_asked(ledger: Ledger, step: int) -> list[Record]:
    """The comparisons of a step whose batches differ, in order of (k, n); only these are asked."""
    return ledger.query(
        "SELECT comparison, kind, step, k, n, identical FROM comparisons "
        "WHERE run = ? AND step = ? AND kind = 'train' AND identical = 0 ORDER BY k, n",
        (ledger.run, step),
    )


def verdict(choice: Choice, plus_side: str) -> Verdict:
    """The verdict on the policies that a choice on screen means.

    >>> verdict("B", "B"), verdict("A", "B"), verdict("tie", "B")
    ('plus', 'minus', 'tie')
    """
    if choice == "tie":
        return "tie"
    if choice == "skip":
        return "skip"
    return "plus" if choice == plus_side else "minus"


class StepVotes:
    """The votes of one step as of the last call of `look`.

    It writes nothing. Once the step is closed, the votes that stand and count are fixed. For an
    open step call `look` repeatedly; each call reads only the rows appended since the last.
    """

    def __init__(self, ledger: Ledger, step: int):
        self.ledger: Final = ledger
        self.step: Final = step
        self._marks: tuple[int, int, int] | None = None
        self._counted: tuple[Vote, ...] | None = None
        self.look()

    def look(self) -> StepVotes:
        """Read the votes and amendments that are new since the last look; return self."""
        with self.ledger.snapshot():  # so the step cannot close between reading row and votes
            marks, before = self.ledger.changes(), self._marks
            if marks != before:
                self._marks = None  # until all is read: an interrupt leaves nothing half read
                if (
                    before is None or before[2] != marks[2]
                ):  # a rollback in this process: some rows that were read are gone
                    self._forget()
                self._read()
                self._marks = marks
        return self

    @property
    def standing(self) -> tuple[Vote, ...]:
        """Each panelist's last answer, given in time, to each training comparison, or a skip.

        Left out are votes beyond `steps.last_vote`, late votes, and votes that an amendment up to
        `steps.last_amendment` excludes.
        """
        return tuple(vote for vote in self._latest.values() if vote.id not in self._out)

    @property
    def counted(self) -> tuple[Vote, ...]:
        """The votes that count: A, B or tie, M for each comparison, balanced over sides.

        For each comparison and side of plus, the votes of the first panelists count, up to the
        number planned (`planned_sides`). So in a complete comparison with even M, plus is on A in
        exactly half of the votes, whoever skipped, came late or had a spare seat. Panelists are
        ordered by their first answer, so that a revision never decides which votes count. A skip
        keeps no place in this order, so nobody can skip early and answer later ahead of others.
        Of single rows (D = 1) a skip takes its place: the row is asked once less. After a skip
        as `HARMFUL` no vote on the row counts.
        """
        if self._counted is None:
            self._counted = tuple(self._walk_counted())
        return self._counted

    @property
    def missing(self) -> int:
        """How many counted votes the step still needs until each comparison has M of them."""
        return self._lack

    def missing_at(self, comparison: str) -> int:
        """How many counted votes one comparison still needs, over both sides of plus."""
        sides = ((comparison, side) for side in "AB")
        return sum(max(0, self._room.get(s, 0) - self._have.get(s, 0)) for s in sides)

    def ids(self) -> tuple[set[int], list[int]]:
        """The ids of the votes that stand, and of those that count, in order."""
        standing = {vote.id for vote in self._latest.values()} - self._out
        return standing, [vote.id for vote in self._walk_counted()]

    # ---- the reading ----

    def _forget(self) -> None:
        self._vote = self._amendment = 0
        self._latest: dict[str, Vote] = {}
        """The last answer of each seat, in order of first answers since a skip."""
        self._out: set[int] = set()
        """Excluded votes."""
        self._room: dict[tuple[str, str], int] = {}
        self._rows = False
        """The comparisons are single rows."""
        self._have: dict[tuple[str, str], int] = {}
        self._lack = 0
        self._counted = None

    def _read(self) -> None:
        ledger, row = self.ledger, self.ledger.step(self.step)
        if row is None:
            return
        if not self._room:  # stored as a whole before anybody votes, and never changed
            asked = comparisons_asked(ledger, self.step)
            planned = planned_sides(ledger.root_seed, asked, row["m"], balance_of(ledger))
            self._room = {(c, s): sides.count(s) for c, sides in planned.items() for s in LETTERS}
            self._rows = row["d"] == 1
            self._lack = sum(self._room.values())
        last = ledger.query(
            "SELECT (SELECT coalesce(max(vote), 0) FROM votes) AS vote, "
            "(SELECT coalesce(max(amendment), 0) FROM amendments) AS amendment"
        )[0]
        if row["last_vote"] is not None:
            last["vote"] = min(last["vote"], row["last_vote"])
            last["amendment"] = min(last["amendment"], row["last_amendment"])
        if last["vote"] > self._vote:
            if not self._vote:  # nobody votes on a step before its predecessor is closed
                before = "SELECT max(last_vote) AS vote FROM steps WHERE run = ? AND step < ?"
                self._vote = ledger.query(before, (ledger.run, self.step))[0]["vote"] or 0
            for vote in ledger.stream(
                f"{_VOTE} votes v CROSS JOIN assignments a USING (assignment) "
                "CROSS JOIN comparisons c USING (comparison) WHERE v.vote > ? AND v.vote <= ? "
                "AND v.late = 0 AND c.run = ? AND c.step = ? AND c.kind = 'train' ORDER BY v.vote",
                (self._vote, last["vote"], ledger.run, self.step),
            ):
                self._add(vote)
            self._vote = last["vote"]
        if last["amendment"] > self._amendment:
            for amendment in ledger.query(
                "SELECT vote, action FROM amendments WHERE amendment > ? AND amendment <= ? "
                "ORDER BY amendment",
                (self._amendment, last["amendment"]),
            ):
                act = self._out.add if amendment["action"] == "exclude" else self._out.discard
                act(amendment["vote"])
            self._amendment = last["amendment"]
            self._count_again()

    def _add(self, row: Record) -> None:
        vote, before = _replace_last(self._latest, row)
        if before is not None:
            self._count(before, -1)
        self._count(vote, 1)
        self._counted = None

    def _count(self, vote: Vote, by: int) -> None:
        """Count an answer on its side of plus (``by`` 1) or remove it (−1); update ``_lack``."""
        if vote.harmful and self._rows:
            for letter in LETTERS:
                self._add_to(vote, letter, by * UNLIMITED)
        elif self._rows or vote.choice != "skip":
            self._add_to(vote, vote.plus_side, by)

    def _add_to(self, vote: Vote, letter: str, by: int) -> None:
        side = vote.comparison, letter
        room = self._room.get(side, 0)
        if vote.id in self._out or not room:
            return
        before = self._have.get(side, 0)
        self._have[side] = before + by
        self._lack += min(before, room) - min(before + by, room)

    def _count_again(self) -> None:
        self._have, self._lack, self._counted = {}, sum(self._room.values()), None
        for vote in self._latest.values():
            self._count(vote, 1)

    def _walk_counted(self) -> Iterator[Vote]:
        """Yield the votes that count: the first on each side, as many as are planned."""
        room = dict(self._room)
        standing = self.standing  # in order of first answers since a skip
        for vote in standing if self._rows else ():
            if vote.harmful:
                room |= dict.fromkeys(((vote.comparison, letter) for letter in LETTERS), 0)
        for vote in standing:
            side, skipped = (vote.comparison, vote.plus_side), vote.choice == "skip"
            if (self._rows or not skipped) and room.get(side, 0):
                room[side] -= 1
                if not skipped:
                    yield vote


def standing_votes(
    ledger: Ledger,
    *kinds: Kind,
    last_vote: int | None = None,
    last_amendment: int | None = None,
) -> tuple[Vote, ...]:
    """The votes that stand on comparisons of these kinds: the last of each seat, if in time.

    Only votes and amendments up to ``last_vote`` and ``last_amendment`` are read. Excluded votes
    are left out. For the votes of one step up to its close, see `StepVotes.standing`.
    """
    marks = ", ".join("?" * len(kinds))
    latest: dict[str, Vote] = {}
    with ledger.snapshot():
        for row in ledger.stream(
            f"{_VOTE} comparisons c CROSS JOIN assignments a USING (comparison) "
            f"CROSS JOIN votes v USING (assignment) WHERE c.kind IN ({marks}) AND v.late = 0 "
            "AND v.vote <= ? ORDER BY v.vote",
            (*kinds, 2**62 if last_vote is None else last_vote),
        ):
            _replace_last(latest, row)
        without = excluded_votes(ledger, last_amendment)
    return tuple(vote for vote in latest.values() if vote.id not in without)


def _replace_last(latest: dict[str, Vote], row: Record) -> tuple[Vote, Vote | None]:
    """Replace a seat's last answer by its next one, in order of votes; returns new and old."""
    vote, before = _vote(row), latest.get(row["assignment"])
    if before is not None and before.choice == "skip":
        del latest[row["assignment"]]
    latest[row["assignment"]] = vote
    return vote, before


def counted(ledger: Ledger, step: int) -> tuple[Vote, ...]:
    """The votes of a step that count, as its close fixed them; see `StepVotes.counted`.

    Before that, those that would count now.
    """
    row = ledger.step(step)
    if row is None or row["counted"] is None:
        return StepVotes(ledger, step).counted
    ids = json.loads(row["counted"])
    found = ledger.query("SELECT * FROM counted_votes WHERE step = ? ORDER BY place", (step,))
    if [vote["vote"] for vote in found] != ids:
        raise IntegrityError(
            f"{ledger.path.name}: votes of step {step} cannot be found, the file is damaged; "
            f"{salvage(ledger.path)}"
        )
    return tuple(map(_vote, found))


def tally(ledger: Ledger, step: int, K: int, N: int, votes: Iterable[Vote] | None = None) -> Tally:
    """Counts (K, N) of each verdict among a step's counted votes, or among ``votes`` of them."""
    counts, side = np.zeros((3, K, N)), np.zeros((K, N))
    index = {"plus": 0, "minus": 1, "tie": 2}
    for vote in counted(ledger, step) if votes is None else votes:
        counts[index[vote.verdict], vote.k, vote.n] += 1
        side[vote.k, vote.n] += _PLUS_ON_A.get(vote.choice + vote.verdict, 0)
    identical = np.zeros((K, N), dtype=np.bool_)
    for row in ledger.query(
        "SELECT k, n FROM comparisons WHERE run = ? AND step = ? AND kind = 'train' "
        "AND identical = 1",
        (ledger.run, step),
    ):
        identical[row["k"], row["n"]] = True
    side = side / np.maximum(counts[0] + counts[1], 1)
    return Tally(counts[0], counts[1], counts[2], identical, side=side)


def missing(ledger: Ledger, step: int) -> int:
    """How many counted votes the step still needs; see `StepVotes.missing`."""
    return StepVotes(ledger, step).missing


def excluded_votes(ledger: Ledger, horizon: int | None = None) -> set[int]:
    """The ids of the votes that their last amendment, up to ``horizon``, excludes."""
    rows = ledger.query(
        "SELECT vote, action, max(amendment) FROM amendments WHERE amendment <= ? GROUP BY vote",
        (2**62 if horizon is None else horizon,),
    )
    return {row["vote"] for row in rows if row["action"] == "exclude"}


def _vote(row: Record) -> Vote:
    return Vote(
        comparison=row["comparison"],
        panelist=row["panelist"],
        k=row["k"],
        n=row["n"],
        verdict=verdict(row["choice"], row["plus_side"]),
        choice=row["choice"],
        revision=row["revision"],
        received_us=row["received_us"],
        id=row["vote"],
        plus_side=row["plus_side"],
        harmful=row["choice"] == "skip" and row["skip_reason"] == HARMFUL,
    )


@dataclass(slots=True)
class Seat:
    """A panelist at a comparison; ``vote`` is their last answer in time, a skip included."""

    assignment: str
    comparison: str
    panelist: str
    side: seats.Letter
    served_us: int
    expires_us: int
    sheet: str | None = None
    vote: int | None = None
    choice: str | None = None
    reason: str | None = None
    """Why the panelist skipped."""

    def is_held(self, now: int) -> bool:
        """Whether the seat has not expired at ``now``, µs.

        It also counts as expired if the clock was since set back by more than the seat's term.
        """
        given, ahead = self.expires_us - self.served_us, self.served_us - now
        return self.expires_us > now and not 0 < given < ahead

    def until(self, now: int) -> float:
        """The next time at which `is_held` changes, µs; ∞ if it does not change again."""
        if self.is_held(now):
            return self.expires_us
        return 2 * self.served_us - self.expires_us if self.expires_us > now else math.inf


@dataclass(slots=True)
class ComparisonSeats:
    """The seats at one comparison: answers planned and answers standing, for each side of plus."""

    head: Record
    planned: tuple[seats.Letter, ...]
    is_row: bool = False
    """It is a single row (D = 1), of which a skip takes up a seat."""
    holders: dict[str, Seat] = field(default_factory=dict)
    standing: dict[seats.Letter, int] = field(
        default_factory=partial(dict[seats.Letter, int], A=0, B=0)
    )
    counted: int = 0
    """How many of the standing answers count: on each side at most as many as planned."""
    waiting: list[Seat] = field(default_factory=list)
    held: tuple[int, float, dict[seats.Letter, int]] | None = None
    """A cache: counted at and valid until (µs), and the number of seats held on each side."""

    def recount(self, without: set[int]) -> None:
        """Recount the answers that stand on each side, and the unanswered seats."""
        self.standing = {"A": 0, "B": 0}
        self.waiting, self.held = [], None
        for seat in self.holders.values():
            if seat.vote is None:
                self.waiting.append(seat)
            elif seat.vote in without:
                continue
            elif self.is_row and seat.choice == "skip" and seat.reason == HARMFUL:
                for side in LETTERS:
                    self.standing[side] += UNLIMITED
            elif self.is_row or seat.choice != "skip":
                self.standing[seat.side] += 1
        self.counted = sum(min(self.planned.count(s), self.standing[s]) for s in LETTERS)

    def lack(self, side: seats.Letter) -> int:
        """How many answers the side still needs."""
        return max(0, self.planned.count(side) - self.standing[side])

    def count_held(self, now: int) -> dict[seats.Letter, int]:
        """Count held, unanswered seats on each side."""
        counts: dict[seats.Letter, int] = {"A": 0, "B": 0}
        for seat in self.waiting:
            if seat.is_held(now):
                counts[seat.side] += 1
        return counts

    def in_use(self, now: int) -> int:
        """The number of answers that stand and of seats that are held.

        It is computed for every comparison whenever a seat is served. So held seats are counted
        again only once one expires or changes, which saves time with a thousand panelists.
        """
        if self.held is None or not self.held[0] <= now < self.held[1]:
            until = min((seat.until(now) for seat in self.waiting), default=math.inf)
            self.held = now, until, self.count_held(now)
        return sum(self.standing.values()) + sum(self.held[2].values())

    def free_side(self, now: int, spare: int, after_us: int = 0) -> seats.Letter | None:
        """The side of plus that a further seat gets; None if there is no room.

        It is the first planned side that no answer and no held seat uses. If there is none, a
        spare seat repeats a side on which seats have been held unanswered for ``after_us``, first
        the one with the fewest spares. Surplus answers on one side take no room from the other.
        """
        held = self.count_held(now)
        used = {side: self.standing[side] + held[side] for side in LETTERS}
        for side in self.planned:
            if not used[side]:
                return side
            used[side] -= 1
        beyond = {s: held[s] - self.lack(s) for s in LETTERS if self.lack(s)}
        if sum(beyond.values()) >= spare:
            return None
        since = {
            side: min(seat.served_us for seat in self.waiting if seat.side == side)
            for side in beyond
        }
        slow = [side for side in beyond if now - since[side] >= after_us]
        return min(slow, key=lambda side: (beyond[side], since[side]), default=None)

    def may_hold(self, seat: Seat, now: int, spare: int) -> bool:
        """Whether a seat may be served again: it is held, or its side still lacks an answer."""
        if seat.is_held(now):
            return True
        held, lack = self.count_held(now), self.lack(seat.side)
        beyond = sum(max(0, held[s] - self.lack(s)) for s in LETTERS if self.lack(s))
        return lack > 0 and (held[seat.side] < lack or beyond < spare)


class SeatCounts:
    """The seats of one open step by comparison, as of the last call of `catch_up`."""

    def __init__(self, ledger: Ledger, step: Record):
        self.step: Final[int] = step["step"]
        self.m: Final[int] = step["m"]
        self.d: Final[int] = step["d"]
        self.seats: dict[str, Seat] = {}
        self.by_panelist: dict[str, list[Seat]] = {}
        self._orders: dict[str, list[int]] = {}
        self.stale = False
        """Another process may have changed the expiry times of seats."""
        self._seen: dict[str, Any] = {
            "run": ledger.run, "step": self.step, "seat": None, "vote": None, "event": None,
        }  # fmt: skip
        self._amendment: int | None = None
        self._without: set[int] = set()
        asked = comparisons_asked(ledger, self.step)
        balance = balance_of(ledger)
        sides = planned_sides(ledger.root_seed, asked, self.m, balance)
        self.comparisons: dict[str, ComparisonSeats] = {
            head["comparison"]: ComparisonSeats(head, sides[head["comparison"]], self.d == 1)
            for head in asked
        }
        self.votes_needed: Final[int] = self.m * len(asked)
        """How many answers the step needs."""
        self.judged_by: dict[str, str] = self._judges(ledger) if self.d == 1 else {}
        """Who judged the row that a comparison repeats."""
        self.catch_up(ledger)

    def _judges(self, ledger: Ledger) -> dict[str, str]:
        return {
            row["comparison"]: row["panelist"]
            for row in ledger.query(
                "SELECT c.comparison, a.panelist FROM comparisons c "
                "JOIN assignments a ON a.comparison = c.repeats JOIN votes v USING (assignment) "
                "WHERE c.run = ? AND c.step = ? AND c.kind = 'train' AND v.choice <> 'skip'",
                (ledger.run, self.step),
            )
        }

    def in_order_of(self, ledger: Ledger, panelist: str) -> list[ComparisonSeats]:
        """The comparisons in the panelist's own random order."""
        if panelist not in self._orders:
            size = len(self.comparisons)
            order = seats.panelist_order(ledger.root_seed, self.step, panelist, size)
            self._orders[panelist] = order
        found = list(self.comparisons.values())
        return [found[i] for i in self._orders[panelist]]

    @property
    def votes_in(self) -> int:
        """How many answers count so far."""
        return sum(each.counted for each in self.comparisons.values())

    def refresh_expiry(self, ledger: Ledger) -> None:
        """Reload the expiry of unanswered seats, which another process may have changed."""
        for row in ledger.query(
            "SELECT a.assignment, a.expires_us FROM comparisons c "
            "JOIN assignments a USING (comparison) WHERE c.run = ? AND c.step = ? "
            "AND c.kind = 'train' "
            "AND NOT EXISTS (SELECT 1 FROM votes WHERE assignment = a.assignment)",
            (ledger.run, self.step),
        ):
            self.set_expiry(row["assignment"], row["expires_us"])
        self.stale = False

    def set_expiry(self, assignment: str, expires_us: int) -> None:
        """Change the expiry time of a seat here, after its row was changed."""
        if (seat := self.seats.get(assignment)) is not None:
            seat.expires_us = expires_us
            self.comparisons[seat.comparison].held = None

    def catch_up(self, ledger: Ledger) -> None:
        """Read the rows appended since the last call."""
        touched: set[str] = set()
        for row in ledger.query(_NEW, self._seen):
            number, event, moved = (row.pop(name) for name in ("number", "event", "moved"))
            if row["vote"] is not None:
                if (answered := self.seats.get(row["assignment"])) is not None:
                    answered.vote, answered.choice = number, row["choice"]
                    answered.reason = row["reason"]
                    touched.add(answered.comparison)
            elif row["assignment"] is None:
                last = {"seat": row["served_us"], "vote": row["expires_us"], "event": event}
                self._seen |= {name: at for name, at in last.items() if at is not None}
                self.stale |= bool(moved)
                if number != self._amendment:
                    self._amendment, self._without = number, excluded_votes(ledger)
                    touched |= set(self.comparisons)
            elif row["comparison"] in self.comparisons:  # two equal batches are shown to nobody
                seat = self.seats[row["assignment"]] = Seat(**row)
                self.by_panelist.setdefault(seat.panelist, []).append(seat)
                self.comparisons[seat.comparison].holders[seat.panelist] = seat
                touched.add(seat.comparison)
        for comparison in touched:
            self.comparisons[comparison].recount(self._without)


@dataclass(frozen=True, slots=True)
class RunNow:
    """A snapshot of a run when its file had these ``marks``: its steps' rows, and open seats."""

    marks: tuple[int, int, int]
    rows: list[Record]
    """One per step, with the run's ``paused_by``, ``pause_reason`` and last ``budget`` (JSON), and
    ``stored``: it is unfinished and has answers. Before step 0: one row, no step."""
    seats: SeatCounts | None
    paused: bool
    """Somebody, or a guard, has paused the run."""
