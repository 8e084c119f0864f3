"""Which stored votes count, and how: pure reading of the ledger, the same for every caller."""

from __future__ import annotations

from typing import Literal

import numpy as np

from szpo import seeds
from szpo.ledger import Ledger, Record
from szpo.types import Choice, Tally, Verdict, Vote


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
    first = seeds.integer(seeds.derive(root_seed, "sides", step=step, k=k), 0, 2)
    odd = "AB"[(first + rank) % 2]
    pool = list("AB" * (m // 2)) + [odd] * (m % 2)
    order = seeds.permutation(seeds.derive(root_seed, "seats", step=step, k=k, name=str(n)), m)
    return tuple("A" if pool[i] == "A" else "B" for i in order)


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
    row = ledger.step(step)
    if row is None:
        return ()
    last_vote = 2**62 if row["last_vote"] is None else row["last_vote"]
    latest: dict[str, Record] = {}
    for vote in ledger.votes(step):
        if vote["kind"] == "train" and not vote["late"] and vote["vote"] <= last_vote:
            latest[vote["assignment"]] = vote  # in order of vote, so the last revision stays
    without = excluded(ledger, row["last_amendment"])
    return tuple(
        Vote(
            comparison=vote["comparison"],
            panelist=vote["panelist"],
            k=vote["k"],
            n=vote["n"],
            verdict=verdict(vote["choice"], vote["plus_side"]),
            choice=vote["choice"],
            revision=vote["revision"],
            received_us=vote["received_us"],
        )
        for vote in latest.values()
        if vote["vote"] not in without
    )


def counted(ledger: Ledger, step: int) -> tuple[Vote, ...]:
    """The votes of a step that count: A, B or tie, the first M panelists of each comparison.

    First by the place of the panelist's first answer, so neither a change of mind nor a spare
    seat makes M_n depend on what was answered.
    """
    row = ledger.step(step)
    if row is None:
        return ()
    taken: dict[str, int] = {}
    result = []
    for vote in standing(ledger, step):  # in order of first answers
        if vote.verdict == "skip" or taken.get(vote.comparison, 0) >= row["m"]:
            continue
        taken[vote.comparison] = taken.get(vote.comparison, 0) + 1
        result.append(vote)
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
    return Tally(counts[0], counts[1], counts[2], identical)


def missing(ledger: Ledger, step: int) -> int:
    """How many counted votes the step still needs before its rule (M on each) is met."""
    row = ledger.step(step)
    asked = ledger.query(
        "SELECT count(*) AS asked FROM comparisons WHERE run = ? AND step = ? "
        "AND kind = 'train' AND identical = 0",
        (ledger.run, step),
    )[0]["asked"]
    return 0 if row is None else int(asked * row["m"] - len(counted(ledger, step)))


def excluded(ledger: Ledger, horizon: int | None = None) -> set[int]:
    """Votes whose last amendment (up to the horizon) excludes them."""
    rows = ledger.query(
        "SELECT vote, action, max(amendment) FROM amendments WHERE amendment <= ? GROUP BY vote",
        (2**62 if horizon is None else horizon,),
    )
    return {row["vote"] for row in rows if row["action"] == "exclude"}
