"""How far panelists agree: with each other, with known answers, with themselves, with a side.

All of it reads `szpo.analysis.evidence`; training votes are the counted ones. As the two policies
of a step become alike, agreement falls to chance by construction, so it says little without gold
beside it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from szpo.aggregation.low_effort import Conduct, Flag, Usual, flags, longest_run, soonest_ms
from szpo.analysis.evidence import Ballot, Evidence
from szpo.intervals import Estimate, Share, Z, quantile, share
from szpo.training.summary import WORDS_PER_MINUTE

SIDES = ("plus", "minus")
ENOUGH = 30
"""Answers from which the panel's own share is what an honest member is expected to have."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the whole panel."""

    same: Share
    """Pairs of votes on one comparison that chose the same side, ties left out."""
    across: Share
    """The same for votes on different comparisons of one direction."""
    alpha: Estimate
    """Krippendorff's α for nominal data (plus, minus, tie) over comparisons with two votes."""
    gold: Share
    repeat: Share
    a_side: Share
    """Share of A among training votes for a side."""
    aa_side: Share
    """Share of A among votes for a side where both policies are the same."""
    aa_ties: Share
    """Share of ties there: the truth is a tie."""


@dataclass(frozen=True, slots=True)
class PanelistRow:
    """One panelist's figures."""

    name: str
    kind: str
    votes: int
    median: Estimate
    """Seconds per training vote."""
    reading_s: float | None
    """What reading takes at 238 words a minute, median."""
    gold: Share
    repeat: Share
    a_side: Share
    ties: Share
    skips: Share
    rest: Share
    """Agreement with the majority of the others."""
    fast: int
    late: int
    run_of_side: int
    """Longest run of votes for the same side of the screen."""
    last_us: int | None
    flags: tuple[Flag, ...]


def agreement(evidence: Evidence) -> Agreement:
    """The panel's agreement."""
    trained = [b for b in evidence.ballots if b.counted]
    sided = [b for b in trained if b.verdict in SIDES]
    calibration = [b for b in evidence.ballots if b.standing and b.choice != "skip"]
    same = [b for b in calibration if b.kind == "aa"]
    same_sided = [b for b in same if b.verdict in SIDES]
    return Agreement(
        same=_pairs(_groups(sided)),
        across=across(sided),
        alpha=alpha(_groups(trained).values()),
        gold=_gold(calibration),
        repeat=_repeats(calibration),
        a_side=share(sum(b.choice == "A" for b in sided), len(sided)),
        aa_side=share(sum(b.choice == "A" for b in same_sided), len(same_sided)),
        aa_ties=share(sum(b.choice == "tie" for b in same), len(same)),
    )


def alpha(units: Iterable[Sequence[str]]) -> Estimate:
    """Krippendorff's α for nominal data, with a jackknife interval over the units.

    A unit with fewer than two values says nothing. None where no values differ at all.

    >>> found = alpha([["plus", "plus"], ["minus", "minus"], ["plus", "minus"]])
    >>> round(found.value, 4)
    0.4444
    """
    parts = [(Counter(unit), len(unit)) for unit in units if len(unit) > 1]
    totals: Counter[str] = Counter()
    disagreeing = 0.0
    for counts, m in parts:
        totals.update(counts)
        disagreeing += _disagreeing(counts, m)
    whole = _alpha(disagreeing, totals)
    n = len(parts)
    if whole is None:
        return Estimate(None, None, None, n)
    others = [_alpha(disagreeing - _disagreeing(c, m), totals - c) for c, m in parts]
    known = [value for value in others if value is not None]
    if n < 3 or len(known) < n:
        return Estimate(whole, None, None, n)
    middle = math.fsum(known) / n
    error = math.sqrt((n - 1) / n * math.fsum((value - middle) ** 2 for value in known))
    return Estimate(whole, whole - Z * error, min(1.0, whole + Z * error), n)


def _disagreeing(counts: Counter[str], m: int) -> float:
    return (m * m - sum(c * c for c in counts.values())) / (m - 1)


def _alpha(disagreeing: float, totals: Counter[str]) -> float | None:
    n = sum(totals.values())
    expected = n * n - sum(c * c for c in totals.values())
    return None if not expected else 1 - (n - 1) * disagreeing / expected


def panelists(evidence: Evidence) -> tuple[PanelistRow, ...]:
    """One row per panelist, in order of enrolment."""
    by_name = _by_name(evidence.ballots)
    rest = _rest(evidence)
    rows = [
        _row(person.name, person.kind, by_name.get(person.name, []), rest)
        for person in evidence.panelists
    ]
    usual = _usual([row for row in rows if row.kind == "person"])
    return tuple(
        replace(row, flags=flags(_conduct(row, by_name.get(row.name, [])), usual))
        if row.kind == "person"
        else row
        for row in rows
    )


def _row(name: str, kind: str, own: Sequence[Ballot], rest: Mapping[str, Share]) -> PanelistRow:
    trained = [b for b in own if b.counted]
    standing = [b for b in own if b.standing and b.kind == "train"]
    sided = [b for b in trained if b.verdict in SIDES]
    answered = [b for b in own if b.standing and b.choice != "skip"]
    return PanelistRow(
        name=name,
        kind=kind,
        votes=len(trained),
        median=quantile([b.seconds for b in trained], 0.5),
        reading_s=quantile([_reading_s(b) for b in trained], 0.5).value,
        gold=_gold(answered),
        repeat=_repeats(answered),
        a_side=share(sum(b.choice == "A" for b in sided), len(sided)),
        ties=share(sum(b.choice == "tie" for b in trained), len(trained)),
        skips=share(sum(b.choice == "skip" for b in standing), len(standing)),
        rest=rest.get(name, share(0, 0)),
        fast=sum(b.fast for b in standing),
        late=sum(b.late for b in own),
        run_of_side=longest_run([b.choice for b in trained]),
        last_us=max((b.received_us for b in own), default=None),
        flags=(),
    )


