"""The weight of each voter in the next step, under every weighting that learns weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from szpo.ledger import run_spec
from szpo.ledger.database import Ledger
from szpo.optim import all_votes, weighting
from szpo.optim.rules import rule_of
from szpo.optim.weighting import History, View
from szpo.replay import replay
from szpo.replay.replay import read_votes_by_voter
from szpo.voting import counting

LEGEND: Final = (
    "weights: 1 is an equal vote; brackets are 95 % intervals. β: sharpness, how steeply votes "
    "follow differences; the panel's mean is 1. z: agreement with the rest, in standard errors "
    "above chance."
)


@dataclass(frozen=True, slots=True)
class Voter:
    """One voter; intervals are (low, high), 95 %."""

    name: str
    votes: int
    """Counted votes, ties included."""
    in_use: float
    """The voter's weight under the run's own weighting."""
    skill: float
    rationality: float
    beta: float
    beta_interval: tuple[float, float]
    z: float

    @property
    def steepness(self) -> str:
        """β with its interval, in words."""
        low, high = self.beta_interval
        return f"{self.beta:.2f} [{low:.1f}, {high:.1f}]"


def read_history(ledger: Ledger) -> History:
    """Every voter's verdicts in the applied steps, as the weightings read them."""
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
    return found


def voters(ledger: Ledger) -> tuple[Voter, ...]:
    """One row for everybody who has a counted vote, in order of enrolment."""
    past = read_history(ledger)
    if not past.voters:
        return ()
    seen = _views(ledger, past)
    skill = weighting.skill(*seen["skill"])
    steep = weighting.rationality(*seen["rationality"])
    used = {"skill": skill.weights, "rationality": steep.weights}
    in_use = used.get(
        run_spec.recorded_settings(ledger).section.weighting, np.ones(len(past.voters))
    )
    place = {voter: i for i, voter in enumerate(past.voters)}
    people = ledger.query("SELECT panelist, pseudonym FROM panelists ORDER BY rowid")
    columns = [(row["pseudonym"], place.get(row["panelist"])) for row in people]
    return tuple(
        Voter(
            name=name,
            votes=int((past.verdicts[i] != 0).sum()),
            in_use=float(in_use[i]),
            skill=float(skill.weights[i]),
            rationality=float(steep.weights[i]),
            beta=float(steep.beta[i]),
            beta_interval=(float(steep.low[i]), float(steep.high[i])),
            z=float(skill.z[i]),
        )
        for name, i in columns
        if i is not None and past.verdicts[i].any()
    )


def _views(ledger: Ledger, past: History) -> dict[str, tuple[History, None, View | None]]:
    """For each weighting: votes, its own prior, and what the others' votes say of each.

    A rule that fits all votes predicts that; else it is the others' votes on the same direction.
    """
    settings = run_spec.recorded_settings(ledger)
    if not rule_of(settings.section.rule).two_points or not past.verdicts.size:
        return dict.fromkeys(weighting.LEARNED, (past, None, None))
    record = replay.replay_state(ledger, settings).carried
    latest, views = all_votes.views_of_others(settings, record, past, weighting.LEARNED)
    return {name: (latest, None, view) for name, view in views.items()}


def against(rows: Sequence[Voter], weighting_in_use: str) -> list[str]:
    """A sentence for each voter whose votes contradict what the others' votes say."""
    skilled = weighting_in_use == "skill"
    turned = "they are turned round" if skilled else "optimizer.weighting = skill turns them round"
    return [
        f"{row.name} votes against what the others' votes say: z = {row.z:.1f} in {row.votes} "
        f"votes. Ask why; {turned}"
        for row in rows
        if row.z <= -weighting.HOSTILE_Z
    ]


def table(rows: Sequence[Voter]) -> tuple[list[str], list[list[object]]]:
    """Heads and lines for the command line."""
    heads = ["voter", "votes", "in use", "skill", "rationality", "β", "z"]
    lines: list[list[object]] = [
        [
            row.name,
            row.votes,
            f"{row.in_use:.2f}",
            f"{row.skill:.2f}",
            f"{row.rationality:.2f}",
            row.steepness,
            f"{row.z:+.1f}",
        ]
        for row in rows
    ]
    return heads, lines
