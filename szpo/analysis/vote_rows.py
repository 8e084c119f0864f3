"""The stored votes of a run as rows, and summed up in one pass.

Panelists are named by pseudonym. Rows are read part by part, so that a run of a million votes
takes little more memory than a short one.

The sums take a few bytes per vote. Counts are per comparison and per panelist; of single votes,
arrays hold only the values for medians, for a correlation, and for the agreement with others.

Votes, steps and panelists are the rows that a dashboard's numbers are computed from (`Evidence`).
Votes of the open round are left out by default: an operator should not watch a panel vote.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np

from szpo import metrics
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger import canonical, orders, run_spec
from szpo.ledger.database import Ledger, Record
from szpo.runs import budget, guards
from szpo.runs.guards import Bands
from szpo.types import DECIDED, Comparison, Floats, Ints, Kind
from szpo.voting import blind, counting, pauses, withdrawals
from szpo.voting.applied_step import StepReport, read_reports
from szpo.voting.blind import Blind

_STANDING: Final = 1
_COUNTED: Final = 2
_VOTES: Final = (
    "SELECT v.*, a.comparison, a.plus_side, a.served_us, c.kind, c.step, c.k, c.n, "
    "c.repeats, p.pseudonym FROM votes v CROSS JOIN assignments a USING (assignment) "
    "CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p USING (panelist) "
    "WHERE v.vote <= ? ORDER BY v.vote"
)

WORTH = {"plus": 1.0, "tie": 0.5, "minus": 0.0}
Direction = tuple[int | None, int | None]
"""Step and direction k."""


@dataclass(frozen=True, slots=True)
class VoteRow:
    """One stored vote; each revision is a row of its own, with the same seat."""

    vote: int
    seat: str
    revision: int
    comparison: str
    kind: Kind
    step: int | None
    k: int | None
    n: int | None
    panelist: str
    """Pseudonym."""
    plus_side: str
    choice: str
    verdict: str
    """The right verdict, where it is known: plus, minus or tie."""
    repeats: str | None
    """The comparison that this one shows again."""
    standing: bool
    """The seat's last answer, in time and not excluded."""
    counted: bool
    """Of a training comparison, and used by its step's update."""
    late: bool
    skip_reason: str | None
    dwell_ms: int | None
    served_us: int
    received_us: int
    words: int
    """Words in the prompts and both answers of rows that differ."""
    words_plus: int
    words_minus: int
    fast: bool
    """Cast sooner than a quarter of the reading time."""

    @property
    def seconds(self) -> float:
        """Time on the page, s: as the page measured it, else from serving to the answer."""
        if self.dwell_ms is None:
            return max(0, self.received_us - self.served_us) / 1e6
        return self.dwell_ms / 1e3


class VoteRows:
    """The votes that a ledger holds now, in order; each iteration reads them again, part by part.

    Memory holds one byte per vote and the word counts of each comparison. Votes on comparisons in
    ``without`` are left out, and so are withdrawn ones.
    """

    def __init__(self, ledger: Ledger, without: Collection[str] = ()):
        self._ledger = ledger
        self._without = without
        last = ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"]
        self._marks = _mark_votes(ledger, last)
        self._words = _count_words(ledger)
        self._out = withdrawals.votes_out(ledger)

    def __iter__(self) -> Iterator[VoteRow]:
        for row in self._ledger.stream(_VOTES, (len(self._marks) - 1,)):
            if row["comparison"] not in self._without and row["vote"] not in self._out:
                yield self._row(row)

    def _row(self, row: Record) -> VoteRow:
        details = json.loads(row["details"]) if row["details"] else {}
        prompt, plus, minus = self._words.get(row["comparison"], (0, 0, 0))
        marks = self._marks[row["vote"]]
        return VoteRow(
            vote=row["vote"], seat=row["assignment"], revision=row["revision"],
            comparison=row["comparison"], kind=row["kind"], step=row["step"], k=row["k"],
            n=row["n"], panelist=row["pseudonym"], plus_side=row["plus_side"],
            choice=row["choice"], verdict=counting.verdict(row["choice"], row["plus_side"]),
            repeats=row["repeats"],
            standing=bool(marks & _STANDING), counted=bool(marks & _COUNTED),
            late=bool(row["late"]), skip_reason=row["skip_reason"],
            dwell_ms=row["dwell_ms"],
            served_us=row["served_us"], received_us=row["received_us"],
            words=prompt + plus + minus, words_plus=plus, words_minus=minus,
            fast=details.get("fast") is True,
        )  # fmt: skip


