"""The rows that a dashboard's numbers are computed from: votes, steps and panelists of a ledger.

Panelists are named by pseudonym. Votes of the open round are left out by default: an operator
should not watch a panel vote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np

from szpo import metrics
from szpo.analysis.vote_rows import VoteRow, VoteRows, VoteTotals, total_votes
from szpo.config.schema import Config
from szpo.ledger import canonical, orders, run_spec
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta
from szpo.optim import parameters
from szpo.optim.rule import perturbations
from szpo.replay import replay
from szpo.runs import budget, guards
from szpo.runs.guards import Bands
from szpo.types import Floats
from szpo.voting import pauses
from szpo.voting.step_record import StepReport, flatten, read_steps
from szpo.voting.steps import recorded_query

WINDOW: Final = 10
"""Steps over which votes are pooled."""
HEADING_DIM: Final = 256
"""The most coordinates for which headings are computed; with more, headings are noise."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about the run itself that the numbers need."""

    planned_steps: int | None
    votes_per_step: int
    budget: int | None
    """Votes after which the run ends, by its settings."""
    words_per_vote: float
    """Planned words of the answers that a vote reads; words of prompts are not known before."""
    bands: Bands
    as_of_us: int
    hidden_us: tuple[int, ...]
    """Times of the first answers in the open round, whose votes are left out, µs since 1970."""
    pauses: tuple[tuple[int, int | None], ...]
    limit_steps: int | None = None
    limit_votes: int | None = None
    hidden_final: int = 0
    """How many first answers to open final comparisons are left out."""
    finals: tuple[str | None, ...] = ()
    """For each final comparison, the digest of the tuned weights; None before it is drawn."""


@dataclass(frozen=True)
class Evidence:
    """All rows that the dashboard's numbers are computed from."""

    run: RunFacts
    steps: tuple[StepReport, ...]
    votes: Iterable[VoteRow]
    """In order; each iteration begins anew, and may read the ledger again."""
    panelists: Mapping[str, str]
    """The kind of each panelist, by pseudonym, in order of enrolment."""

    @cached_property
    def totals(self) -> VoteTotals:
        """Totals of the votes, computed at first use."""
        return total_votes(self.votes)


def read(ledger: Ledger, *, live: bool = False) -> Evidence:
    """Read the rows of a ledger as they stand; votes are read only when they are iterated.

    Args:
        ledger: a run's ledger; keep it open as long as the votes are used.
        live: include the votes of the open round and of final comparisons that are open.
    """
    hidden = frozenset() if live else open_comparisons(ledger)
    people = ledger.query("SELECT * FROM panelists ORDER BY rowid")
    headings, distinct = _headings(ledger), _distinct_pairs(ledger)
    return Evidence(
        run=_run(ledger, hidden),
        steps=tuple(
            replace(row, headings=headings.get(row.step, ()), distinct=distinct.get(row.step))
            for row in read_steps(ledger)
        ),
        votes=VoteRows(ledger, without=hidden),
        panelists={p["pseudonym"]: p["kind"] for p in people},
    )


def open_comparisons(ledger: Ledger) -> frozenset[str]:
    """Comparisons that still take votes: of rounds that are not closed, and open final ones."""
    final = [
        comparison
        for order in orders.results(ledger, "final")
        if order.closed_us is None
        for comparison in orders.comparisons(order)
    ]
    train = ledger.query(
        "SELECT c.comparison FROM steps s CROSS JOIN comparisons c USING (run, step) "
        "WHERE c.kind = 'train' AND s.state NOT IN ('closed', 'applied')"
    )
    return frozenset([*final, *(row["comparison"] for row in train)])


def _run(ledger: Ledger, hidden: Collection[str]) -> RunFacts:
    config = run_spec.recorded_config(ledger)
    optimizer = ledger.spec.get("optimizer", {})
    k, n, m = (int(optimizer.get(key, 1)) for key in ("K", "N", "M"))
    limits = budget.read_limits(ledger)
    first = ledger.query(  # of each seat, in order
        "SELECT c.kind, v.received_us FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE v.revision = 0 AND c.comparison IN "
        "(SELECT value FROM json_each(?)) ORDER BY v.vote",
        (canonical.canonical(sorted(hidden)),),
    )
    return RunFacts(
        planned_steps=None if config is None else config.steps,
        votes_per_step=k * n * m,
        budget=None if config is None else config.run.votes,
        words_per_vote=Config().words_per_vote if config is None else config.words_per_vote,
        bands=Bands() if config is None else guards.bands(config.guards),
        as_of_us=ledger.clock(),
        hidden_us=tuple(row["received_us"] for row in first if row["kind"] == "train"),
        hidden_final=sum(row["kind"] == "final" for row in first),
        finals=tuple(
            (order.result or {}).get("tuned_sha256") for order in orders.orders(ledger, "final")
        ),
        pauses=tuple(pauses.list_pauses(ledger)),
        limit_steps=limits.step,
        limit_votes=limits.votes,
    )


# ---- steps ----


def _distinct_pairs(ledger: Ledger) -> dict[int, float]:
    """Distinct-2 of each step's answers: different word pairs over all word pairs."""
    rows = ledger.stream(
        "SELECT c.step, a.plus, a.minus FROM comparisons c JOIN answers a USING (comparison) "
        "WHERE c.kind = 'train' ORDER BY c.step, c.k, c.n, a.i"
    )
    return {
        step: metrics.distinct_n([row[side] for row in own for side in ("plus", "minus")])
        for step, own in groupby(rows, key=lambda row: row["step"])
    }


def _headings(ledger: Ledger) -> dict[int, tuple[float, ...]]:
    """The cosine of each direction of a step with the path of the ten steps before, by step.

    Directions and path are fixed before the step's votes, and the sign of a direction is drawn
    without regard to the path. So it is a fair question whether the votes follow the path. Rows
    that are pairs of the policy's own answers have no direction.
    """
    if "space" not in ledger.spec or "rule" not in ledger.spec.get("optimizer", {}):
        return {}
    settings = run_spec.recorded_settings(ledger)
    if settings.space.dim > HEADING_DIM:
        return {}
    places = [flatten(starting_theta(ledger), ledger.layout)]
    steps = []
    theta = starting_theta(ledger)
    for step, updates in replay.read_applied_updates(ledger, settings):
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
        places.append(flatten(theta, ledger.layout))
        steps.append(step)
    found: dict[int, tuple[float, ...]] = {}
    for row in ledger.steps():
        behind = sum(step < row["step"] for step in steps)
        path = places[behind] - places[max(0, behind - WINDOW)]
        if behind and row["pairing"] != "pool" and np.linalg.norm(path) > 0:
            query = recorded_query(ledger, settings, row["step"], row["mu"])
            grid, _ = perturbations(settings, query, None).directions()
            found[row["step"]] = tuple(
                _cosine(v, path) if settings.perturbs(row["step"], k) else 0.0
                for k, v in enumerate(grid)
            )
    return found


def _cosine(v: Floats, path: Floats) -> float:
    size = float(np.linalg.norm(v) * np.linalg.norm(path))
    return round(float(v @ path) / size, 9) if size else 0.0
