"""Decide which stored votes count; this only reads the ledger, and is the same for all callers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from szpo.errors import IntegrityError
from szpo.ledger.database import Ledger, Record
from szpo.types import Choice, Kind, Tally, Verdict, Vote
from szpo.voting.seats import balance_of, quotas

_VOTE: Final = (
    "SELECT v.vote, v.assignment, v.revision, v.choice, v.received_us, a.comparison, a.panelist, "
    "a.plus_side, c.k, c.n, v.skip_reason FROM "
)
HARMFUL: Final = "harmful"
"""The reason of a skip after which nobody is shown this row again, and no vote on it counts."""
UNLIMITED: Final = 2**20
"""More votes than a comparison ever has."""
_PLUS_ON_A: Final = {"Aplus": 1, "Bminus": 1, "Bplus": -1, "Aminus": -1}


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
        return tuple(each.vote for each in self._latest.values() if each.number not in self._out)

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
            self._counted = tuple(vote for _, vote in self._walk_counted())
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
        standing = {each.number for each in self._latest.values()} - self._out
        return standing, [number for number, _ in self._walk_counted()]

    # ---- the reading ----

    def _forget(self) -> None:
        self._vote = self._amendment = 0
        self._latest: dict[str, Cast] = {}
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
            self._room = quotas(ledger.root_seed, asked, row["m"], balance_of(ledger))
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
        cast, before = _replace_last(self._latest, row)
        if before is not None:
            self._count(before, -1)
        self._count(cast, 1)
        self._counted = None

    def _count(self, cast: Cast, by: int) -> None:
        """Count an answer on its side of plus (``by`` 1) or remove it (−1); update ``_lack``."""
        if cast.harmful and self._rows:
            for letter in "AB":
                self._add_to(cast, letter, by * UNLIMITED)
        elif self._rows or not cast.skipped:
            self._add_to(cast, cast.plus_side, by)

    def _add_to(self, cast: Cast, letter: str, by: int) -> None:
        side = cast.vote.comparison, letter
        room = self._room.get(side, 0)
        if cast.number in self._out or not room:
            return
        before = self._have.get(side, 0)
        self._have[side] = before + by
        self._lack += min(before, room) - min(before + by, room)

    def _count_again(self) -> None:
        self._have, self._lack, self._counted = {}, sum(self._room.values()), None
        for cast in self._latest.values():
            self._count(cast, 1)

    def _walk_counted(self) -> Iterator[tuple[int, Vote]]:
        """Yield counted votes with their ids: the first on each side, as many as are planned."""
        room = dict(self._room)
        standing = [each for each in self._latest.values() if each.number not in self._out]
        for cast in standing if self._rows else ():
            if cast.harmful:
                room |= dict.fromkeys(((cast.vote.comparison, letter) for letter in "AB"), 0)
        for cast in standing:  # in order of first answers since a skip
            side = cast.vote.comparison, cast.plus_side
            if (self._rows or not cast.skipped) and room.get(side, 0):
                room[side] -= 1
                if not cast.skipped:
                    yield cast.number, cast.vote


class Cast(NamedTuple):
    """A vote with its row's id and the side on which plus stood."""

    number: int
    plus_side: str
    vote: Vote
    harmful: bool

    @property
    def skipped(self) -> bool:
        """Whether the vote is a skip."""
        return self.vote.choice == "skip"


def standing_votes(
    ledger: Ledger,
    *kinds: Kind,
    last_vote: int | None = None,
    last_amendment: int | None = None,
) -> tuple[Cast, ...]:
    """The votes that stand on comparisons of these kinds: the last of each seat, if in time.

    Only votes and amendments up to ``last_vote`` and ``last_amendment`` are read. Excluded votes
    are left out. For the votes of one step up to its close, see `StepVotes.standing`.
    """
    marks = ", ".join("?" * len(kinds))
    latest: dict[str, Cast] = {}
    with ledger.snapshot():
        for row in ledger.stream(
            f"{_VOTE} comparisons c CROSS JOIN assignments a USING (comparison) "
            f"CROSS JOIN votes v USING (assignment) WHERE c.kind IN ({marks}) AND v.late = 0 "
            "AND v.vote <= ? ORDER BY v.vote",
            (*kinds, 2**62 if last_vote is None else last_vote),
        ):
            _replace_last(latest, row)
        without = excluded_votes(ledger, last_amendment)
    return tuple(cast for cast in latest.values() if cast.number not in without)


def _replace_last(latest: dict[str, Cast], row: Record) -> tuple[Cast, Cast | None]:
    """Replace a seat's last answer by its next one, in order of votes; returns new and old.

    Seats stay in the order of first answers; a seat that had skipped goes to the end.
    """
    harmful = row["choice"] == "skip" and row["skip_reason"] == HARMFUL
    cast = Cast(row["vote"], row["plus_side"], _vote(row), harmful)
    before = latest.get(row["assignment"])
    if before is not None and before.skipped:
        del latest[row["assignment"]]
    latest[row["assignment"]] = cast
    return cast, before


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
            f"see: szpo backup {ledger.path} --recover --out NEW"
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
    )
