"""Sum up votes in one pass for the operator's page, in a few bytes per vote.

The functions are pure. Counts are per comparison and per panelist. Of single votes, typed arrays
hold only the values for medians, for a correlation, and for the agreement with others.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from szpo.analysis.vote_rows import VoteRow
from szpo.types import DECIDED

Direction = tuple[int | None, int | None]
"""Step and direction k."""


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
    gold: int = 0
    gold_right: int = 0
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
        if _answered(vote) and vote.kind == "gold" and vote.expected is not None:
            self.gold += 1
            self.gold_right += vote.verdict == vote.expected


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
    same_policy: Counter[str] = field(default_factory=Counter)
    """Choices where both batches are from one policy: A, B, tie."""
    final: list[VoteRow] = field(default_factory=list)
    """Last answers to blind comparisons of the tuned policy with the base; notes are left out."""
    trainers: set[str] = field(default_factory=set)
    """Panelists who voted in training."""

    def steps(self) -> Counter[int | None]:
        """Counted votes by step."""
        found: Counter[int | None] = Counter()
        for ((step, _), _), (counts, _) in self.comparisons.items():
            found[step] += counts.total()
        return found

    def directions(self) -> dict[int | None, dict[int | None, Counter[str]]]:
        """Counted verdicts by step and direction k."""
        found: dict[int | None, dict[int | None, Counter[str]]] = {}
        for ((step, k), _), (counts, _) in self.comparisons.items():
            found.setdefault(step, defaultdict(Counter))[k].update(counts)
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
        if vote.kind == "train":
            _add_training(totals, vote)
        elif vote.standing and vote.kind == "final":
            totals.final.append(replace(vote, notes={}))
        elif _answered(vote) and vote.kind == "aa":
            totals.same_policy[vote.choice] += 1
        if vote.counted and vote.repeats is not None:
            again.append(replace(vote, notes={}))
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


def _add_training(totals: VoteTotals, vote: VoteRow) -> None:
    if not vote.revision:
        totals.first_us.append(vote.received_us)
    if vote.choice != "skip":
        totals.trainers.add(vote.panelist)


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
