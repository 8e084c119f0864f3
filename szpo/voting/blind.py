"""Blind comparisons of a run's policy with its start: who answers which, and what they say.

The final comparison, which no update counts: an operator or the end of a run orders it
(`szpo.ledger.orders`), and `szpo.runs.samples` draws the answers, plus of the policy and minus of
the start. Each panelist may answer each comparison of an open order once, those with the fewest
answers first. A simulated panel or a function answers all in the run's process.

Check pairs, among the rows of a round: plus is an answer of adopted weights, minus one of the
start; the round's event "generated" names them. After each round the verdicts since the last
return are tested: that fewer than half prefer the new answer, by a uniform prior on p < ½, against
a coin. Where the Bayes factor reaches `NEEDED`, the start's weights are recommended again, until a
fit of the votes as they are then passes the same bound and the policy improves again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from typing import Any, Final, TypeAlias

from szpo import seeds
from szpo.ledger import orders
from szpo.ledger import theta as recorded
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.metrics import Share, share
from szpo.types import Vote
from szpo.voting import counting, seats, withdrawals
from szpo.voting.seats import LETTERS, Letter

PAIRS: Final = 64
"""Pairs on which a run's last line rests, where verdicts are on pairs."""
NEEDED: Final = 9
"""Odds against the new answers from which the policy goes back; a taste takes fewer."""
RETURN: Final = recorded.RETURNED

_TRAINED: Final = (
    "SELECT DISTINCT a.panelist FROM comparisons c JOIN assignments a USING (comparison) "
    "JOIN votes v USING (assignment) WHERE c.kind = 'train' AND v.choice <> 'skip'"
)
"""Those who answered a training comparison; a skip is no answer."""
_PEOPLE: Final = "SELECT panelist FROM panelists WHERE kind = 'person'"

_SeatsAt: TypeAlias = tuple[str, list[str], set[str]]
"""A comparison, the sides of plus at its answered or held seats, and who was shown it."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Verdicts on answers of a policy beside its start's; they are taken as independent."""

    new: int = 0
    """For the policy's answer."""
    start: int = 0
    same: int = 0
    pairs: int = 0
    """Comparisons that were ordered; 0 of check pairs, as are all that follow."""
    rows: int = 1
    """Answers of either side in each."""
    sha256: str | None = None
    """Of the policy's weights."""
    after: int | None = None
    """The last step applied to them."""
    by: str = ""
    """Who gave them, where it was no person."""
    fresh: Share | None = None
    """The share for the policy among those who did not vote in training."""
    true: Share | None = None
    """The share without noise, of the rows in which a simulated panel's reward differs."""

    @property
    def preferred(self) -> Share:
        """The share of the verdicts for either that are for the policy's answer."""
        return share(self.new, self.new + self.start)

    @property
    def factor(self) -> Fraction:
        """`factor_against` them."""
        return factor_against(self.new, self.start)

    @property
    def against(self) -> bool:
        """They are reason enough to return to the start."""
        return self.factor >= NEEDED

    @property
    def line(self) -> str:
        """The result of an order in a sentence.

        >>> Blind(42, 17, 5, 64, by="the simulated panel", true=share(45, 60)).line
        'the tuned answer was preferred in 71 % [59, 81] of 59 pairs by the simulated panel, 5 \
more the same; without its noise in 75 %; 128 answers read for this'
        """
        told = self.new + self.start
        # A program answers each pair once; several people may answer the same one.
        of, who = f"{told} votes on {self.pairs} pairs", ""
        if self.by:
            of, who = f"{told} pairs", f" by {self.by}"
        text = f"the tuned answer was preferred in {self.preferred.percent} of {of}{who}"
        text += f", {self.same} more the same" if self.same else ""
        if self.true is not None and self.true.value is not None:
            text += f"; without its noise in {100 * self.true.value:.0f} %"
        if self.fresh is not None and 0 < self.fresh.of < self.preferred.of:
            text += f"; in {self.fresh.percent} by those who had not voted before"
        return f"{text}; {2 * (told + self.same) * self.rows:,} answers read for this"

    def sentence(self) -> str:
        """Why the policy is at its start again."""
        return (
            f"the panel preferred the start's answer in {self.start} of {self.new + self.start} "
            f"check pairs (odds of {float(self.factor):.3g}), so the policy went back to the start"
        )


