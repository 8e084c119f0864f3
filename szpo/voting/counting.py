"""Which stored votes count, and how: pure reading of the ledger, the same for every caller."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

import numpy as np

from szpo import seeds
from szpo.ledger.database import Ledger, Record
from szpo.optim import comparison_selection
from szpo.optim.settings import settings_from_json
from szpo.types import Choice, Floats, Tally, Verdict, Vote


def sides(
    root_seed: int, *, step: int, k: int, n: int, m: int, rank: int
) -> tuple[Literal["A", "B"], ...]:
    """The sides on which plus stands for the M seats of a comparison.

    Half and half for even M; for odd M the odd one alternates with ``rank``, the comparison's
    place among those asked of its direction, so a direction is balanced when their number times M
    is even. Which comes first is drawn.

    >>> [sides(0, step=0, k=0, n=n, m=1, rank=n)[0] for n in range(4)].count("A")
    2
    """
    odd = _odd(root_seed, step, k, rank)
    pool = list("AB" * (m // 2)) + [odd] * (m % 2)
    order = seeds.permutation(seeds.derive(root_seed, "seats", step=step, k=k, name=str(n)), m)
    return tuple("A" if pool[i] == "A" else "B" for i in order)


def planned(
    root_seed: int, asked: Iterable[Record], m: int
) -> dict[str, tuple[Literal["A", "B"], ...]]:
    """The sides of plus for each comparison of a step, given those `asked`."""
    ranks: dict[int, int] = {}
    found = {}
    for head in asked:
        k, n = head["k"], head["n"]
        rank = ranks[k] = ranks.get(k, -1) + 1
        found[head["comparison"]] = sides(root_seed, step=head["step"], k=k, n=n, m=m, rank=rank)
    return found


def quotas(root_seed: int, asked: Iterable[Record], m: int) -> dict[tuple[str, str], int]:
    """How many votes count per (comparison, side of plus): as many as `planned` has there."""
    ranks: dict[int, int] = {}
    odd: dict[int, str] = {}
    found = {}
    for head in asked:
        k = head["k"]
        rank = ranks[k] = ranks.get(k, -1) + 1
        if k not in odd:
            odd[k] = _odd(root_seed, head["step"], k, 0)
        here = odd[k] if rank % 2 == 0 else {"A": "B", "B": "A"}[odd[k]]
        for side in "AB":
            found[head["comparison"], side] = m // 2 + (m % 2 if side == here else 0)
    return found


def asked(ledger: Ledger, step: int) -> list[Record]:
    """The comparisons of a step that panelists are asked, by (k, n); identical ones are not."""
    return ledger.query(
        "SELECT comparison, kind, step, k, n FROM comparisons WHERE run = ? AND step = ? "
        "AND kind = 'train' AND identical = 0 ORDER BY k, n",
        (ledger.run, step),
    )


def verdict(choice: Choice, plus_side: str) -> Verdict:
    """The choice on screen, resolved to the policy's side.

    >>> verdict("B", "B"), verdict("A", "B"), verdict("tie", "B")
    ('plus', 'minus', 'tie')
    """
    if choice == "tie":
        return "tie"
    if choice == "skip":
        return "skip"
    return "plus" if choice == plus_side else "minus"


def standing(ledger: Ledger, step: int) -> tuple[Vote, ...]:
    """Each panelist's last answer in time to each training comparison of a step, skips included.

    Up to the step's close: votes beyond `steps.last_vote`, late ones and those excluded by an
    amendment up to `steps.last_amendment` are left out.
    """
    return tuple(_vote(row) for row in _standing(ledger, step))


def counted(ledger: Ledger, step: int) -> tuple[Vote, ...]:
    """The votes of a step that count: A, B or tie, M for each comparison, balanced over sides.

    For each comparison and each side of plus the first panelists, as many as are planned there
    (`sides`): plus then stands on A in exactly half of the votes of a complete comparison with
    even M, whoever skipped, came late or had a spare seat. First by the place of the panelist's
    first answer, so that no change of mind decides what counts; a skip keeps no place, so that
    nobody can wait with one and push out what others answered meanwhile.
    """
    row = ledger.step(step)
    if row is None:
        return ()
    room = quotas(ledger.root_seed, asked(ledger, step), row["m"])
    result = []
    for vote in _standing(ledger, step):  # in order of first answers since a skip
        place = vote["comparison"], vote["plus_side"]
        if vote["choice"] != "skip" and room.get(place, 0):
            room[place] -= 1
            result.append(_vote(vote))
    return tuple(result)


def tally(
    ledger: Ledger,
    step: int,
    K: int,
    N: int,
) -> Tally:
    """Counts of a step's counted votes as arrays (K, N)."""
    counts = np.zeros((3, K, N))
    index = {"plus": 0, "minus": 1, "tie": 2}
    for vote in counted(ledger, step):
        counts[index[vote.verdict], vote.k, vote.n] += 1
    identical = np.zeros((K, N), dtype=np.bool_)
    for row in ledger.query(
        "SELECT k, n FROM comparisons WHERE run = ? AND step = ? AND kind = 'train' "
        "AND identical = 1",
        (ledger.run, step),
    ):
        identical[row["k"], row["n"]] = True
    return Tally(counts[0], counts[1], counts[2], identical, shares(ledger, step))


def shares(ledger: Ledger, step: int) -> Floats | None:
    """What each comparison of a step counts for (K, N); None where the run selects none.

    Raises:
        IntegrityError: what the step recorded of its selection cannot be.
    """
    optimizer = ledger.spec.get("optimizer")
    if not isinstance(optimizer, dict) or optimizer.get("selection") is None:
        return None
    found = ledger.query(
        "SELECT body FROM events WHERE kind = 'generated' AND json_extract(body, '$.step') = ?",
        (step,),
    )
    notes = json.loads(found[-1]["body"]).get("selection") if found else None
    return comparison_selection.recorded(settings_from_json(optimizer), step, notes)


def missing(ledger: Ledger, step: int) -> int:
    """How many counted votes the step still needs before its rule (M on each) is met."""
    row = ledger.step(step)
    if row is None:
        return 0
    return len(asked(ledger, step)) * int(row["m"]) - len(counted(ledger, step))


def excluded(ledger: Ledger, horizon: int | None = None) -> set[int]:
    """Votes whose last amendment (up to the horizon) excludes them."""
    rows = ledger.query(
        "SELECT vote, action, max(amendment) FROM amendments WHERE amendment <= ? GROUP BY vote",
        (2**62 if horizon is None else horizon,),
    )
    return {row["vote"] for row in rows if row["action"] == "exclude"}


def _standing(ledger: Ledger, step: int) -> list[Record]:
    row = ledger.step(step)
    if row is None:
        return []
    last_vote = 2**62 if row["last_vote"] is None else row["last_vote"]
    latest: dict[str, Record] = {}
    for vote in ledger.votes(step):
        if vote["kind"] == "train" and not vote["late"] and vote["vote"] <= last_vote:
            before = latest.get(vote["assignment"])
            if before is not None and before["choice"] == "skip":
                del latest[vote["assignment"]]  # it goes behind who answered meanwhile
            latest[vote["assignment"]] = vote  # in order of vote, so the last revision stays
    without = excluded(ledger, row["last_amendment"])
    return [vote for vote in latest.values() if vote["vote"] not in without]


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


def _odd(root_seed: int, step: int, k: int, rank: int) -> str:
    """The side that has one more where M is odd."""
    first = seeds.integer(seeds.derive(root_seed, "sides", step=step, k=k), 0, 2)
    return "AB"[(first + rank) % 2]
