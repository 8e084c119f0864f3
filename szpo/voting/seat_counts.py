"""The open step's seats, counted in memory to decide which comparison is served next.

The ledger's rows are the truth. They are read once per step; later only new rows are, and all
expiry times if another process has changed some. Seats are advisory: which votes count, and so
the balance of sides, never depends on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from szpo.ledger.database import Ledger, Record
from szpo.voting import counting, seats
from szpo.voting.seats import balance_of, planned_sides

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
            elif self.is_row and seat.choice == "skip" and seat.reason == counting.HARMFUL:
                for side in seats.LETTERS:
                    self.standing[side] += counting.UNLIMITED
            elif self.is_row or seat.choice != "skip":
                self.standing[seat.side] += 1
        self.counted = sum(min(self.planned.count(s), self.standing[s]) for s in seats.LETTERS)

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
        used = {side: self.standing[side] + held[side] for side in seats.LETTERS}
        for side in self.planned:
            if not used[side]:
                return side
            used[side] -= 1
        beyond = {s: held[s] - self.lack(s) for s in seats.LETTERS if self.lack(s)}
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
        beyond = sum(max(0, held[s] - self.lack(s)) for s in seats.LETTERS if self.lack(s))
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
        asked = counting.comparisons_asked(ledger, self.step)
        balance = balance_of(ledger)
        sides = planned_sides(ledger.root_seed, asked, self.m, balance)
        self.comparisons: dict[str, ComparisonSeats] = {
            head["comparison"]: ComparisonSeats(head, sides[head["comparison"]], self.d == 1)
            for head in asked
        }
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

    @property
    def votes_needed(self) -> int:
        """How many answers the step needs."""
        return self.m * len(self.comparisons)

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
                    self._amendment, self._without = number, counting.excluded_votes(ledger)
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