def factor_against(new: int, start: int) -> Fraction:
    """Bayes factor of "fewer than half prefer the new" against a coin, exact.

    It is 2ⁿ ∫₀^½ 2 pᵃ (1 − p)ᵇ dp for a verdicts for the new answer and b for the start's, n in
    all: a tail of the binomial law of n + 1 coins.

    >>> factor_against(0, 5), factor_against(0, 0)
    (Fraction(21, 2), Fraction(1, 1))
    """
    n = new + start
    tail = sum(comb(n + 1, j) for j in range(new + 1, n + 2))
    return Fraction(tail, (n + 1) * comb(n, new))


def read(ledger: Ledger, *, live: bool = False) -> Blind | None:
    """The verdicts on the weights that were compared last, of all orders that compared these.

    ``live``: also those of orders that still take votes. None without a vote.
    """
    placed = [
        order
        for order in orders.results(ledger, "final")
        if orders.comparisons(order) and (live or order.closed_us is not None)
    ]
    of = {name: order for order in placed for name in orders.comparisons(order)}
    votes = [vote for vote in counting.standing_votes(ledger, "final") if vote.comparison in of]
    if not votes:
        return None
    last = max((of[vote.comparison] for vote in votes), key=lambda order: order.id)
    facts, digest = dict(last.result or {}), (last.result or {}).get("tuned_sha256")
    alike = {each.id for each in placed if (each.result or {}).get("tuned_sha256") == digest}
    votes = [vote for vote in votes if of[vote.comparison].id in alike]
    known = {row["panelist"] for row in ledger.query(_TRAINED)}
    people = {row["panelist"] for row in ledger.query(_PEOPLE)}
    fresh = _count(vote for vote in votes if vote.panelist not in known)
    others = not any(vote.panelist in people for vote in votes)
    function = (ledger.spec.get("panel") or {}).get("function")
    by = "the function that votes" if function else "the simulated panel"
    return replace(
        _count(votes),
        pairs=sum(len(orders.comparisons(each)) for each in placed if each.id in alike),
        rows=facts.get("rows", 1), sha256=digest, after=facts.get("after"),
        by=by if others else "", fresh=fresh.preferred,
        true=share(*facts["true"]) if "true" in facts else None,
    )  # fmt: skip


def _count(votes: Iterable[Vote]) -> Blind:
    cast = Counter(vote.verdict for vote in votes)
    return Blind(cast["plus"], cast["minus"], cast["tie"])


# ---- seats at a final comparison ----


def choose(ledger: Ledger, panelist: str, now: int) -> tuple[str, Letter] | None:
    """Choose a final comparison that the panelist has not been shown, and the side of plus."""
    for order, places, left in _find_left(ledger, panelist, now):
        name = f"final {order.id}/{panelist}"
        walk = seats.panelist_order(ledger.root_seed, None, name, len(places))
        rank, (comparison, sides, _) = min(left, key=lambda at: (len(at[1][1]), walk[at[0]]))
        a, b = sides.count("A"), sides.count("B")
        if a == b:
            planned = planned_sides(ledger.root_seed, order.id, len(places), len(sides))
            return comparison, planned[rank]
        # A seat that was given up leaves its side to the next.
        return comparison, "A" if a < b else "B"
    return None


def count_left(ledger: Ledger, panelist: str, now: int) -> int:
    """How many final comparisons are left for a panelist."""
    return sum(len(left) for _, _, left in _find_left(ledger, panelist, now))


