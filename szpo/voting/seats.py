"""Who is asked what in the open step: seats by comparison and side, in memory beside the rows.

The rows are the truth. A board is read from them once per step and then follows what is appended,
by whomever; only the ends of seats that another process moves are read again as a whole. Seats
are advisory: which votes count, and so the balance of sides, never depends on them.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from szpo import seeds
from szpo.ledger.database import Ledger, Record
from szpo.types import Assignment
from szpo.voting import counting

Letter = Literal["A", "B"]
LETTERS: Final[tuple[Letter, ...]] = ("A", "B")


@dataclass(slots=True)
class Seat:
    """A panelist at a comparison; ``vote`` is their last answer in time."""

    assignment: str
    comparison: str
    panelist: str
    side: Letter
    served_us: int
    expires_us: int
    vote: int | None = None
    choice: str | None = None

    @property
    def answered(self) -> bool:
        """There is an answer in time, a skip included."""
        return self.vote is not None

    def runs(self, now: int) -> bool:
        """It is still held.

        Not where a clock that was ahead served it, and was set back by more than its term.
        """
        given, ahead = self.expires_us - self.served_us, self.served_us - now
        return self.expires_us > now and not 0 < given < ahead


@dataclass(slots=True)
class Place:
    """A comparison with its seats: how many answers each side of plus is to get, and has."""

    head: Record
    planned: tuple[Letter, ...]
    holders: dict[str, Seat] = field(default_factory=dict)
    standing: dict[Letter, int] = field(default_factory=lambda: {"A": 0, "B": 0})
    waiting: list[Seat] = field(default_factory=list)

    def settle(self, without: set[int]) -> None:
        """Count again: answers that stand on each side, seats that wait for one."""
        self.standing = {"A": 0, "B": 0}
        self.waiting = []
        for seat in self.holders.values():
            if not seat.answered:
                self.waiting.append(seat)
            elif seat.choice != "skip" and seat.vote not in without:
                self.standing[seat.side] += 1

    def lack(self, side: Letter) -> int:
        """Answers that the side still needs."""
        return max(0, self.planned.count(side) - self.standing[side])

    @property
    def done(self) -> int:
        """Answers that count: no more on a side than are planned there."""
        return sum(min(self.planned.count(side), self.standing[side]) for side in LETTERS)

    def running(self, now: int, but: str | None = None) -> dict[Letter, int]:
        """Unanswered seats on each side that are still held (but not those of one panelist)."""
        counts: dict[Letter, int] = {"A": 0, "B": 0}
        for seat in self.waiting:
            if seat.runs(now) and seat.panelist != but:
                counts[seat.side] += 1
        return counts

    def taken(self, now: int) -> int:
        """Answers that stand and seats that are held."""
        return sum(self.standing.values()) + sum(self.running(now).values())

    def free(self, now: int, spare: int, but: str | None = None) -> Letter | None:
        """The side that a further seat gets, None if there is to be none.

        It is the first planned one that no answer and no held seat uses. A spare seat repeats the
        side of those that wait, the one with the fewest spares first; what was answered beyond
        the plan of one side takes nothing from the other.
        """
        running = self.running(now, but)
        used = {side: self.standing[side] + running[side] for side in LETTERS}
        for side in self.planned:
            if not used[side]:
                return side
            used[side] -= 1
        waiting_for = [side for side in LETTERS if self.lack(side)]
        beyond = {side: running[side] - self.lack(side) for side in waiting_for}
        if not beyond or sum(beyond.values()) >= spare:
            return None
        since = {
            side: min(seat.served_us for seat in self.waiting if seat.side == side)
            for side in waiting_for
        }
        return min(waiting_for, key=lambda side: (beyond[side], since[side]))

    def holds(self, seat: Seat, now: int, spare: int) -> bool:
        """A seat that ran out may be served again: its side still lacks somebody."""
        if seat.runs(now):
            return True
        running, lack = self.running(now, seat.panelist), self.lack(seat.side)
        beyond = sum(max(0, running[s] - self.lack(s)) for s in LETTERS if self.lack(s))
        return lack > 0 and (running[seat.side] < lack or beyond < spare)


class Board:
    """The places of one open step, as of the last look (see `board`)."""

    def __init__(self, ledger: Ledger, step: Record):
        self.step: Final[int] = step["step"]
        self.m: Final[int] = step["m"]
        self.d: Final[int] = step["d"]
        self.marks = ledger.changes()
        self.seats: dict[str, Seat] = {}
        self.held: dict[str, list[Seat]] = {}
        self._walks: dict[str, list[int]] = {}
        self.stale = False
        """Another process may have moved the ends of seats."""
        self._seat, self._vote, self._amendment = 0, 0, 0
        self._without: set[int] = set()
        asked = counting.asked(ledger, self.step)
        sides = counting.planned(ledger.root_seed, asked, self.m)
        self.places: dict[str, Place] = {
            head["comparison"]: Place(head, sides[head["comparison"]]) for head in asked
        }
        last = ledger.query(
            "SELECT (SELECT coalesce(max(rowid), 0) FROM assignments) AS seat, "
            "(SELECT coalesce(max(vote), 0) FROM votes) AS vote"
        )[0]
        first = ledger.query(
            "SELECT min(a.rowid) AS seat, min(v.vote) AS vote FROM comparisons c "
            "JOIN assignments a USING (comparison) LEFT JOIN votes v USING (assignment) "
            "WHERE c.run = ? AND c.step = ? AND c.kind = 'train'",
            (ledger.run, self.step),
        )[0]
        self._seat = last["seat"] if first["seat"] is None else first["seat"] - 1
        self._vote = last["vote"] if first["vote"] is None else first["vote"] - 1
        self._follow(ledger)

    def places_for(self, ledger: Ledger, panelist: str) -> list[Place]:
        """The places in the panelist's own order."""
        if panelist not in self._walks:
            size = len(self.places)
            self._walks[panelist] = walk(ledger.root_seed, self.step, panelist, size)
        places = list(self.places.values())
        return [places[i] for i in self._walks[panelist]]

    @property
    def votes_in(self) -> int:
        """Answers that count so far."""
        return sum(place.done for place in self.places.values())

    @property
    def votes_needed(self) -> int:
        """Answers that the step needs."""
        return self.m * len(self.places)

    def catch_up(self, ledger: Ledger, marks: tuple[int, int, int]) -> None:
        """Read what was appended since the last look."""
        self.stale |= marks[0] != self.marks[0]
        self._follow(ledger)
        self.marks = marks

    def read_leases(self, ledger: Ledger) -> None:
        """The ends of unanswered seats, where another process may have moved them."""
        if not self.stale:
            return
        for row in ledger.query(
            "SELECT a.assignment, a.expires_us FROM comparisons c "
            "JOIN assignments a USING (comparison) WHERE c.run = ? AND c.step = ? "
            "AND c.kind = 'train' "
            "AND NOT EXISTS (SELECT 1 FROM votes WHERE assignment = a.assignment)",
            (ledger.run, self.step),
        ):
            if (seat := self.seats.get(row["assignment"])) is not None:
                seat.expires_us = row["expires_us"]
        self.stale = False

    def moved(self, assignment: str, expires_us: int) -> None:
        """This process moved the end of a seat."""
        if (seat := self.seats.get(assignment)) is not None:
            seat.expires_us = expires_us

    def _follow(self, ledger: Ledger) -> None:
        # Each thing is read before what it refers to, so that none is met without that.
        sql = "SELECT coalesce(max(amendment), 0) AS last FROM amendments"
        amendment = ledger.query(sql)[0]["last"]
        votes = ledger.query(
            "SELECT vote, assignment, choice, late FROM votes WHERE vote > ? ORDER BY vote",
            (self._vote,),
        )
        # CROSS JOIN keeps the order of the tables: new rows first, however large the step is.
        seats = ledger.query(
            "SELECT a.rowid AS place, a.assignment, a.comparison, a.panelist, "
            "a.plus_side AS side, a.served_us, a.expires_us "
            "FROM assignments a CROSS JOIN comparisons c USING (comparison) "
            "WHERE a.rowid > ? AND c.run = ? AND c.step = ? AND c.kind = 'train' "
            "ORDER BY a.rowid",
            (self._seat, ledger.run, self.step),
        )
        touched: set[str] = set()
        for row in seats:
            self._seat = row.pop("place")
            seat = Seat(**row)
            if seat.comparison not in self.places:  # two equal batches: nobody is asked
                continue
            self.seats[seat.assignment] = seat
            self.held.setdefault(seat.panelist, []).append(seat)
            self.places[seat.comparison].holders[seat.panelist] = seat
            touched.add(seat.comparison)
        for vote in votes:
            self._vote = vote["vote"]
            answered = self.seats.get(vote["assignment"])
            if answered is not None and not vote["late"]:
                answered.vote, answered.choice = vote["vote"], vote["choice"]
                touched.add(answered.comparison)
        if amendment != self._amendment:
            self._amendment, self._without = amendment, counting.excluded(ledger)
            touched |= set(self.places)
        for comparison in touched:
            self.places[comparison].settle(self._without)


