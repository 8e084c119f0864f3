"""Agreement of panelists with each other, with known answers and with themselves; side bias.

It is computed from `szpo.analysis.evidence`; training votes are the counted ones. Where the two
policies of a step become equal, agreement falls to chance by construction. So read it beside the
answers to gold.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from szpo.aggregation.low_effort import Conduct, Counts, Usual, flags, longest_run, soonest_ms
from szpo.analysis.evidence import Evidence
from szpo.analysis.vote_totals import Direction, VoterTotals, VoteTotals
from szpo.intervals import Estimate, Share, Z, quantile, share
from szpo.training.budget import WORDS_PER_MINUTE
from szpo.types import DECIDED

MIN_VOTES = 30
"""With this many votes, the panel's own share is the one expected of an honest panelist."""


def agreement(evidence: Evidence) -> dict[str, Share | Estimate]:
    """The measures of agreement of the whole panel, by name.

    ``same``: the share of pairs of votes on one comparison that chose the same side, without ties;
    ``across``: the same for different comparisons of one direction; ``alpha``: Krippendorff's α
    over comparisons with two votes or more. ``gold``, ``repeat``: the share of expected answers.
    ``a_side``: the share of A among training votes for a side; ``aa_ties``: the share of ties
    where both policies are one, so that a tie is the truth.
    """
    totals = evidence.totals
    voters, same = totals.voters.values(), totals.same_policy
    left, right = (sum(voter.choices.count(side) for voter in voters) for side in (b"A", b"B"))
    return {
        "same": within(totals),
        "across": across(totals, [step.step for step in evidence.steps if step.perturbed]),
        "alpha": alpha(totals.groups().values()),
        "gold": share(sum(v.gold_right for v in voters), sum(v.gold for v in voters)),
        "repeat": share(sum(v.repeats_same for v in voters), sum(v.repeats for v in voters)),
        "a_side": share(left, left + right),
        "aa_ties": share(same["tie"], same.total()),
    }


def alpha(units: Iterable[Counter[str]]) -> Estimate:
    """Krippendorff's α for nominal data, with a jackknife interval over the units.

    A unit holds the counts of its values; one of fewer than two values is left out. α is None
    where all values are equal.

    >>> round(alpha(map(Counter, ("pp", "mm", "pm"))).value, 4)
    0.4444
    """
    parts = [(unit, unit.total()) for unit in units if unit.total() > 1]
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
    """Ordered pairs of different values in a unit of m values, over m − 1."""
    return (m * m - sum(c * c for c in counts.values())) / (m - 1)


def _alpha(disagreeing: float, totals: Counter[str]) -> float | None:
    n = sum(totals.values())
    expected = n * n - sum(c * c for c in totals.values())
    # α = 1 − D_o/D_e for nominal data (Krippendorff, 2011), n the number of values
    return None if not expected else 1 - (n - 1) * disagreeing / expected


# ---- panelists ----


def panelists(evidence: Evidence) -> list[dict[str, Any]]:
    """One row per panelist, in order of enrolment.

    ``reading_s``: the median time to read a comparison at 238 words a minute. ``rest``: agreement
    with the majority of the others. ``run_of_side``: the longest run of votes for one side.
    """
    voters, rest = evidence.totals.voters, _agree_with_rest(evidence)
    none = VoterTotals(-1)
    rows = [
        _row(name, kind, voters.get(name, none), rest.get(name, share(0, 0)))
        for name, kind in evidence.panelists.items()
    ]
    longer = sum(v.longer for v in voters.values()), sum(v.lengths for v in voters.values())
    usual = _usual([row for row in rows if row["kind"] == "person"], longer)
    for row in rows:
        conduct = _conduct(row, voters.get(row["name"], none))
        if row["kind"] == "judge":  # a machine hurries and errs otherwise than a person
            conduct = Conduct(longer=conduct.longer)
        if row["kind"] != "simulated":
            row["flags"] = flags(conduct, usual)
    return rows


def _row(name: str, kind: str, voter: VoterTotals, rest: Share) -> dict[str, Any]:
    votes = len(voter.choices)
    left, right = voter.choices.count(b"A"), voter.choices.count(b"B")
    return {
        "name": name,
        "kind": kind,
        "votes": votes,
        "median": quantile(voter.seconds, 0.5),
        "reading_s": quantile([_reading_s(words) for words in voter.words], 0.5).value,
        "gold": share(voter.gold_right, voter.gold),
        "repeat": share(voter.repeats_same, voter.repeats),
        "a_side": share(left, left + right),
        "ties": share(voter.choices.count(b"t"), votes),
        "skips": share(voter.skips, voter.standing),
        "rest": rest,
        "fast": voter.fast,
        "late": voter.late,
        "run_of_side": longest_run(voter.choices.decode()),
        "flags": (),
    }