def _mark_votes(ledger: Ledger, last: int) -> bytearray:
    """Which votes up to ``last`` stand and which count, one byte for each id."""
    marks = bytearray(last + 1)
    for each in counting.standing_votes(ledger, "final", last_vote=last):
        marks[each.id] |= _STANDING
    for step in ledger.steps():
        standing, counted = counting.StepVotes(ledger, step["step"]).ids()
        for found, mark in ((standing, _STANDING), (counted, _COUNTED)):
            for vote in found:
                if vote <= last:  # else cast since then
                    marks[vote] |= mark
    return marks


def _count_words(ledger: Ledger) -> dict[str, tuple[int, int, int]]:
    """(prompt, plus, minus) words in the rows that differ, of the comparisons voted on."""
    found: dict[str, tuple[int, int, int]] = {}
    for row in ledger.stream(
        "SELECT comparison, prompt, plus, minus FROM answers WHERE plus <> minus "
        "AND comparison IN (SELECT comparison FROM assignments)"
    ):
        prompt, plus, minus = found.get(row["comparison"], (0, 0, 0))
        question = json.loads(row["prompt"])[-1][1]
        found[row["comparison"]] = (
            prompt + len(question.split()),
            plus + len(row["plus"].split()),
            minus + len(row["minus"].split()),
        )
    return found


# ---- with texts ----


@dataclass(frozen=True)
class CastVotes:
    """n votes on the comparisons of closed rounds."""

    comparisons: tuple[Comparison, ...]
    which: Ints
    """(n,) the comparison of each vote, as an index."""
    y: Floats
    """(n,) 1 plus, 0 minus, ½ tie."""
    panelist: tuple[str, ...]
    """(n,) pseudonyms."""


def read_judged(
    ledger: Ledger,
    until: int | None = None,
    before: int = 2**62,
    only: frozenset[str] | None = None,
) -> CastVotes:
    """The counted votes of every closed round, in order of step, direction and comparison.

    Without those that were withdrawn since. ``until``: of the first so many rounds; ``before``:
    by what was withdrawn before this event; ``only``: of these pseudonyms.

    Raises:
        UsageError: there are none.
    """
    stands = withdrawals.left(ledger, before)
    rows = [
        row
        for row in ledger.query(
            "SELECT * FROM counted_votes JOIN panelists USING (panelist) WHERE step < ? "
            "ORDER BY step, k, n, place",
            (2**62 if until is None else until,),
        )
        if stands(row["panelist"], row["step"]) and (only is None or row["pseudonym"] in only)
    ]
    if not rows:
        raise UsageError(
            f"{ledger.path.name} has no votes on a closed round yet; let its panel vote first"
        )
    place = {name: i for i, name in enumerate(dict.fromkeys(row["comparison"] for row in rows))}
    return CastVotes(
        tuple(filter(None, map(ledger.comparison, place))),
        np.array([place[row["comparison"]] for row in rows], dtype=np.int64),
        np.array([WORTH[row["verdict"]] for row in rows]),
        tuple(row["pseudonym"] for row in rows),
    )


def _floats() -> array[float]:
    return array("d")


def _integers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class VoterTotals:
    """One panelist's votes. Training votes are the counted ones."""

    number: int
    """Panelists are numbered by their first vote."""
    choices: bytearray = field(default_factory=bytearray)
    """A, B or t (tie) of each training vote."""
    seconds: array[float] = field(default_factory=_floats)
    """Seconds on the page for each training vote."""
    words: array[int] = field(default_factory=_integers)
    """Words shown with each training vote."""
    standing: int = 0
    """Last answers to training comparisons, skips included."""
    skips: int = 0
    fast: int = 0
    """How many of ``standing`` are marked as cast sooner than reading takes."""
    late: int = 0
    repeats: int = 0
    """Comparisons shown again, where the first answer is known."""
    repeats_same: int = 0
    lengths: int = 0
    """Training votes for a side where the two sides differ in words."""
    longer: int = 0
    """How many of these are for the longer side."""

    def add(self, vote: VoteRow) -> None:
        """Add the panelist's next vote."""
        self.late += vote.late
        if vote.counted:
            self.choices += vote.choice[:1].encode()
            self.seconds.append(vote.seconds)
            self.words.append(vote.words)
        if vote.standing and vote.kind == "train":
            self.standing += 1
            self.skips += vote.choice == "skip"
            self.fast += vote.fast


