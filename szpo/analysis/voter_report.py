"""The weight of each voter in the next step, under every weighting that learns weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.aggregation import dawid_skene as onecoin
from szpo.aggregation import noisy_bradley_terry, rationality, registry, weighting
from szpo.aggregation.crowdkit import one_coin
from szpo.aggregation.weighting import History
from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.optim import weighted_votes
from szpo.optim.rules.registry import rule_of
from szpo.replay import replay
from szpo.types import Floats
from szpo.voting import counting
from szpo.voting.votes_by_voter import read_votes_by_voter

LEGEND: Final = (
    "weights: 1 is an equal vote; brackets are 95 % intervals. β: sharpness, how steeply votes "
    "follow differences; the panel's mean is 1. z: agreement with the rest, in standard errors "
    "above chance. dawid-skene: only from comparisons with several votes. looks: share of votes "
    "that were no coin flip (noisy Bradley–Terry)."
)


@dataclass(frozen=True, slots=True)
class Voter:
    """One voter; intervals are (low, high), 95 %."""

    name: str
    votes: int
    """Counted votes, ties included."""
    in_use: float
    """By the run's own weighting."""
    skill: float
    rationality: float
    beta: float
    beta_interval: tuple[float, float]
    z: float
    dawid_skene: float | None
    """None for a voter without a vote on a comparison that others answered too."""
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    looks: float
    looks_interval: tuple[float, float]
    crowd_kit: float | None
    """crowd-kit's accuracy, where it was asked for."""


def read_history(ledger: Ledger) -> History:
    """Every voter's verdicts in the applied steps, as the weightings read them."""
    settings = run_spec.recorded_settings(ledger)
    found = History.empty(settings.N)
    for row in ledger.steps():
        if row["state"] != "applied":
            continue
        step = counting.StepVotes(ledger, row["step"])
        counts = step.tally(settings.K, settings.N)
        by_voter = read_votes_by_voter(ledger, settings, step.step, step.counted, counts)
        found = weighting.remember(found, step.step, by_voter)
    return found


def voters(ledger: Ledger, *, crowd: bool = False) -> tuple[Voter, ...]:
    """One row for everybody who has a counted vote, in order of enrolment.

    Raises:
        UsageError: ``crowd`` and crowd-kit is not installed.
    """
    past = read_history(ledger)
    if not past.voters:
        return ()
    in_use = _weights_in_use(ledger, past)
    skill, steep = weighting.skill(past), rationality.rationality(past)
    coin, looks = onecoin.dawid_skene(past), noisy_bradley_terry.noisy_bt(past)
    other = one_coin(past) if crowd else np.full(len(past.voters), np.nan)
    shared = (past.verdicts != 0) & ((np.abs(past.verdicts) == 1).sum(0) > 1)
    rows = []
    for name, i in _columns(ledger, past):
        compared = bool(shared[i].any())
        rows.append(
            Voter(
                name=name,
                votes=int((past.verdicts[i] != 0).sum()),
                in_use=float(in_use[i]),
                skill=float(skill.weights[i]),
                rationality=float(steep.weights[i]),
                beta=float(steep.beta[i]),
                beta_interval=(float(steep.low[i]), float(steep.high[i])),
                z=float(steep.z[i]),
                dawid_skene=float(coin.weights[i]) if compared else None,
                accuracy=float(coin.accuracy[i]) if compared else None,
                accuracy_interval=(float(coin.low[i]), float(coin.high[i])) if compared else None,
                looks=float(looks.skill[i]),
                looks_interval=(float(looks.low[i]), float(looks.high[i])),
                crowd_kit=None if np.isnan(other[i]) else float(other[i]),
            )
        )
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class VoterWeight:
    """What a run's page shows of a voter."""

    in_use: float
    """By the run's own weighting."""
    beta: float
    beta_interval: tuple[float, float]


def weights(ledger: Ledger) -> dict[str, VoterWeight]:
    """By name everybody who has a counted vote: the part of `voters` that is quick to compute."""
    past = read_history(ledger)
    if not past.voters:
        return {}
    in_use, steep = _weights_in_use(ledger, past), rationality.rationality(past)
    return {
        name: VoterWeight(
            float(in_use[i]), float(steep.beta[i]), (float(steep.low[i]), float(steep.high[i]))
        )
        for name, i in _columns(ledger, past)
    }


def _weights_in_use(ledger: Ledger, past: History) -> Floats:
    """Every voter's weight (P,) by the run's own weighting."""
    settings = run_spec.recorded_settings(ledger)
    if settings.weighting not in registry.LEARNED:
        return np.ones(len(past.voters))
    rule = rule_of(settings.rule)
    if not rule.two_points:
        return weighted_votes.learn_weights(settings.weighting, past)
    state = replay.replay_state(ledger, settings)
    learn = rule.past(settings, state.carried).weights
    return np.ones(len(past.voters)) if learn is None else learn(past)


def _columns(ledger: Ledger, past: History) -> Iterator[tuple[str, int]]:
    """Name and column of everybody who has a counted vote, in order of enrolment."""
    place = {voter: i for i, voter in enumerate(past.voters)}
    for person in ledger.query("SELECT panelist, pseudonym FROM panelists ORDER BY rowid"):
        i = place.get(person["panelist"])
        if i is not None and past.verdicts[i].any():
            yield person["pseudonym"], i


def table(rows: Sequence[Voter]) -> tuple[list[str], list[list[object]]]:
    """Heads and lines for the command line; columns that say nothing of anybody are left out."""
    columns: dict[str, list[object]] = {
        "voter": [row.name for row in rows],
        "votes": [row.votes for row in rows],
        "in use": [_format(row.in_use) for row in rows],
        "skill": [_format(row.skill) for row in rows],
        "rationality": [_format(row.rationality) for row in rows],
        "β": [_format_interval(row.beta, row.beta_interval) for row in rows],
        "z": [f"{row.z:+.1f}" for row in rows],
        "dawid-skene": [_format(row.dawid_skene) for row in rows],
        "accuracy": [_format_interval(row.accuracy, row.accuracy_interval) for row in rows],
        "looks": [_format_interval(row.looks, row.looks_interval) for row in rows],
        "crowd-kit": [_format(row.crowd_kit) for row in rows],
    }
    shown = {head: lines for head, lines in columns.items() if set(lines) != {"–"}}
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _format_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return "–"
    return f"{value:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"