def _reading_s(words: int) -> float:
    return words * 60 / WORDS_PER_MINUTE


def _conduct(row: dict[str, Any], voter: VoterTotals) -> Conduct:
    """The input of `low_effort` for one panelist: the figures of their row, and their times."""
    times = list(zip(voter.seconds, voter.words, strict=True))
    soon = sum(1e3 * seconds < soonest_ms(words) for seconds, words in times)
    skim = sum(seconds < _reading_s(words) / 4 for seconds, words in times)
    shares = {"left": "a_side", **{name: name for name in ("gold", "repeat", "rest", "skips")}}
    return Conduct(
        fast=(soon, len(times)),
        skim=(skim, len(times)),
        longer=(voter.longer, voter.lengths),
        run=row["run_of_side"],
        **{name: (row[key].hits, row[key].of) for name, key in shares.items()},
    )


def _usual(rows: Sequence[dict[str, Any]], longer: Counts) -> Usual:
    """The panel's own shares, where they rest on at least `MIN_VOTES` votes."""
    found: dict[str, float] = {}
    for name in ("gold", "repeat", "rest"):
        shares = [row[name] for row in rows]
        if (of := sum(share.of for share in shares)) >= MIN_VOTES:
            found[name] = sum(share.hits for share in shares) / of
    return Usual(longer=longer, **found)


# ---- pairs of votes ----


def within(totals: VoteTotals) -> Share:
    """Share of pairs of votes on one comparison that agree.

    The interval counts disjoint pairs, which are independent.
    """
    agreeing = pairs = disjoint = 0
    for counts in totals.groups().values():
        sides = [counts[verdict] for verdict in DECIDED]
        agreeing += _count_pairs(sides)
        pairs += _count_pairs([sum(sides)])
        disjoint += sum(sides) // 2
    return _share_of_pairs(agreeing, pairs, disjoint)


def across(totals: VoteTotals, steps: Collection[int] | None = None) -> Share:
    """As `within`, for votes of one direction on different comparisons (of some steps)."""
    directions: dict[Direction, list[Counter[str]]] = defaultdict(list)
    for (direction, _), (counts, decided) in totals.comparisons.items():
        if decided and (steps is None or direction[0] in steps):
            directions[direction].append(counts)
    agreeing = pairs = disjoint = 0
    for parts in directions.values():
        whole = [sum(counts[verdict] for counts in parts) for verdict in DECIDED]
        sizes = [counts["plus"] + counts["minus"] for counts in parts]
        agreeing += _count_pairs(whole) - _count_pairs(
            counts[verdict] for counts in parts for verdict in DECIDED
        )
        pairs += _count_pairs([sum(whole)]) - _count_pairs(sizes)
        disjoint += min(sum(whole) // 2, sum(whole) - max(sizes))
    return _share_of_pairs(agreeing, pairs, disjoint)


def _count_pairs(counts: Iterable[int]) -> int:
    return sum(c * (c - 1) // 2 for c in counts)


def _share_of_pairs(agreeing: int, pairs: int, disjoint: int) -> Share:
    """The share of agreeing pairs, with the interval of ``disjoint`` independent cases."""
    return share(agreeing / pairs * disjoint, disjoint) if pairs else share(0, 0)


def _agree_with_rest(evidence: Evidence) -> dict[str, Share]:
    """Each panelist's agreement with the majority of the others.

    The others are those on the same comparison where comparisons have several votes, or directions
    no policies of their own, else those on the same direction. A vote is left out where they are
    split, or nobody else chose a side.
    """
    several = any(step.m > 1 or not step.perturbed for step in evidence.steps)
    groups: dict[object, array[int]] = defaultdict(lambda: array("q"))
    for (direction, comparison), (_, decided) in evidence.totals.comparisons.items():
        groups[comparison if several else direction] += decided
    names = list(evidence.totals.voters)
    hits: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for votes in groups.values():
        total = sum(1 if vote >= 0 else -1 for vote in votes)
        own: Counter[int] = Counter()
        for vote in votes:
            own[vote if vote >= 0 else -1 - vote] += 1 if vote >= 0 else -1
        for vote in votes:
            number, sign = (vote, 1) if vote >= 0 else (-1 - vote, -1)
            lead = total - own[number]
            if lead:
                asked[names[number]] += 1
                hits[names[number]] += lead * sign > 0
    return {name: share(hits[name], asked[name]) for name in asked}