@dataclass(slots=True)
class VoteTotals:
    """All votes of a run."""

    voters: dict[str, VoterTotals] = field(default_factory=dict)
    comparisons: dict[tuple[Direction, str], tuple[Counter[str], array[int]]] = field(
        default_factory=dict
    )
    """In order of their first counted votes: the verdicts plus, minus and tie, and for each vote
    for a side the panelist's number i for plus, −1 − i for minus."""
    second: dict[str, Counter[str]] = field(default_factory=dict)
    """Counted verdicts of others on rows that came again, by the row's first comparison."""
    first_us: array[int] = field(default_factory=_integers)
    """When each first answer to a training comparison came, µs since 1970."""
    fast: int = 0
    """Counted votes marked as cast sooner than reading takes."""
    length_logs: array[float] = field(default_factory=_floats)
    """log(words of plus / words of minus), of each counted vote for a side."""
    length_signs: array[float] = field(default_factory=_floats)
    """1 for plus, −1 for minus, of the same votes."""

    def steps(self) -> Counter[int | None]:
        """Counted votes by step."""
        found: Counter[int | None] = Counter()
        for ((step, _), _), (counts, _) in self.comparisons.items():
            found[step] += counts.total()
        return found

    def groups(self) -> dict[str, Counter[str]]:
        """Verdicts by comparison; those on a row that came again stand with its first ones."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for comparison, counts in self.second.items():
            found[comparison].update(counts)
        for (_, comparison), (counts, _) in self.comparisons.items():
            found[comparison].update(counts)
        return found

    def seconds(self, names: Iterable[str]) -> Sequence[float]:
        """Seconds on the page for each training vote of these panelists."""
        found = _floats()
        for name in names:
            if name in self.voters:
                found += self.voters[name].seconds
        return found

    def words(self) -> Sequence[int]:
        """Words shown with each training vote of all panelists."""
        found = _integers()
        for voter in self.voters.values():
            found += voter.words
        return found


def total_votes(votes: Iterable[VoteRow]) -> VoteTotals:
    """Sum up votes, in the order of the ledger.

    If comparisons were shown again, ``votes`` is iterated a second time for the first answers.
    """
    totals = VoteTotals()
    again: list[VoteRow] = []
    for vote in votes:
        if vote.panelist not in totals.voters:
            totals.voters[vote.panelist] = VoterTotals(len(totals.voters))
        totals.voters[vote.panelist].add(vote)
        if vote.counted:
            _add_counted(totals, vote)
        if vote.kind == "train" and not vote.revision:
            totals.first_us.append(vote.received_us)
        if vote.counted and vote.repeats is not None:
            again.append(vote)
    if again:
        _add_repeats(totals, votes, again)
    return totals


def _answered(vote: VoteRow) -> bool:
    return vote.standing and vote.choice != "skip"


def _add_counted(totals: VoteTotals, vote: VoteRow) -> None:
    place = (vote.step, vote.k), vote.comparison
    if place not in totals.comparisons:
        totals.comparisons[place] = (Counter(), _integers())
    counts, decided = totals.comparisons[place]
    counts[vote.verdict] += 1
    totals.fast += vote.fast
    if vote.verdict not in DECIDED:
        return
    voter, plus = totals.voters[vote.panelist], vote.verdict == "plus"
    decided.append(voter.number if plus else -1 - voter.number)
    voter.lengths += vote.words_plus != vote.words_minus
    voter.longer += (
        vote.words_plus > vote.words_minus if plus else vote.words_plus < vote.words_minus
    )
    if vote.words_plus and vote.words_minus:
        totals.length_logs.append(math.log(vote.words_plus / vote.words_minus))
        totals.length_signs.append(1.0 if plus else -1.0)


def _add_repeats(totals: VoteTotals, votes: Iterable[VoteRow], again: Sequence[VoteRow]) -> None:
    """Compare answers with the first ones: of one panelist as repeats, of two as second votes."""
    wanted = {vote.repeats for vote in again}
    first: dict[str, dict[str, str]] = {}
    for vote in votes:
        if vote.comparison in wanted and _answered(vote):
            first.setdefault(vote.comparison, {})[vote.panelist] = vote.verdict
    for vote in again:
        source = str(vote.repeats)
        before = first.get(source, {})
        if vote.panelist in before:
            totals.voters[vote.panelist].repeats += 1
            totals.voters[vote.panelist].repeats_same += vote.verdict == before[vote.panelist]
        elif before:
            totals.second.setdefault(source, Counter())[vote.verdict] += 1


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about the run itself that the numbers need."""

    planned_steps: int | None
    votes_per_step: int
    budget: int | None
    """Votes after which the run ends, by its settings."""
    words_per_vote: float
    """Planned words of the answers that a vote reads; words of prompts are not known before."""
    bands: Bands
    as_of_us: int
    hidden_us: tuple[int, ...]
    """Times of the first answers in the open round, whose votes are left out, µs since 1970."""
    pauses: tuple[tuple[int, int | None], ...]
    limit_steps: int | None = None
    limit_votes: int | None = None
    hidden_final: int = 0
    """How many first answers to open final comparisons are left out."""
    blind: Blind | None = None
    """The last blind comparison of the policy with its start; None without a vote."""


