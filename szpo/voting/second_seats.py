"""Second seats: one more person answers a drawn share of a run's comparisons.

They measure how far people agree where a round asks only one person about each comparison. A
second seat belongs to a training comparison whose step is applied, so its answer is stored as
late, and no update or replay counts it. An event (`EVENT`) marks it as no ordinary late answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from szpo import seeds
from szpo.ledger.database import Ledger
from szpo.types import Assignment, Vote
from szpo.voting import counting, lease, seats
from szpo.voting.seats import Letter
from szpo.voting.service import VoteService
from szpo.voting.sides import less_used_side

EVENT: Final = "second"
"""Kind of the event that records a new second seat, with the seat's id."""
STEPS: Final = 20
"""Comparisons of this many steps, the last applied ones, may be shown once more."""
SEATS: Final = f"(SELECT json_extract(body, '$.seat') FROM events WHERE kind = '{EVENT}')"
"""SQL: the ids of all second seats."""


def is_drawn(root_seed: int, share: float, place: tuple[int, int, int]) -> bool:
    """Whether the comparison at (step, k, n) is in the ``share`` that a second person is shown.

    The seed draws each comparison with this probability. The comparisons of a smaller share are
    among those of a larger one.

    >>> sum(is_drawn(0, 0.1, (step, 0, n)) for step in range(100) for n in range(10))
    94
    """
    step, k, n = place
    key = seeds.derive(root_seed, "second", step=step, k=k, name=str(n))
    return float(seeds.uniform(key, 1)[0]) < share


def serve(
    service: VoteService, panelist: str, share: float, *, tab: str | None = None
) -> Assignment | None:
    """Serve this person a comparison that somebody else has answered; None if none is left.

    A second seat that they hold is served again. While the run is paused nothing new is shown.
    """
    ledger = service.ledger
    with ledger.transaction("votes"):
        held = find_held(ledger, panelist, service.clock())
        if held is not None:
            return service.serve_again(held, tab)
        if lease.controller(ledger)["paused_by"] is not None:
            return None
        found = _choose(ledger, panelist, share)
        if found is None:
            return None
        seat = service.make_seat(*found, panelist, tab)
        ledger.record_event(EVENT, "votes", {"seat": seat.id, "comparison": seat.comparison})
        return seat


def _choose(ledger: Ledger, panelist: str, share: float) -> tuple[str, Letter] | None:
    """Choose a comparison for this person's second seat, and the side of plus; None without one.

    It is drawn (`is_drawn`) and was answered in its round. This person has never had a seat at
    it, and no second person has judged or holds it. The newest of the last `STEPS` applied steps
    come first. Plus is on the side where it was less often, so that a person who always picks
    the same side agrees with nobody.
    """
    heads = ledger.query(
        "SELECT c.comparison, c.step, c.k, c.n FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.run = ? AND s.state = 'applied' AND c.kind = 'train' AND c.identical = 0 "
        "AND s.step > (SELECT max(step) FROM steps WHERE run = s.run AND state = 'applied') - ? "
        "ORDER BY c.step DESC, c.k, c.n",
        (ledger.run, STEPS),
    )
    taken: set[str] | None = None
    for head in heads:
        place = head["step"], head["k"], head["n"]
        if not is_drawn(ledger.root_seed, share, place):
            continue
        taken = _judged_or_held(ledger) if taken is None else taken
        chosen = head["comparison"]
        if chosen in taken or seats.find_at(ledger, chosen, panelist) is not None:
            continue
        if sides := _answered_sides(ledger, chosen):
            return chosen, less_used_side(sides, ledger.root_seed, chosen, panelist)
    return None


def is_second(ledger: Ledger, seat: str) -> bool:
    """Whether the seat of that id is a second one."""
    sql = "SELECT 1 FROM events WHERE kind = ? AND json_extract(body, '$.seat') = ?"
    return bool(ledger.query(sql, (EVENT, seat)))


def find_held(ledger: Ledger, panelist: str, now: int) -> str | None:
    """The id of the second seat that the panelist holds and has not answered, or None."""
    found = ledger.query(
        "SELECT a.assignment FROM assignments a LEFT JOIN votes v USING (assignment) "
        "WHERE a.panelist = ? AND v.vote IS NULL AND a.released_us IS NULL AND a.expires_us > ? "
        f"AND a.assignment IN {SEATS} ORDER BY a.rowid LIMIT 1",
        (panelist, now),
    )
    return found[0]["assignment"] if found else None


def votes(ledger: Ledger) -> Mapping[int, tuple[Vote, ...]]:
    """The votes from second seats, by step, without skips and excluded votes."""
    without, found = counting.excluded_votes(ledger), defaultdict[int, list[Vote]](list)
    for step, number, vote in _read(ledger):
        if number not in without and vote.choice != "skip":
            found[step].append(vote)
    return {step: tuple(votes) for step, votes in found.items()}


def vote_ids(ledger: Ledger) -> frozenset[int]:
    """The ids of the votes that came from second seats."""
    return frozenset(number for _, number, _ in _read(ledger))


def _read(ledger: Ledger) -> Iterator[tuple[int, int, Vote]]:
    """Yield the step, the vote's id and the vote itself, of all from second seats, in order."""
    for row in ledger.query(
        "SELECT v.vote, v.choice, a.comparison, a.panelist, "
        "a.plus_side, c.step, c.k, c.n FROM votes v JOIN assignments a USING (assignment) "
        f"JOIN comparisons c USING (comparison) WHERE v.assignment IN {SEATS} ORDER BY v.vote"
    ):
        verdict = counting.verdict(row["choice"], row["plus_side"])
        yield (
            row["step"],
            row["vote"],
            Vote(row["comparison"], row["panelist"], row["k"], row["n"], verdict, row["choice"]),
        )


def _judged_or_held(ledger: Ledger) -> set[str]:
    """The comparisons that a second person has judged, or holds a seat at."""
    rows = ledger.query(
        "SELECT a.comparison FROM assignments a LEFT JOIN votes v "
        "ON v.assignment = a.assignment AND v.revision = 0 "
        f"WHERE a.assignment IN {SEATS} AND (v.choice <> 'skip' "
        "OR v.vote IS NULL AND a.released_us IS NULL AND a.expires_us > ?)",
        (ledger.clock(),),
    )
    return {row["comparison"] for row in rows}


def _answered_sides(ledger: Ledger, comparison: str) -> list[str]:
    """The side of plus for each panelist who answered in time."""
    rows = ledger.query(
        "SELECT DISTINCT a.assignment, a.plus_side FROM assignments a JOIN votes v "
        "USING (assignment) WHERE a.comparison = ? AND v.late = 0 AND v.choice <> 'skip'",
        (comparison,),
    )
    return [row["plus_side"] for row in rows]
