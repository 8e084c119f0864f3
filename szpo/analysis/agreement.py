"""Agreement of panelists with each other and themselves, side bias, and low effort.

Flags for low effort in one panelist's answers: people look into them, no vote is dropped. Pure
arithmetic on counts. Each flag should hit fewer than one honest panelist in a hundred.
experiments/LOG.md has the measured rates for honest panelists and for random clickers,
docs/explanation/why-these-choices.md the flags' costs.

It is computed from `szpo.analysis.vote_rows`; training votes are the counted ones. Where the two
policies of a step become equal, agreement falls to chance by construction.

Also the weight of each voter in the next step, by the weighting that learns weights.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from scipy import special

from szpo.analysis.vote_rows import Evidence, VoterTotals, VoteTotals
from szpo.files import quoted
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.metrics import Estimate, Share, Z, quantile, share, wilson
from szpo.optim import all_votes, weighting
from szpo.optim.optimizer import rule_of
from szpo.optim.weighting import History, View
from szpo.replay import replay
from szpo.replay.replay import read_votes_by_voter
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.types import DECIDED
from szpo.voting import counting, withdrawals

Counts = tuple[float, float]
"""Number of hits, and out of how many."""

FAST_MS: Final = 700.0
WORD_MS: Final = 15.0
"""Nobody reads 4,000 words a minute, or any text in less than 700 ms."""
LONGER_Z: Final = 3.5
"""Standard errors from which somebody is said to prefer longer answers more than the others do."""
RANDOM_LOG_RATIO: Final = math.log(100)
"""Limit of the log-likelihood ratio of answering at random over answering as the panel does.

By Ville's inequality at most one honest panelist in a hundred ever passes it, however often it is
checked, if the panel's shares hold for that panelist.
"""

MIN_VOTES = 30
"""With this many votes, the panel's own share is the one expected of an honest panelist."""
WEIGHTS_LEGEND: Final = (
    "weights: 1 is an equal vote. z: agreement with the rest, in standard errors above chance."
)


@dataclass(frozen=True, slots=True)
class Conduct:
    """Counts (hits, of) on a panelist's answers, in any unit of votes."""

    fast: Counts = (0, 0)
    """Answers faster than `soonest_ms`, of those with a time."""
    skim: Counts = (0, 0)
    """Answers in less than a quarter of the reading time, of those with a time."""
    left: Counts = (0, 0)
    """Answers A, of those for a side."""
    run: int = 0
    """Longest run of one side."""
    repeat: Counts = (0, 0)
    """Same answers, of comparisons answered twice."""
    rest: Counts = (0, 0)
    """Answers with the majority of the others on the same direction, where there is one."""
    skips: Counts = (0, 0)
    """Skipped comparisons, of all that were shown and answered."""
    longer: Counts = (0, 0)
    """Answers for the longer side, of those for a side where the two differ in length."""


def soonest_ms(words: int) -> float:
    """The shortest time, in ms, in which somebody can look at a text of this many words.

    >>> soonest_ms(10), soonest_ms(300)
    (700.0, 4500.0)
    """
    return max(FAST_MS, WORD_MS * words)


def longest_run(sides: Sequence[str]) -> int:
    """Longest run of one side; any other answer breaks it.

    >>> longest_run("ABBBA"), longest_run(["A", "tie", "tie", "A"]), longest_run("")
    (3, 1, 0)
    """
    return max((len(list(run)) for side, run in groupby(sides) if side in ("A", "B")), default=0)