_boards: weakref.WeakKeyDictionary[Ledger, Board] = weakref.WeakKeyDictionary()


def board(ledger: Ledger) -> Board | None:
    """The board of the open step, caught up with the file; None while no step is open.

    Call it inside a transaction, or in a block of `Ledger.alone`.
    """
    marks, known = ledger.changes(), _boards.get(ledger)
    if known is not None and known.marks == marks:
        return known
    found = ledger.query(
        "SELECT step, m, d FROM steps WHERE run = ? AND state = 'open'", (ledger.run,)
    )
    if not found:
        _boards.pop(ledger, None)
        return None
    if known is None or known.step != found[0]["step"] or known.marks[2] != marks[2]:
        known = _boards[ledger] = Board(ledger, found[0])
    else:
        known.catch_up(ledger, marks)
    return known


# ---- what the seed gives ----


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


def walk(root_seed: int, step: int | None, name: str, size: int) -> list[int]:
    """In which order a panelist comes by ``size`` equally filled comparisons.

    Drawn: sides alternate over the comparisons, and whoever met them one after the other would
    know after the first which side is which.
    """
    order = seeds.permutation(seeds.derive(root_seed, "serve", step=step, name=name), size)
    return [int(i) for i in order]


def side_key(root_seed: int, comparison: str, panelist: str) -> bytes:
    """What draws the side of plus outside training, where nothing else balances it."""
    return seeds.derive(root_seed, "side", name=f"{comparison}/{panelist}")


