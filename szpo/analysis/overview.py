"""The numbers of the operator's page, each with its interval: pure functions of `Evidence`."""

from __future__ import annotations

import itertools
import math
from typing import Any

from szpo.analysis import agreement
from szpo.analysis.vote_rows import Evidence, RunFacts, VoteTotals
from szpo.metrics import (
    Estimate,
    correlation,
    mean,
    quantile,
    rate,
    rescale,
)
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.runs.guards import Bands
from szpo.runs.status import planned_rounds
from szpo.voting.applied_step import StepReport

HOUR_US = 3_600_000_000
WINDOW = 10
"""Steps whose pace is taken for that of those to come."""
ENOUGH_TIMED = 5
"""Votes from which the measured time is used instead of 238 words a minute."""


def overview(evidence: Evidence) -> dict[str, Any]:
    """Every number of the page, as plain values, `Share` and `Estimate`.

    ``health`` has an entry per step, ``panelists`` one per panelist. Times are µs
    since 1970 or seconds, ``speed`` is in votes an hour, ``cost`` in votes and hours.

    ``blind`` is the last blind comparison of the policy with its start.
    """
    progress, speed = _progress(evidence), _speed(evidence)
    return {
        "progress": progress,
        "blind": evidence.run.blind,
        "speed": speed,
        "cost": _cost(evidence, progress, speed),
        "agreement": agreement.agreement(evidence),
        "panelists": agreement.panelists(evidence),
        "length": _length(evidence.totals),
        "health": [_health(step, evidence.run.bands) for step in evidence.steps],
    }