def _reading_s(ballot: Ballot) -> float:
    """Seconds that its texts take to read."""
    return ballot.words * 60 / WORDS_PER_MINUTE


def _conduct(row: PanelistRow, own: Sequence[Ballot]) -> Conduct:
    """What `low_effort` judges somebody by: the figures of their row, and their single times."""
    trained = [b for b in own if b.counted]
    soon = sum(1e3 * b.seconds < soonest_ms(b.words) for b in trained)
    skim = sum(b.seconds < _reading_s(b) / 4 for b in trained)
    return Conduct(
        fast=(soon, len(trained)),
        skim=(skim, len(trained)),
        left=(row.a_side.hits, row.a_side.of),
        run=row.run_of_side,
        gold=(row.gold.hits, row.gold.of),
        repeat=(row.repeat.hits, row.repeat.of),
        rest=(row.rest.hits, row.rest.of),
        skips=(row.skips.hits, row.skips.of),
    )


def _usual(rows: Sequence[PanelistRow]) -> Usual:
    """The panel's own shares, where enough answers stand behind them."""
    found: dict[str, float] = {}
    for name in ("gold", "repeat", "rest"):
        shares: list[Share] = [getattr(row, name) for row in rows]
        hits, of = sum(s.hits for s in shares), sum(s.of for s in shares)
        if of >= ENOUGH:
            found[name] = hits / of
    return Usual(**found)


# ---- the parts ----


def _groups(ballots: Iterable[Ballot]) -> dict[str, list[str]]:
    """Verdicts by comparison."""
    found: dict[str, list[str]] = defaultdict(list)
    for ballot in ballots:
        found[ballot.comparison].append(ballot.verdict)
    return found


def _pairs(groups: Mapping[str, Sequence[str]]) -> Share:
    """Agreeing pairs within groups; the interval counts disjoint pairs, which are independent."""
    agreeing = pairs = disjoint = 0
    for verdicts in groups.values():
        counts, m = Counter(verdicts), len(verdicts)
        agreeing += sum(c * (c - 1) // 2 for c in counts.values())
        pairs += m * (m - 1) // 2
        disjoint += m // 2
    return _scaled(agreeing, pairs, disjoint)


def across(sided: Sequence[Ballot]) -> Share:
    """As `_pairs`, for votes of one direction on different comparisons."""
    agreeing = pairs = disjoint = 0
    directions: dict[tuple[int | None, int | None], list[Ballot]] = defaultdict(list)
    for ballot in sided:
        directions[ballot.step, ballot.k].append(ballot)
    for ballots in directions.values():
        whole = Counter(b.verdict for b in ballots)
        inside = Counter((b.comparison, b.verdict) for b in ballots)
        sizes = Counter(b.comparison for b in ballots)
        agreeing += _two(whole.values()) - _two(inside.values())
        pairs += _two([len(ballots)]) - _two(sizes.values())
        most = max(sizes.values())
        disjoint += min(len(ballots) // 2, len(ballots) - most)
    return _scaled(agreeing, pairs, disjoint)


def _two(counts: Iterable[int]) -> int:
    return sum(c * (c - 1) // 2 for c in counts)


def _scaled(agreeing: int, pairs: int, disjoint: int) -> Share:
    return share(agreeing / pairs * disjoint, disjoint) if pairs else share(0, 0)


def _gold(ballots: Sequence[Ballot]) -> Share:
    asked = [b for b in ballots if b.kind == "gold" and b.expected is not None]
    return share(sum(b.verdict == b.expected for b in asked), len(asked))


def _repeats(ballots: Sequence[Ballot]) -> Share:
    """Comparisons shown again: the same verdict as the panelist's own first one."""
    first = {(b.comparison, b.panelist): b.verdict for b in ballots if b.kind != "repeat"}
    again = [b for b in ballots if b.kind == "repeat" and (b.repeats, b.panelist) in first]
    return share(sum(first[b.repeats or "", b.panelist] == b.verdict for b in again), len(again))


def _rest(evidence: Evidence) -> dict[str, Share]:
    """Each panelist's agreement with the majority of the others.

    Others on the same comparison where comparisons have several votes, else others on the same
    direction; where they are split, or nobody else chose a side, there is nothing to agree with.
    """
    several = any(step.m > 1 for step in evidence.steps)
    groups: dict[tuple[object, ...], list[Ballot]] = defaultdict(list)
    for b in evidence.ballots:
        if b.counted and b.verdict in SIDES:
            groups[(b.comparison,) if several else (b.step, b.k)].append(b)
    hits: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for ballots in groups.values():
        total = sum(_sign(b) for b in ballots)
        own: Counter[str] = Counter()
        for b in ballots:
            own[b.panelist] += _sign(b)
        for b in ballots:
            lead = total - own[b.panelist]
            if lead:
                asked[b.panelist] += 1
                hits[b.panelist] += lead * _sign(b) > 0
    return {name: share(hits[name], asked[name]) for name in asked}


def _sign(ballot: Ballot) -> int:
    return 1 if ballot.verdict == "plus" else -1


def _by_name(ballots: Iterable[Ballot]) -> dict[str, list[Ballot]]:
    found: dict[str, list[Ballot]] = defaultdict(list)
    for ballot in ballots:
        found[ballot.panelist].append(ballot)
    return found