def lesser(used: Iterable[str], key: bytes) -> Letter:
    """The side that was used less often, one drawn by the key where both were alike."""
    sides = list(used)
    a, b = sides.count("A"), sides.count("B")
    if a == b:
        return LETTERS[seeds.integer(key, 0, 2)]
    return "A" if a < b else "B"


def postpone(ledger: Ledger, since_us: int) -> None:
    """Hold the seats that were held at ``since_us`` for as long again as they had left then."""
    ledger.execute(
        "UPDATE assignments SET expires_us = expires_us + ? "
        "WHERE expires_us > ? AND released_us IS NULL AND comparison IN "
        "(SELECT c.comparison FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.state = 'open')",
        (ledger.clock() - since_us, since_us),
    )
    if (known := board(ledger)) is not None:
        known.stale = True


def give_back(ledger: Ledger, panelist: str) -> None:
    """Give back every seat of a panelist that waits for an answer."""
    now = ledger.clock()
    ledger.execute(
        "UPDATE assignments SET released_us = ?, expires_us = ? WHERE panelist = ? "
        "AND expires_us > ? AND NOT EXISTS "
        "(SELECT 1 FROM votes WHERE assignment = assignments.assignment)",
        (now, now, panelist, now),
    )
    if (known := board(ledger)) is not None:
        known.stale = True


def assignment(row: Mapping[str, Any]) -> Assignment:
    """What a row of `assignments` says."""
    return Assignment(
        id=row["assignment"],
        comparison=row["comparison"],
        panelist=row["panelist"],
        plus_side=row["plus_side"],
        prompt_order=tuple(json.loads(row["prompt_order"])),
        expires_us=row["expires_us"],
    )


def _seat_key(root_seed: int, purpose: str, head: Mapping[str, Any], panelist: str) -> bytes:
    if head["step"] is None:  # outside training there is no place (step, k, n) to name it by
        return seeds.derive(root_seed, purpose, name=f"{head['comparison']}/{panelist}")
    name = f"{head['n']}/{panelist}"
    return seeds.derive(root_seed, purpose, step=head["step"], k=head["k"], name=name)