def planned_sides(root_seed: int, order: int, size: int, seat: int) -> list[Letter]:
    """The side of plus for the ``seat``-th seat at each of an order's ``size`` comparisons.

    Half of the sides are A, in a drawn order, so that no side can be inferred from the others.
    Every second seat swaps all sides, so that each comparison is balanced as well.

    >>> planned_sides(0, 7, 4, 0), planned_sides(0, 7, 4, 1)
    (['A', 'A', 'B', 'B'], ['B', 'B', 'A', 'A'])
    """
    key = seeds.derive(root_seed, "final sides", step=seat // 2, name=str(order))
    first = seeds.integer(key, size, 2)  # a random word beyond those of the permutation
    return [LETTERS[(first + int(place) + seat) % 2] for place in seeds.permutation(key, size)]


def _find_left(
    ledger: Ledger, panelist: str, now: int
) -> Iterator[tuple[Order, list[_SeatsAt], list[tuple[int, _SeatsAt]]]]:
    """Open orders in which some are left, with all comparisons and those not shown to them."""
    for order in orders.results(ledger, "final"):
        if order.closed_us is None:
            places = _read_seats_at(ledger, order, now)
            if left := [(i, at) for i, at in enumerate(places) if panelist not in at[2]]:
                yield order, places, left


def _read_seats_at(ledger: Ledger, order: Order, now: int) -> list[_SeatsAt]:
    """The comparisons of an order that differ in some row, as stored, with their seats."""
    found: dict[str, _SeatsAt] = {}
    wanted = set(orders.comparisons(order))
    for row in ledger.query(
        "SELECT c.comparison, a.panelist, a.plus_side, a.expires_us, l.choice "
        "FROM comparisons c LEFT JOIN assignments a USING (comparison) "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE c.run = ? AND c.kind = 'final' AND c.identical = 0 ORDER BY c.rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in wanted:
            continue
        _, sides, shown = found.setdefault(row["comparison"], (row["comparison"], [], set()))
        if row["panelist"] is None:
            continue
        shown.add(row["panelist"])
        held = row["choice"] is None and row["expires_us"] > now
        if held or row["choice"] not in (None, "skip"):
            sides.append(row["plus_side"])
    return list(found.values())


# ---- check pairs, and the return to the start ----


def walk_checks(ledger: Ledger) -> Iterator[tuple[int, Blind, Mapping[str, Any] | None]]:
    """Yield the number of steps and the checks after each round since weights were first adopted.

    With them comes None, or the body of a return's event, and the checks are those before it.
    Verdicts that were withdrawn count no longer from the next round on.
    """
    out = {each.event: each for each in withdrawals.withdrawals(ledger)}
    steps, votes, waiting = 0, list[tuple[int, Vote]](), dict[int, list[str]]()
    for row in ledger.query(
        "SELECT event, kind, body, json_extract(body, '$.step') AS step, "
        "json_extract(body, '$.pool.checks') AS checks FROM events "
        "WHERE kind IN ('generated', 'step', ?, ?) "
        "AND event > (SELECT min(event) FROM events WHERE kind = ?) ORDER BY event",
        (RETURN, withdrawals.EVENT, recorded.ADOPTED),
    ):
        if row["kind"] == "generated":
            waiting[row["step"]] = json.loads(row["checks"] or "[]")
        elif row["kind"] == "step":
            step, ids = row["step"], waiting.pop(row["step"], ())
            steps = step + 1
            if ids:
                cast = counting.counted(ledger, step)
                votes += [(step, vote) for vote in cast if vote.comparison in ids]
            yield steps, _count(vote for _, vote in votes), None
        elif row["kind"] == RETURN:
            yield steps, _count(vote for _, vote in votes), json.loads(row["body"])
            votes, waiting = [], {}
        else:
            left = out[row["event"]]
            votes = [(step, vote) for step, vote in votes if not left.holds(vote.panelist, step)]


def read_checks(ledger: Ledger) -> Blind:
    """The verdicts on check pairs since the last return."""
    found = Blind()
    for _, checks, back in walk_checks(ledger):
        found = checks if back is None else Blind()
    return found


def return_if_due(ledger: Ledger, steps: int) -> None:
    """Go back to the start where the checks say so; call it in a round's last transaction."""
    last = recorded.last_adopted(ledger)
    if last is None or recorded.went_back(last):
        return
    checks = read_checks(ledger)
    if checks.against:
        ledger.record_event(RETURN, "controller", describe_return(ledger, steps, checks))


def describe_return(ledger: Ledger, steps: int, checks: Blind) -> dict[str, Any]:
    """The body of a return's event."""
    return {
        "steps": steps,
        "new": checks.new,
        "start": checks.start,
        "same": checks.same,
        "theta_sha256": recorded.theta_digests(ledger)[0],
    }


def why_back(ledger: Ledger, steps: int | None = None) -> str | None:
    """Why the policy is at its start again; None where it is not, or not since ``steps``."""
    last = recorded.last_adopted(ledger)
    if last is None or not recorded.went_back(last) or steps not in (None, last["steps"]):
        return None
    if recorded.WITHDRAWN in last:
        return (
            "its improved weights had learned from votes that were withdrawn, so the policy "
            "went back to the start"
        )
    return Blind(last["new"], last["start"], last["same"]).sentence()
