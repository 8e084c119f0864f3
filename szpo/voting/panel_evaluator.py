"""Evaluators over the vote service: people elsewhere, or a panel of judges in this process.

`LedgerEvaluator` waits for people or other processes; `PanelEvaluator` asks judges in this one.
Both write the same kinds of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from szpo import seeds
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Assignment, Comparison
from szpo.voting.casting import VoteRequest
from szpo.voting.evaluator import Judge, NobodyLeftError, Tiring
from szpo.voting.seats import PanelistKind
from szpo.voting.service import VoteService

Asked = TypeVar("Asked")
"""A member of a panel: a `Judge`, or one that also gives reasons."""


class LedgerEvaluator:
    """Waits for answers from elsewhere: people in a browser, or the process of `szpo simulate`."""

    def __init__(self, service: VoteService):
        self.service: Final = service

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Nothing to do: people are shown every open step."""

    def poll(self, step: int) -> None:
        """Nothing to do: the service stores votes as they come."""


class PanelEvaluator:
    """A panel of judges in this process, who are assigned by a seeded round robin.

    Panelists are named ``name``-0, ``name``-1, …; their ids and seats derive from the root seed,
    so a repeated or resumed run has the same votes.
    """

    def __init__(
        self,
        service: VoteService,
        judges: Sequence[Judge],
        *,
        name: str = "panel",
    ):
        if not judges:
            raise UsageError("panel: no judges; give at least one")
        self.service: Final = service
        self.judges: Final = tuple(judges)
        self.name: Final = name
        self._panel: dict[str, Judge] = {}

    def submit(self, comparisons: Sequence[Comparison]) -> None:
        """Assign seats, ask the panel about these comparisons, and record its answers.

        Raises:
            UsageError: M is larger than the panel.
            RunError: after skips, too few panelists are left for a comparison to reach M.
        """
        self._panel = self._panel or enroll(self.service, "simulated", self.name, self.judges)
        answer(self.service, self._panel, comparisons)

    def poll(self, step: int) -> None:
        """Nothing to do: `submit` has stored every answer."""


def enroll(
    service: VoteService, kind: PanelistKind, name: str, judges: Sequence[Asked]
) -> dict[str, Asked]:
    """Enroll a panel as ``name``-0, ``name``-1, …; returns its members by their ids."""
    with service.ledger.transaction("votes"):
        return {service.enroll(kind, f"{name}-{i}"): judge for i, judge in enumerate(judges)}


def answer(
    service: VoteService, panel: dict[str, Judge], comparisons: Sequence[Comparison]
) -> None:
    """Let a panel (id → judge, in order) answer comparisons of the open step until M is met.

    Each round has two transactions: all seats, then all answers. Judges are asked in between, so a
    slow one holds no lock. A skip frees the seat for the next panelist in line. Nobody is asked
    once the step is closed; answers that come after that are stored as late.
    """
    ledger = service.ledger
    panel = _advance_tiring(ledger, panel, comparisons)
    while seats := open_seats(service, list(panel), comparisons):
        chosen = [
            panel[panelist].judge(
                comparison,
                panelist=panelist,
                plus_side=seat.plus_side,
                key=judge_key(ledger.root_seed, comparison, panelist),
            )
            for comparison, panelist, seat in seats
        ]
        with ledger.transaction("votes"):
            for (comparison, panelist, seat), choice in zip(seats, chosen, strict=True):
                idem = idem_key(ledger.root_seed, comparison, panelist)
                service.cast(VoteRequest(seat.id, choice, idem=idem))