def _progress(evidence: Evidence) -> dict[str, Any]:
    run, steps = evidence.run, evidence.steps
    counted = evidence.totals.steps()
    applied = sum(step.state == "applied" for step in steps)
    spent = sum(step.votes for step in steps if step.state == "applied")  # withdrawn ones too
    by_votes = [n for n in (run.budget, run.limit_votes) if n is not None]
    sizes = [
        step.k * step.n * step.m // run.votes_per_step
        for step in steps
        if step.state in ("open", "closed", "applied")
    ]
    full = sum(sizes[:applied])
    bases = [] if run.planned_steps is None else [run.planned_steps]
    bases += [full + max(0, n - spent) // run.votes_per_step for n in by_votes]
    ends = [planned_rounds(base, sizes) for base in bases]
    ends += [] if run.limit_steps is None else [run.limit_steps]
    planned = max(applied, min(ends)) if ends else None
    at_hand = [step for step in steps if step.state != "applied"]
    # Votes of the rounds still to be answered, less those that the open one has already.
    left = None
    if planned is not None:
        more = (planned - len(sizes)) * (sizes[-1] if sizes else 1) + sum(sizes[applied:])
        left = min([more, *(base - full for base in bases)]) * run.votes_per_step
        left = max(0, left)
    if left is not None and at_hand:
        left = max(0, left - counted[at_hand[0].step] - len(run.hidden_us))
    return {
        "applied": applied,
        "planned": planned,
        "votes": counted.total(),
        "votes_left": left,
    }


def _speed(evidence: Evidence) -> dict[str, Any]:
    """How fast the panel votes, and how long it waits."""
    run, steps = evidence.run, evidence.steps
    # Only first answers: a revision is not another vote.
    first = evidence.totals.first_us
    # Times of people, or of programs where no person voted.
    people = [name for name, kind in evidence.panelists.items() if kind == "person"]
    times = evidence.totals.seconds(people) or evidence.totals.seconds(evidence.totals.voters)
    rounds = [(s.opened_us, s.closed_us or run.as_of_us) for s in steps if s.opened_us is not None]
    open_us = sum(_running(run, begin, end) for begin, end in rounds)
    waiting = None
    if rounds:
        busy = any(s.state in ("planned", "generating", "open", "closed") for s in steps)
        end = run.as_of_us if busy else max(end for _, end in rounds)
        whole = _running(run, rounds[0][0], end)
        waiting = max(0.0, 1 - open_us / whole) if whole else None
    links = {
        "votes": quantile([_running(run, s.opened_us, s.closed_us) / 1e6 for s in steps
                           if s.opened_us is not None and s.closed_us is not None], 0.5),
        "answers": quantile([s.figures["generation_s"] for s in steps
                             if "generation_s" in s.figures], 0.5),
        "update": quantile([(s.applied_us - s.closed_us) / 1e6 for s in steps
                            if s.applied_us is not None and s.closed_us is not None], 0.5),
    }  # fmt: skip
    known = {name: link.value for name, link in links.items() if link.value is not None}
    recent = sum(
        run.as_of_us - HOUR_US < at <= run.as_of_us for at in itertools.chain(first, run.hidden_us)
    )
    return {
        "last_hour": rate(recent, 1.0),
        "overall": rate(len(first) + len(run.hidden_us), open_us / HOUR_US),
        "median": quantile(times, 0.5),
        "p90": quantile(times, 0.9),
        "waiting": waiting,
        "links": links,
        "slowest": max(known, key=lambda name: known[name]) if known else None,
        "fast": evidence.totals.fast,
    }


def _running(run: RunFacts, begin: int, end: int) -> int:
    """µs from begin to end, less those in which the run was paused."""
    paused = ((a, run.as_of_us if b is None else b) for a, b in run.pauses)
    return max(0, end - begin) - sum(max(0, min(end, b) - max(begin, a)) for a, b in paused)


def _cost(evidence: Evidence, done: dict[str, Any], pace: dict[str, Any]) -> dict[str, Any]:
    """Estimate the votes and hours still needed, at the pace of the last ten steps."""
    run, left = evidence.run, done["votes_left"]
    measured = pace["median"].n >= ENOUGH_TIMED
    words = quantile(evidence.totals.words(), 0.5).value
    reading = (words or run.words_per_vote) * 60 / WORDS_PER_MINUTE
    each = pace["median"] if measured else Estimate(reading)
    hours, end = Estimate(), Estimate()
    if left is not None:
        hours = rescale(each, lambda s: s * left / 3600)
        per_step = quantile(_paces(evidence), 0.5)
        steps = (done["planned"] or 0) - done["applied"]
        if steps and per_step.value is not None:
            end = rescale(per_step, lambda s: run.as_of_us + s * steps * 1e6)
    return {
        "votes": left, "seconds_per_vote": each, "measured": measured, "person_hours": hours,
        "end_us": end,
    }  # fmt: skip


def _paces(evidence: Evidence) -> list[float]:
    """Seconds from close to close of the last ten steps, without pauses."""
    ends = [s.closed_us for s in evidence.steps if s.closed_us is not None]
    opened = [s.opened_us for s in evidence.steps if s.opened_us is not None]
    ends = [*opened[:1], *ends]
    both = list(itertools.pairwise(ends))[-WINDOW:]
    return [_running(evidence.run, a, b) / 1e6 for a, b in both]


# ---- texts ----


def _length(totals: VoteTotals) -> dict[str, Estimate]:
    """Whether longer answers win."""
    logs, signs = totals.length_logs, totals.length_signs
    preferred = mean([sign * x for sign, x in zip(signs, logs, strict=True)])
    return {"ratio": rescale(preferred, math.exp), "correlation": correlation(logs, signs)}


def _health(step: StepReport, bands: Bands) -> dict[str, Any]:
    """Figures of a step's answers and weights, and those ``broken``: outside their guard band."""
    names = ("kl", "length", "norm", "identical", "repetition", "distinct")
    figures = {name: getattr(step, name) for name in names}
    known = {name: value for name, value in figures.items() if value is not None}
    broken = bands.outside({**known, **dict.fromkeys(step.not_finite, math.nan)})
    return {"step": step.step, "figures": known, "broken": broken}
