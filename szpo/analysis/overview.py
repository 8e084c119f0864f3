"""The dashboard's numbers: one frozen page of figures, each with its interval, from `evidence`.

Pure: rows in, figures out. The same function makes the operator's page from the ledger and the
figures of an export from its files, so the two agree or a test fails.

The headline is *heading*: a step's direction is drawn at random, and has a side that points along
the path the run took in the ten steps before. Whether the votes go for that side is a fair
question, because the path is older than the votes. A plain mean of plus against minus would be
one half for any run, since which end of a random direction is called plus means nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from szpo.aggregation import win_rates
from szpo.aggregation.win_rates import Said
from szpo.analysis import agreement
from szpo.analysis import progress as run_progress
from szpo.analysis.agreement import SIDES, Agreement, PanelistRow
from szpo.analysis.evidence import WINDOW, Ballot, Evidence, StepRow
from szpo.analysis.progress import Cost, Progress, Speed
from szpo.intervals import Estimate, Share, correlation, log_odds, mapped, mean, share
from szpo.training.guards import Bands


@dataclass(frozen=True, slots=True)
class StepValue:
    """What the votes of a step say."""

    step: int
    votes: int
    plus: int
    minus: int
    ties: int
    raw: Estimate
    """Δ̂ of plus over minus, logistic, a tie half a vote each."""
    heading: Estimate
    """Δ̂ of the side along the path over the other one; nothing where there is no path."""
    unanimous: bool
    """All votes on one side: the estimate is bounded by their number, not by the truth."""
    pooled: Estimate
    """`heading` over the last ten steps up to this one."""


@dataclass(frozen=True, slots=True)
class Improving:
    """Whether the run still goes where the votes want it."""

    heading: Share
    """Votes for the side along the path, last ten steps, ties half each."""
    value: Estimate
    """The same as a value difference."""
    better_side: Share
    """Win rate of a direction's better side, last ten steps, from votes on different
    comparisons; ½ says that panelists cannot tell the sides apart."""
    final: Final | None


@dataclass(frozen=True, slots=True)
class Final:
    """The last blind comparison of the tuned policy with the base."""

    order: int
    """Place among the orders, from 0."""
    tuned: Share
    """Of votes for a side; ties stand apart."""
    ties: int
    skips: int
    untuned: Share
    """The same from panelists who did not vote in training."""
    majorities: Share
    """One verdict per comparison."""


@dataclass(frozen=True, slots=True)
class Length:
    """Whether longer answers win."""

    ratio: Estimate
    """Words of the preferred batch over those of the other: the geometric mean."""
    correlation: Estimate
    """Of votes for plus with plus's greater length (logarithm of the ratio)."""


@dataclass(frozen=True, slots=True)
class Health:
    """Figures of one step's answers and weights."""

    step: int
    figures: Mapping[str, float]
    broken: tuple[str, ...]
    """Figures outside their guard band."""


