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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from szpo.aggregation import win_rates
from szpo.analysis import agreement
from szpo.analysis import progress as run_progress
from szpo.analysis.agreement import Agreement, PanelistRow
from szpo.analysis.evidence import WINDOW, Evidence
from szpo.analysis.progress import Cost, Progress, Speed
from szpo.analysis.vote_totals import VoteTotals
from szpo.intervals import Estimate, Share, correlation, log_odds, mean, rescale, share
from szpo.training.guards import Bands
from szpo.training.step_rows import StepRow
from szpo.voting import finals


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
        length=_length(evidence.totals),
        health=tuple(_health(step, evidence.run.bands) for step in evidence.steps),
    )


# ---- value ----


def _values(evidence: Evidence) -> tuple[StepValue, ...]:
    by_step: dict[int | None, dict[int | None, Counter[str]]] = {}
    for (number, k), counts in evidence.totals.directions().items():
        by_step.setdefault(number, {})[k] = counts
    found: list[StepValue] = []
    along: list[tuple[float, int]] = []
    for step in evidence.steps:
        if step.step not in by_step:
            continue
        directions = by_step[step.step]
        whole = sum(directions.values(), Counter[str]())
        votes, plus, minus, ties = whole.total(), whole["plus"], whole["minus"], whole["tie"]
        hits, of = _along(directions, step.headings)
        along.append((hits, of))
        recent = along[-WINDOW:]
        found.append(
            StepValue(
                step=step.step,
                votes=votes,
                plus=plus,
                minus=minus,
                ties=ties,
                raw=log_odds(plus + ties / 2, votes),
                heading=log_odds(hits, of),
                unanimous=votes in (plus, minus),
                pooled=log_odds(sum(h for h, _ in recent), sum(n for _, n in recent)),
            )
        )
    return tuple(found)


def _along(
    directions: Mapping[int | None, Counter[str]], headings: Sequence[float]
) -> tuple[float, int]:
    """(votes for the side along the path, votes of directions that have one)."""
    hits, of = 0.0, 0
    for k, counts in directions.items():
        heading = headings[k] if k is not None and k < len(headings) else 0.0
        if heading:
            of += counts.total()
            hits += counts["tie"] / 2 + counts["plus" if heading > 0 else "minus"]
    return hits, of


def _improving(evidence: Evidence, values: Sequence[StepValue]) -> Improving:
    recent = {value.step for value in values[-WINDOW:]}
    headings = {step.step: step.headings for step in evidence.steps}
    hits, of = 0.0, 0
    for (step, k), counts in evidence.totals.directions().items():
        if step in recent:
            own, votes = _along({k: counts}, headings[step])
            hits, of = hits + own, of + votes
    return Improving(
        heading=share(hits, of),
        value=log_odds(hits, of),
        better_side=_better_side(agreement.across(evidence.totals, recent)),
        final=_final(evidence),
    )


def _better_side(a: Share) -> Share:
    """From the agreement a of votes on different comparisons: p = ½(1 + √(2a − 1))."""
    if not a.of:
        return share(0, 0)
    value, low, high = (win_rates.better_side(2 * x - 1) for x in (a.value or 0.0, a.low, a.high))
    return Share(value * a.of, a.of, low, high)


def _final(evidence: Evidence) -> Final | None:
    counted = finals.results(evidence.totals.final, evidence.totals.trainers)
    if counted is None:
        return None
    order, found = counted
    return Final(
        order=order,
        tuned=found.everybody.decided,
        ties=found.everybody.ties,
        skips=found.skips,
        untuned=found.others.decided,
        majorities=found.majorities.decided,
    )


# ---- texts ----


def _length(totals: VoteTotals) -> Length:
    logs, signs = totals.length_logs, totals.length_signs
    preferred = mean([sign * x for sign, x in zip(signs, logs, strict=True)])
    return Length(rescale(preferred, math.exp), correlation(logs, signs))


def _health(step: StepRow, bands: Bands) -> Health:
    names = ("kl", "length", "norm", "identical", "repetition", "distinct")
    figures = {name: getattr(step, name) for name in names}
    known = {name: value for name, value in figures.items() if value is not None}
    broken = bands.outside({**known, **dict.fromkeys(step.not_finite, math.nan)})
    return Health(step.step, known, broken)