def _advance_tiring(
    ledger: Ledger, panel: dict[str, Judge], comparisons: Sequence[Comparison]
) -> dict[str, Judge]:
    """Advance each tiring judge by its votes in earlier steps, so a resumed run is the same."""
    tiring = {who for who, judge in panel.items() if isinstance(judge, Tiring) and judge.tires}
    if not tiring or not comparisons:
        return panel
    rows = ledger.query(
        "SELECT a.panelist AS who, count(DISTINCT a.assignment) AS given FROM votes v "
        "JOIN assignments a USING (assignment) JOIN comparisons c USING (comparison) "
        "WHERE c.run = ? AND c.step < ? AND v.choice <> 'skip' GROUP BY a.panelist",
        (ledger.run, comparisons[0].step),
    )
    given = {row["who"]: int(row["given"]) for row in rows}
    return {
        who: judge.after(given.get(who, 0)) if isinstance(judge, Tiring) and judge.tires else judge
        for who, judge in panel.items()
    }


def open_seats(
    service: VoteService,
    ids: Sequence[str],
    comparisons: Sequence[Comparison],
    *,
    complete: bool = True,
) -> list[tuple[Comparison, str, Assignment]]:
    """Seats for these panelists at comparisons of the open step that lack votes, in one commit.

    Empty once M is met, or the step is closed. Without ``complete``, votes that these
    panelists cannot give are left to others.

    Raises:
        UsageError: the step does not exist, or ``complete`` and M is larger than the panel.
        NobodyLeftError: everybody has been asked and a comparison still lacks votes.
    """
    asked = [c for c in comparisons if not c.identical]
    if not asked:
        return []
    ledger = service.ledger
    row = ledger.step(asked[0].step)
    if row is None:
        raise UsageError(f"step {asked[0].step} does not exist in {ledger.path.name}")
    m = row["m"]
    if complete and m > len(ids):
        raise UsageError(f"M = {m} votes need {m} panelists; the panel has {len(ids)}; enlarge it")
    seats = []
    with ledger.transaction("votes"):
        now = ledger.step(row["step"])
        if now is None or now["state"] != "open":
            return []
        left = dict(zip(asked, service.missing(row["step"], [c.id for c in asked]), strict=True))
        short = [comparison for comparison in asked if left[comparison]]
        for comparison in short:
            lack = left[comparison]
            first = (comparison.k * row["n"] + comparison.n) * m
            for panelist in seat_order(ledger.root_seed, comparison.step, first, ids):
                seat = service.assign_to(comparison.id, panelist) if lack else None
                if seat is not None:
                    seats.append((comparison, panelist, seat))
                    lack -= 1
    if complete and short and not seats:
        raise NobodyLeftError(
            f"step {short[0].step}: comparison k={short[0].k} n={short[0].n} has "
            f"{m - left[short[0]]} of {m} votes and everybody has been asked; let others vote "
            "(szpo judge, szpo simulate), or close the round on the operator's page (szpo serve)"
        )
    return seats


def seat_order(root_seed: int, step: int, first: int, ids: Sequence[str]) -> list[str]:
    """The order in which panelists are asked, from seat number ``first`` of a step on.

    A round robin over a permutation drawn per step. With an even panel each round starts one
    later, so that no panelist has plus always on the same side.

    >>> [seat_order(0, 0, first, ["a", "b"])[0] for first in range(4)]
    ['a', 'b', 'b', 'a']
    """
    size = len(ids)
    line = seeds.permutation(seeds.derive(root_seed, "panel", step=step), size)
    order: list[str] = []
    seat = first
    while len(order) < size:
        late = seat // size if size % 2 == 0 else 0
        panelist = ids[int(line[(seat + late) % size])]
        if panelist not in order:
            order.append(panelist)
        seat += 1
    return order


def judge_key(root_seed: int, comparison: Comparison, panelist: str) -> bytes:
    """The key for all randomness in a panelist's answer to a comparison."""
    return _key(root_seed, "judge", comparison, panelist)


def idem_key(root_seed: int, comparison: Comparison, panelist: str) -> str:
    """The idempotency key, under which a panelist's answer to a comparison is stored only once."""
    return _key(root_seed, "idem", comparison, panelist).hex()


def _key(root_seed: int, purpose: str, comparison: Comparison, panelist: str) -> bytes:
    name = f"{comparison.n}/{panelist}"
    return seeds.derive(root_seed, purpose, step=comparison.step, k=comparison.k, name=name)