def effort_flags(conduct: Conduct, panel: Conduct) -> tuple[tuple[str, str], ...]:
    """The flags of a panelist, code and sentence, in a fixed order; most panelists have none.

    ``panel``: the counts of the whole panel, this panelist included.
    """
    c = conduct
    found = []
    hits, of = c.fast
    if hits >= 3 and hits > of / 10:
        found.append(("fast", f"{hits:.0f} of {of:.0f} votes sooner than texts can be read"))
    hits, of = c.skim
    if of >= 6 and hits > of / 2:
        text = f"{hits:.0f} of {of:.0f} votes in less than a quarter of the reading time"
        found.append(("skim", text))
    hits, of = c.left
    if of and 2 * special.bdtr(min(hits, of - hits), of, 0.5) < 0.001:
        found.append(("side", f"chose the left side in {hits:.0f} of {of:.0f} votes"))
    if c.run > max(12, math.log2(max(of, 1)) + 8):  # longer records have longer runs by chance
        found.append(("run", f"chose the same side {c.run} times in a row"))
    hits, of = c.repeat
    if of >= 5 and wilson(hits, of)[1] < 0.6:
        found.append(("repeat", f"the same vote in {hits:.0f} of {of:.0f} repeats"))
    hits, of = c.rest
    if of >= 30 and wilson(hits, of)[1] < 0.45:
        found.append(("rest", f"with the others in {hits:.0f} of {of:.0f} votes"))
    hits, of = c.skips
    if of >= 12 and hits > of / 4:
        found.append(("skips", f"could not judge {hits:.0f} of {of:.0f}"))
    hits, of = c.longer
    rest, others = panel.longer[0] - hits, panel.longer[1] - of
    if of >= 10 and others >= 20 and _excess(hits, of, rest, others) > LONGER_Z:
        share = f"{100 * rest / others:.0f} %"
        text = f"preferred the longer answer in {hits:.0f} of {of:.0f}, the others in {share}"
        found.append(("longer", text))
    if (ratio := at_random(c, panel)) > RANDOM_LOG_RATIO:
        found.append(("random", f"{math.exp(min(ratio, 20)):.0f} to 1 for votes at random"))
    return tuple(found)


def _excess(hits: float, of: float, rest: float, others: float) -> float:
    """By how many standard errors a share lies above another, were both one share."""
    share = (hits + rest) / (of + others)
    error = math.sqrt(share * (1 - share) * (1 / of + 1 / others))
    return (hits / of - rest / others) / error if error else 0.0


def at_random(conduct: Conduct, panel: Conduct) -> float:
    """Log-likelihood ratio of answering at random over answering as the panel does.

    The panel's shares are its own where they rest on at least `MIN_VOTES` votes. Else repeats and
    agreement with the others say nothing.

    >>> round(at_random(Conduct(repeat=(1, 4)), Conduct(repeat=(95, 100))), 2)
    6.27
    """
    total = 0.0
    for (hits, of), (all_hits, all_of) in (
        (conduct.repeat, panel.repeat),
        (conduct.rest, panel.rest),
    ):
        usual = all_hits / all_of if all_of >= MIN_VOTES else 0.5
        expected = min(max(usual, 0.5), 0.98)
        total += hits * math.log(0.5 / expected) + (of - hits) * math.log(0.5 / (1 - expected))
    return total


