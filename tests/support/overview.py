"""The numbers of the operator's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from szpo.analysis import evidence
from szpo.analysis.evidence import Evidence, Panelist, RunFacts
from szpo.analysis.vote_rows import VoteRow
from szpo.ledger import orders
from szpo.training.guards import Bands
from szpo.training.results import StepRow
from szpo.types import Answer, Comparison, Prompt, Row
from tests.support.browser import Stage

S = 1_000_000
"""One second in µs."""


def ballot(vote: int, verdict: str, **what: object) -> VoteRow:
    """A counted training vote with plus on A."""
    choice = {"plus": "A", "minus": "B"}.get(verdict, verdict)
    base = VoteRow(
        vote=vote, seat=f"s{vote}", revision=0, comparison=f"c{vote}", kind="train", step=0, k=0,
        n=vote, panelist="P-01", plus_side="A", choice=choice, verdict=verdict, expected=None,
        repeats=None, standing=True, counted=verdict != "skip", late=False, skip_reason=None,
        rubric_version=1, dwell_ms=60_000, served_us=0, received_us=vote * S, words=238,
        words_plus=100, words_minus=50, fast=False, device=None,
    )  # fmt: skip
    return replace(base, **what)  # type: ignore[arg-type]


def step(number: int, **what: object) -> StepRow:
    """An applied step of two comparisons with one vote each, open for 100 s, 50 s apart."""
    begin = number * 150 * S
    base = StepRow(
        step=number, state="applied", pairing="antithetic", mu=1.0, k=1, n=2, m=1, d=3, asked=2,
        identical_comparisons=0, opened_us=begin, closed_us=begin + 100 * S, closed_by="rule",
        applied_us=begin + 101 * S, generation_s=49.0,
    )  # fmt: skip
    return replace(base, **what)  # type: ignore[arg-type]


def page(
    ballots: Sequence[VoteRow], steps: Sequence[StepRow] = (), **what: object
) -> evidence.Evidence:
    """Evidence of a run of ten steps of two votes."""
    run = RunFacts(
        run="r", name="run", rule="known", planned_steps=10, votes_per_step=2, budget=None,
        words_per_vote=476.0, bands=Bands(), as_of_us=1000 * S, hidden_us=(), pauses=(),
    )  # fmt: skip
    names = sorted({b.panelist for b in ballots})
    people = tuple(Panelist(name, "person", 0) for name in names)
    return Evidence(replace(run, **what), tuple(steps or [step(0)]), tuple(ballots), people)  # type: ignore[arg-type]


def answered_final(stage: Stage) -> int:
    """A final order of three comparisons, open, with six answers: three tuned, one base, one tie
    and a skip; its number."""
    ledger, service = stage.ledger, stage.site.service
    order = orders.place_order(ledger, "final", "olga", {"comparisons": 3})
    rows = [Row(Prompt.user("q?"), *(Answer(f"{word} {n}") for word in ("new", "old")))
            for n in range(3)]  # fmt: skip
    made = [Comparison(f"f{n}", -1, 0, n, (rows[n],), kind="final") for n in range(3)]
    body = {"comparisons": [c.id for c in made], "rows": 1, "after": 2,
            "tuned_sha256": "0", "base_sha256": "1"}  # fmt: skip
    with ledger.transaction("controller"):
        assert orders.settle(ledger, orders.get(ledger, order), body)
        for comparison in made:
            ledger.append_comparison(comparison)
    people = [service.enroll("person", name) for name in ("P-01", "P-02", "P-03")]
    for place, (person, choice) in enumerate(
        zip(people * 2, ["A", "A", "B", "tie", "skip", "A"], strict=True)
    ):
        seat = f"seat-{place:016}"
        with ledger.transaction("votes"):
            ledger.append("assignments", {
                "assignment": seat, "comparison": made[place // 3].id, "panelist": person,
                "plus_side": "A", "prompt_order": "[0]", "served_us": 0, "expires_us": 2**60,
                "tab": None,
            })  # fmt: skip
            ledger.append("votes", {
                "assignment": seat, "revision": 0, "choice": choice, "late": False,
                "idem": seat, "payload_sha256": "0" * 64, "received_us": 0,
            })  # fmt: skip
    return order
