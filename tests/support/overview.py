"""Evidence from which the operator's page computes its numbers."""

from collections.abc import Sequence
from dataclasses import replace

from szpo.analysis import vote_rows
from szpo.analysis.vote_rows import Evidence, RunFacts, VoteRow
from szpo.runs.guards import Bands
from szpo.voting.applied_step import StepReport

S = 1_000_000
"""One second in µs."""


def ballot(vote: int, verdict: str, **what: object) -> VoteRow:
    """A counted training vote with plus on A."""
    choice = {"plus": "A", "minus": "B"}.get(verdict, verdict)
    base = VoteRow(
        vote=vote, seat=f"s{vote}", revision=0, comparison=f"c{vote}", kind="train", step=0, k=0,
        n=vote, panelist="P-01", plus_side="A", choice=choice, verdict=verdict,
        repeats=None, standing=True, counted=verdict != "skip", late=False, skip_reason=None,
        dwell_ms=60_000, served_us=0, received_us=vote * S, words=238,
        words_plus=100, words_minus=50, fast=False,
    )  # fmt: skip
    return replace(base, **what)  # type: ignore[arg-type]


def step(number: int, **what: object) -> StepReport:
    """An applied step of two comparisons with one vote each, open for 100 s, every 150 s."""
    begin = number * 150 * S
    base = StepReport(
        step=number, state="applied", pairing="antithetic", mu=1.0, k=1, n=2, m=1, votes=2,
        opened_us=begin, closed_us=begin + 100 * S, applied_us=begin + 101 * S,
        figures={"generation_s": 49.0},
    )  # fmt: skip
    return replace(base, **what)  # type: ignore[arg-type]


def page(
    ballots: Sequence[VoteRow], steps: Sequence[StepReport] = (), **what: object
) -> vote_rows.Evidence:
    """Evidence of a run of ten steps of two votes."""
    run = RunFacts(
        planned_steps=10, votes_per_step=2, budget=None,
        words_per_vote=476.0, bands=Bands(), as_of_us=1000 * S, hidden_us=(), pauses=(),
    )  # fmt: skip
    people = dict.fromkeys(sorted({b.panelist for b in ballots}), "person")
    return Evidence(replace(run, **what), tuple(steps or [step(0)]), tuple(ballots), people)  # type: ignore[arg-type]