@dataclass(frozen=True, slots=True)
class Overview:
    """All numbers at one time."""

    as_of_us: int
    progress: Progress
    improving: Improving
    speed: Speed
    cost: Cost
    values: tuple[StepValue, ...]
    agreement: Agreement
    panelists: tuple[PanelistRow, ...]
    length: Length
    health: tuple[Health, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def overview(evidence: Evidence) -> Overview:
    """Every number of the dashboard."""
    values = _values(evidence)
    progress, speed = run_progress.progress(evidence), run_progress.speed(evidence)
    return Overview(
        as_of_us=evidence.run.as_of_us,
        progress=progress,
        improving=_improving(evidence, values),
        speed=speed,
        cost=run_progress.cost(evidence, progress, speed),
        values=values,
        agreement=agreement.agreement(evidence),
        panelists=agreement.panelists(evidence),
        length=_length(evidence),
        health=tuple(_health(step, evidence.run.bands) for step in evidence.steps),
    )


# ---- value ----


def _values(evidence: Evidence) -> tuple[StepValue, ...]:
    by_step: dict[int, list[Ballot]] = defaultdict(list)
    for ballot in evidence.ballots:
        if ballot.counted and ballot.step is not None:
            by_step[ballot.step].append(ballot)
    found: list[StepValue] = []
    along: list[tuple[float, int]] = []
    for step in evidence.steps:
        votes = by_step.get(step.step, [])
        if not votes:
            continue
        hits, of = _along(votes, step.headings)
        along.append((hits, of))
        recent = along[-WINDOW:]
        plus, minus, ties = (_count(votes, v) for v in ("plus", "minus", "tie"))
        found.append(
            StepValue(
                step=step.step,
                votes=len(votes),
                plus=plus,
                minus=minus,
                ties=ties,
                raw=log_odds(plus + ties / 2, len(votes)),
                heading=log_odds(hits, of),
                unanimous=len(votes) in (plus, minus),
                pooled=log_odds(sum(h for h, _ in recent), sum(n for _, n in recent)),
            )
        )
    return tuple(found)


def _count(votes: Sequence[Ballot], verdict: str) -> int:
    return sum(b.verdict == verdict for b in votes)


def _along(votes: Sequence[Ballot], headings: Sequence[float]) -> tuple[float, int]:
    """(votes for the side along the path, votes of directions that have one)."""
    hits, of = 0.0, 0
    for b in votes:
        heading = headings[b.k] if b.k is not None and b.k < len(headings) else 0.0
        if heading:
            of += 1
            hits += 0.5 if b.verdict == "tie" else (b.verdict == "plus") == (heading > 0)
    return hits, of


def _improving(evidence: Evidence, values: Sequence[StepValue]) -> Improving:
    recent = {value.step for value in values[-WINDOW:]}
    votes = [b for b in evidence.ballots if b.counted and b.step in recent]
    headings = {step.step: step.headings for step in evidence.steps}
    parts = [_along([b for b in votes if b.step == s], headings[s]) for s in recent]
    hits, of = sum(h for h, _ in parts), sum(n for _, n in parts)
    return Improving(
        heading=share(hits, of),
        value=log_odds(hits, of),
        better_side=_better_side(votes),
        final=_final(evidence),
    )


def _better_side(votes: Sequence[Ballot]) -> Share:
    """From the agreement a of votes on different comparisons: p = ½(1 + √(2a − 1))."""
    a = agreement.across([b for b in votes if b.verdict in SIDES])
    if not a.of:
        return share(0, 0)
    value, low, high = (win_rates.better_side(2 * x - 1) for x in (a.value or 0.0, a.low, a.high))
    return Share(value * a.of, a.of, low, high)


def _final(evidence: Evidence) -> Final | None:
    asked = [b for b in evidence.ballots if b.kind == "final" and b.standing]
    if not asked:
        return None
    last = max(b.k or 0 for b in asked)
    asked = [b for b in asked if b.k == last]
    tuners = {b.panelist for b in evidence.ballots if b.kind == "train" and b.choice != "skip"}
    found = win_rates.count([Said(b.comparison, b.panelist, b.verdict) for b in asked], tuners)
    return Final(
        order=last,
        tuned=found.everybody.decided,
        ties=found.everybody.ties,
        skips=found.skips,
        untuned=found.others.decided,
        majorities=found.majorities.decided,
    )


# ---- texts ----


def _length(evidence: Evidence) -> Length:
    sided = [
        b for b in evidence.ballots
        if b.counted and b.verdict in SIDES and b.words_plus and b.words_minus
    ]  # fmt: skip
    longer = [math.log(b.words_plus / b.words_minus) for b in sided]
    signs = [1.0 if b.verdict == "plus" else -1.0 for b in sided]
    logs = mean([s * x for s, x in zip(signs, longer, strict=True)])
    return Length(mapped(logs, math.exp), correlation(longer, signs))


def _health(step: StepRow, bands: Bands) -> Health:
    names = ("kl", "length", "norm", "identical", "repetition", "distinct")
    figures = {name: getattr(step, name) for name in names}
    known = {name: value for name, value in figures.items() if value is not None}
    broken = bands.outside({**known, **dict.fromkeys(step.not_finite, math.nan)})
    return Health(step.step, known, broken)