@dataclass(frozen=True)
class Evidence:
    """All rows that the dashboard's numbers are computed from."""

    run: RunFacts
    steps: tuple[StepReport, ...]
    votes: Iterable[VoteRow]
    """In order; each iteration begins anew, and may read the ledger again."""
    panelists: Mapping[str, str]
    """The kind of each panelist, by pseudonym, in order of enrolment."""

    @cached_property
    def totals(self) -> VoteTotals:
        """Totals of the votes, computed at first use."""
        return total_votes(self.votes)


def read_evidence(ledger: Ledger, *, live: bool = False) -> Evidence:
    """Read the rows of a ledger as they stand; votes are read only when they are iterated.

    Keep the ledger open as long as the votes are used. ``live``: also votes of the open round and
    of final comparisons that are open.
    """
    hidden = frozenset() if live else open_comparisons(ledger)
    people = ledger.query("SELECT * FROM panelists ORDER BY rowid")
    distinct = _distinct_pairs(ledger)
    return Evidence(
        run=_run(ledger, hidden, live),
        steps=tuple(replace(row, distinct=distinct.get(row.step)) for row in read_reports(ledger)),
        votes=VoteRows(ledger, without=hidden),
        panelists={p["pseudonym"]: p["kind"] for p in people},
    )


def open_comparisons(ledger: Ledger) -> frozenset[str]:
    """Comparisons that still take votes: of rounds that are not closed, and open final ones."""
    final = [
        comparison
        for order in orders.results(ledger, "final")
        if order.closed_us is None
        for comparison in orders.comparisons(order)
    ]
    train = ledger.query(
        "SELECT c.comparison FROM steps s CROSS JOIN comparisons c USING (run, step) "
        "WHERE c.kind = 'train' AND s.state NOT IN ('closed', 'applied')"
    )
    return frozenset([*final, *(row["comparison"] for row in train)])


def _run(ledger: Ledger, hidden: Collection[str], live: bool) -> RunFacts:
    config = run_spec.recorded_config(ledger)
    optimizer = ledger.spec.get("optimizer", {})
    k, n, m = (int(optimizer.get(key, 1)) for key in ("K", "N", "M"))
    limits = budget.read_limits(ledger)
    first = ledger.query(  # of each seat, in order
        "SELECT c.kind, v.received_us FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE v.revision = 0 AND c.comparison IN "
        "(SELECT value FROM json_each(?)) ORDER BY v.vote",
        (canonical.canonical(sorted(hidden)),),
    )
    return RunFacts(
        planned_steps=None if config is None else config.steps,
        votes_per_step=k * n * m,
        budget=None if config is None else config.run.votes,
        words_per_vote=Config().words_per_vote if config is None else config.words_per_vote,
        bands=Bands() if config is None else guards.bands(config.guards),
        as_of_us=ledger.clock(),
        hidden_us=tuple(row["received_us"] for row in first if row["kind"] == "train"),
        hidden_final=sum(row["kind"] == "final" for row in first),
        blind=blind.read(ledger, live=live),
        pauses=tuple(pauses.list_pauses(ledger)),
        limit_steps=limits.step,
        limit_votes=limits.votes,
    )


# ---- steps ----


def _distinct_pairs(ledger: Ledger) -> dict[int, float]:
    """Distinct-2 of each step's answers: different word pairs over all word pairs."""
    rows = ledger.stream(
        "SELECT c.step, a.plus, a.minus FROM comparisons c JOIN answers a USING (comparison) "
        "WHERE c.kind = 'train' ORDER BY c.step, c.k, c.n, a.i"
    )
    return {
        step: metrics.distinct_n([row[side] for row in own for side in ("plus", "minus")])
        for step, own in groupby(rows, key=lambda row: row["step"])
    }