def agreement(evidence: Evidence) -> dict[str, Share | Estimate]:
    """The measures of agreement of the whole panel, by name.

    ``same``: the share of pairs of votes on one comparison that chose the same side, without ties;
    ``alpha``: Krippendorff's α over comparisons with two votes or more. ``repeat``: the share of
    repeats answered as before. ``a_side``: the share of A among training votes for a side.
    """
    totals = evidence.totals
    voters = totals.voters.values()
    left, right = (sum(voter.choices.count(side) for voter in voters) for side in (b"A", b"B"))
    return {
        "same": within(totals),
        "alpha": alpha(totals.groups().values()),
        "repeat": share(sum(v.repeats_same for v in voters), sum(v.repeats for v in voters)),
        "a_side": share(left, left + right),
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
    people = [row for row in rows if row["kind"] == "person"]
    counts: dict[str, Any] = {
        name: (sum(row[name].hits for row in people), sum(row[name].of for row in people))
        for name in ("repeat", "rest")
    }
    panel = Conduct(longer=longer, **counts)
    for row in rows:
        conduct = _conduct(row, voters.get(row["name"], none))
        if row["kind"] == "judge":  # a machine hurries and errs otherwise than a person
            conduct = Conduct(longer=conduct.longer)
        if row["kind"] != "simulated":
            row["flags"] = effort_flags(conduct, panel)
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
    """The input of `effort_flags` for one panelist: the figures of their row, and their times."""
    times = list(zip(voter.seconds, voter.words, strict=True))
    soon = sum(1e3 * seconds < soonest_ms(words) for seconds, words in times)
    skim = sum(seconds < _reading_s(words) / 4 for seconds, words in times)
    shares = {"left": "a_side", **{name: name for name in ("repeat", "rest", "skips")}}
    return Conduct(
        fast=(soon, len(times)),
        skim=(skim, len(times)),
        longer=(voter.longer, voter.lengths),
        run=row["run_of_side"],
        **{name: (row[key].hits, row[key].of) for name, key in shares.items()},
    )


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


def _count_pairs(counts: Iterable[int]) -> int:
    return sum(c * (c - 1) // 2 for c in counts)


def _share_of_pairs(agreeing: int, pairs: int, disjoint: int) -> Share:
    """The share of agreeing pairs, with the interval of ``disjoint`` independent cases."""
    return share(agreeing / pairs * disjoint, disjoint) if pairs else share(0, 0)


def _agree_with_rest(evidence: Evidence) -> dict[str, Share]:
    """Each panelist's agreement with the majority of the others."""
    # The others are those on the same comparison where comparisons have several votes, or
    # directions no policies of their own, else those on the same direction. A vote is left
    # out where they are split, or nobody else chose a side.
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


@dataclass(frozen=True, slots=True)
class Voter:
    """One voter, with the weight in the next step."""

    name: str
    votes: int
    """Counted votes, ties included."""
    in_use: float
    """The voter's weight under the run's own weighting."""
    skill: float
    z: float


def read_history(ledger: Ledger) -> History:
    """Every voter's verdicts in the applied steps, as the weightings read them; none withdrawn."""
    settings = run_spec.recorded_settings(ledger)
    alone = settings.picks_pairs  # its rounds differ in N, and no two rows are of one direction
    found = History.empty(1 if alone else settings.section.N)
    for row in ledger.steps():
        if row["state"] != "applied":
            continue
        step = row["step"]
        votes = counting.counted(ledger, step)
        counts = counting.tally(ledger, step, row["k"], row["n"], votes)
        by_voter = read_votes_by_voter(ledger, settings, step, votes, counts)
        found = weighting.remember(found, step, by_voter.alone() if alone else by_voter)
    last = ledger.last_applied()
    return found if last is None else withdrawals.history_left(ledger, found, last + 1)


def voters(ledger: Ledger) -> tuple[Voter, ...]:
    """One row for everybody who has a counted vote, in order of enrolment."""
    past = read_history(ledger)
    if not past.voters:
        return ()
    skill = weighting.skill(*_view(ledger, past))
    weighs = run_spec.recorded_settings(ledger).section.weighting == "skill"
    in_use = skill.weights if weighs else np.ones(len(past.voters))
    place = {voter: i for i, voter in enumerate(past.voters)}
    people = ledger.query("SELECT panelist, pseudonym FROM panelists ORDER BY rowid")
    columns = [(row["pseudonym"], place.get(row["panelist"])) for row in people]
    return tuple(
        Voter(
            name=name,
            votes=int((past.verdicts[i] != 0).sum()),
            in_use=float(in_use[i]),
            skill=float(skill.weights[i]),
            z=float(skill.z[i]),
        )
        for name, i in columns
        if i is not None and past.verdicts[i].any()
    )


def _view(ledger: Ledger, past: History) -> tuple[History, View | None]:
    """The votes, and what the others' votes say of each."""
    settings = run_spec.recorded_settings(ledger)
    if not rule_of(settings.section.rule).two_points or not past.verdicts.size:
        return past, None
    record = replay.replay_state(ledger, settings).carried
    return all_votes.view_of_others(settings, record, past)


def voters_against(rows: Sequence[Voter], weighting_in_use: str) -> list[str]:
    """A sentence for each voter whose votes contradict what the others' votes say."""
    skilled = weighting_in_use == "skill"
    turned = "they are turned round" if skilled else "optimizer.weighting = skill turns them round"
    return [
        f"{row.name} votes against what the others' votes say: z = {row.z:.1f} in {row.votes} "
        f"votes. Ask why; {turned}"
        for row in rows
        if row.z <= -weighting.HOSTILE_Z
    ]


def whose_taste(ledger: Ledger) -> list[str]:
    """How far each of several people's votes are followed, and who votes against the others."""
    config = run_spec.recorded_config(ledger)
    if config is None or config.panel.kind != "people" or len(rows := voters(ledger)) < 2:
        return []
    weights = [f"{row.in_use:.2f}" for row in rows]
    who = ", ".join(f"{row.name} {weight}" for row, weight in zip(rows, weights, strict=True))
    who = f"by weight {who}" if len({*weights}) > 1 else f"that of all {len(rows)} voters alike"
    return [
        f"whose taste is followed: {who}; szpo taste {quoted(ledger.path)} --several says "
        "whether they are of one taste",
        *voters_against(rows, config.optimizer.weighting),
    ]


def voter_table(rows: Sequence[Voter]) -> tuple[list[str], list[list[object]]]:
    """Heads and lines for the command line."""
    heads = ["voter", "votes", "in use", "skill", "z"]
    lines: list[list[object]] = [
        [
            row.name,
            row.votes,
            f"{row.in_use:.2f}",
            f"{row.skill:.2f}",
            f"{row.z:+.1f}",
        ]
        for row in rows
    ]
    return heads, lines
