"""What a dashboard's numbers rest on: votes, steps and panelists as plain rows of a ledger.

The same rows are written into an export (`szpo.reports.bundle`) and read back from it, so that
whoever has the export can compute every number again. Panelists stand by pseudonym. Votes of the
round that is open are left out unless they are asked for: who steers a panel should not watch it
vote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from szpo import metrics
from szpo.config.run_sections import Panel
from szpo.config.schema import Config
from szpo.ledger import orders, run_spec
from szpo.ledger.database import Ledger, Record
from szpo.ledger.theta import starting_theta
from szpo.optim import parameters
from szpo.replay import replay
from szpo.training import budget, guards
from szpo.training.guards import Bands
from szpo.training.step_report import flatten
from szpo.types import Floats, Kind
from szpo.voting import counting, lease

WINDOW: Final = 10
"""Steps over which votes are pooled."""
HEADING_DIM: Final = 256
"""Up to so many coordinates a direction has a part along the path; above it is noise."""
HEALTH: Final = ("kl", "length", "length_plus", "length_minus", "norm", "identical", "repetition",
                 "distinct")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ballot:
    """One stored vote; a changed vote is several ballots of one seat."""

    vote: int
    seat: str
    revision: int
    comparison: str
    kind: Kind
    step: int | None
    k: int | None
    n: int | None
    panelist: str
    """Pseudonym."""
    plus_side: str
    choice: str
    verdict: str
    expected: str | None
    """What a comparison with a known answer expects: plus, minus or tie."""
    repeats: str | None
    """The comparison that this one shows again."""
    standing: bool
    """The seat's last answer, in time and not excluded."""
    counted: bool
    """Of a training comparison, and used by its step's update."""
    late: bool
    skip_reason: str | None
    rubric_version: int | None
    dwell_ms: int | None
    served_us: int
    received_us: int
    words: int
    """Of the prompts and both answers, in rows that differ."""
    words_plus: int
    words_minus: int
    fast: bool
    """Cast sooner than a quarter of the reading time."""
    device: str | None
    notes: Mapping[str, str] = field(default_factory=dict)
    """Row number → A, tie or B: a panelist's own notes."""

    @property
    def seconds(self) -> float:
        """Time on the page; from showing to answer where the page did not measure it."""
        if self.dwell_ms is not None:
            return self.dwell_ms / 1e3
        return max(0, self.received_us - self.served_us) / 1e6


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step: its plan, its times, its figures."""

    step: int
    state: str
    pairing: str
    mu: float
    k: int
    n: int
    m: int
    d: int
    asked: int
    """Comparisons that were shown."""
    identical_comparisons: int
    """Comparisons that were tied without asking."""
    opened_us: int | None = None
    closed_us: int | None = None
    closed_by: str | None = None
    applied_us: int | None = None
    generation_s: float | None = None
    estimate: float | None = None
    """Δ̂ as the run recorded it, mean over directions."""
    stderr: float | None = None
    headings: tuple[float, ...] = ()
    """Per direction: cosine of v with the path of the last ten steps; empty where unknown."""
    kl: float | None = None
    length: float | None = None
    length_plus: float | None = None
    length_minus: float | None = None
    norm: float | None = None
    identical: float | None = None
    repetition: float | None = None
    distinct: float | None = None
    not_finite: tuple[str, ...] = ()
    """Watched figures that came out as no number; they stand above as unknown."""
    theta_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Panelist:
    """Somebody who may vote, by pseudonym."""

    name: str
    kind: str
    enrolled_us: int


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the numbers need of the run itself."""

    run: str
    name: str
    rule: str
    planned_steps: int | None
    votes_per_step: int
    budget: int | None
    """Votes after which the run ends, by its settings."""
    words_per_vote: float
    """As planned: prompt words are not known before."""
    bands: Bands
    as_of_us: int
    hidden_us: tuple[int, ...]
    """When the votes of the open round came that were left out (first answers), µs."""
    pauses: tuple[tuple[int, int | None], ...]
    limit_steps: int | None = None
    limit_votes: int | None = None
    hidden_final: int = 0
    """Answers to a final comparison that is open."""
    pay_per_hour: float | None = None
    pay_per_vote: float | None = None
    currency: str = "EUR"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All rows."""

    run: RunFacts
    steps: tuple[StepRow, ...]
    ballots: tuple[Ballot, ...]
    panelists: tuple[Panelist, ...]


def read(ledger: Ledger, *, live: bool = False, as_of_us: int | None = None) -> Evidence:
    """The rows of a ledger as they stand.

    ``live`` includes the votes of the open round and of final comparisons that are open.

    ``as_of_us`` is the time for which rates are told, by default the ledger's clock.
    """
    rows = ledger.steps()
    shut = _shut(ledger, rows)
    ballots = _ballots(ledger, [row["step"] for row in rows])
    shown = [b for b in ballots if live or shut(b)]
    hidden = [b for b in ballots if not (live or shut(b)) and not b.revision]
    people = ledger.query("SELECT * FROM panelists ORDER BY rowid")
    return Evidence(
        run=_run(
            ledger,
            ledger.clock() if as_of_us is None else as_of_us,
            hidden,
        ),
        steps=_steps(ledger, rows),
        ballots=tuple(shown),
        panelists=tuple(Panelist(p["pseudonym"], p["kind"], p["created_us"]) for p in people),
    )  # fmt: skip


def _shut(ledger: Ledger, rows: Sequence[Record]) -> Callable[[Ballot], bool]:
    """Whether what a vote is about takes no more votes, so that its operator may see it."""
    closed = {row["step"] for row in rows if row["state"] in ("closed", "applied", "void")}
    asking = {
        comparison
        for order in orders.results(ledger, "final")
        if order.closed_us is None
        for comparison in orders.comparisons(order)
    }

    def shut(ballot: Ballot) -> bool:
        if ballot.kind == "train":
            return ballot.step in closed
        return ballot.comparison not in asking

    return shut


def _run(ledger: Ledger, as_of_us: int, hidden: Sequence[Ballot]) -> RunFacts:
    recorded = ledger.spec.get("config")
    config = None if recorded is None else Config.model_validate(recorded)
    panel = Panel() if config is None else config.panel
    chosen = ledger.spec.get("optimizer", {})
    k, n, m = (int(chosen.get(key, 1)) for key in ("K", "N", "M"))
    found = budget.read_limits(ledger)
    return RunFacts(
        run=ledger.run,
        name=str((recorded or {}).get("run", {}).get("name") or ledger.path.stem),
        rule=str(chosen.get("rule", "–")),
        planned_steps=None if config is None else config.steps,
        votes_per_step=k * n * m,
        budget=None if config is None else config.run.votes,
        words_per_vote=Config().words_per_vote if config is None else config.words_per_vote,
        bands=Bands() if config is None else guards.bands(config.guards),
        as_of_us=as_of_us,
        hidden_us=tuple(b.received_us for b in hidden if b.kind == "train"),
        hidden_final=sum(b.kind == "final" for b in hidden),
        pauses=tuple(lease.pauses(ledger)),
        limit_steps=found.step,
        limit_votes=found.votes,
        pay_per_hour=panel.pay_per_hour,
        pay_per_vote=panel.pay_per_vote,
        currency=panel.currency,
    )


# ---- votes ----

_VOTES: Final = (
    "SELECT v.*, a.comparison, a.plus_side, a.served_us, c.kind, c.step, c.k, c.n, c.expected, "
    "c.repeats, p.pseudonym, a.panelist "
    "FROM votes v JOIN assignments a USING (assignment) JOIN comparisons c USING (comparison) "
    "JOIN panelists p USING (panelist) ORDER BY v.vote"
)


_APART: Final[tuple[Kind, ...]] = ("gold", "aa", "repeat", "final", "practice")
"""Kinds of comparisons that belong to no step."""


def _ballots(ledger: Ledger, steps: Sequence[int]) -> list[Ballot]:
    rows = ledger.query(_VOTES)
    standing = {cast.number for cast in counting.answers(ledger, *_APART)}
    counted: set[int] = set()
    for step in steps:
        stand, count = counting.StepVotes(ledger, step).ids()
        standing |= stand
        counted |= count
    words = _words(ledger)
    ballots = []
    for row in rows:
        details = json.loads(row["details"] or "{}")
        prompt, plus, minus = words.get(row["comparison"], (0, 0, 0))
        ballots.append(
            Ballot(
                vote=row["vote"], seat=row["assignment"], revision=row["revision"],
                comparison=row["comparison"], kind=row["kind"], step=row["step"], k=row["k"],
                n=row["n"], panelist=row["pseudonym"], plus_side=row["plus_side"],
                choice=row["choice"], verdict=counting.verdict(row["choice"], row["plus_side"]),
                expected=row["expected"], repeats=row["repeats"], standing=row["vote"] in standing,
                counted=row["vote"] in counted, late=bool(row["late"]),
                skip_reason=row["skip_reason"],
                rubric_version=row["rubric_version"], dwell_ms=row["dwell_ms"],
                served_us=row["served_us"], received_us=row["received_us"],
                words=prompt + plus + minus, words_plus=plus, words_minus=minus,
                fast=details.get("fast") is True, device=_text(details.get("device")),
                notes=_notes(details.get("notes")),
            )
        )  # fmt: skip
    return ballots


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _notes(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {str(row): note for row, note in value.items() if note in ("A", "tie", "B")}


def _words(ledger: Ledger) -> dict[str, tuple[int, int, int]]:
    """(prompt, plus, minus) words in the rows that differ, of the comparisons voted on."""
    found: dict[str, tuple[int, int, int]] = {}
    for row in ledger.query(
        "SELECT comparison, prompt, plus, minus FROM answers WHERE plus <> minus "
        "AND comparison IN (SELECT comparison FROM assignments)"
    ):
        prompt, plus, minus = found.get(row["comparison"], (0, 0, 0))
        asked = json.loads(row["prompt"])[-1][1]
        found[row["comparison"]] = (
            prompt + len(asked.split()),
            plus + len(row["plus"].split()),
            minus + len(row["minus"].split()),
        )
    return found


# ---- steps ----


def _steps(ledger: Ledger, rows: Sequence[Record]) -> tuple[StepRow, ...]:
    told = _figures(ledger, ("generated", "step"))
    updates: dict[int, list[Record]] = {}
    for update in ledger.update_rows():
        updates.setdefault(update["step"], []).append(update)
    asked = {
        row["step"]: (row["asked"], row["same"])
        for row in ledger.query(
            "SELECT step, sum(identical = 0) AS asked, sum(identical) AS same FROM comparisons "
            "WHERE kind = 'train' GROUP BY step"
        )
    }
    headings, variety = _headings(ledger), _variety(ledger)
    made = []
    for row in rows:
        step = row["step"]
        figures, moved = told.get(step, {}), updates.get(step, [])
        known = [u["estimate"] for u in moved if u["estimate"] is not None]
        errors = [u["stderr"] for u in moved if u["stderr"] is not None]
        health = {name: _number(figures.get(name)) for name in HEALTH}
        health["distinct"] = variety.get(step)
        made.append(
            StepRow(
                step=step, state=row["state"], pairing=row["pairing"], mu=row["mu"], k=row["k"],
                n=row["n"], m=row["m"], d=row["d"],
                asked=asked.get(step, (0, 0))[0], identical_comparisons=asked.get(step, (0, 0))[1],
                opened_us=row["opened_us"], closed_us=row["closed_us"],
                closed_by=row["closed_by"],
                applied_us=moved[-1]["applied_us"] if moved else None,
                generation_s=_number(figures.get("generation_s")),
                estimate=sum(known) / len(known) if known else None,
                stderr=sum(e * e for e in errors) ** 0.5 / len(errors) if errors else None,
                headings=headings.get(step, ()),
                not_finite=tuple(figures.get("not_finite", ())),
                theta_sha256=moved[-1]["theta_sha256"] if moved else None,
                **health,
            )
        )  # fmt: skip
    return tuple(made)


def _figures(ledger: Ledger, kinds: Iterable[str]) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for kind in kinds:
        for event in ledger.events(kind):
            body = event["body"]
            kept = {name: value for name, value in body.items() if value is not None}
            if kind == "step":  # there the time also has what the step waited
                kept.pop("generation_s", None)
            found.setdefault(body["step"], {}).update(kept)
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _variety(ledger: Ledger) -> dict[int, float]:
    """Different word pairs over all word pairs of a step's answers."""
    texts: dict[int, list[str]] = {}
    for row in ledger.query(
        "SELECT c.step, a.plus, a.minus FROM comparisons c JOIN answers a USING (comparison) "
        "WHERE c.kind = 'train' ORDER BY c.step, c.k, c.n, a.i"
    ):
        texts.setdefault(row["step"], []).extend((row["plus"], row["minus"]))
    return {step: metrics.distinct_n(both) for step, both in texts.items()}


def _headings(ledger: Ledger) -> dict[int, tuple[float, ...]]:
    """How far each direction points along the last ten steps' path, known before its votes.

    A step's direction is drawn without regard to the path, and the path without regard to the
    step's votes; so whether those votes go along with it is a fair question.
    """
    if "space" not in ledger.spec or "rule" not in ledger.spec.get("optimizer", {}):
        return {}
    settings = run_spec.recorded_settings(ledger)
    if settings.space.dim > HEADING_DIM:
        return {}
    places = [flatten(starting_theta(ledger), ledger.layout)]
    steps = []
    theta = starting_theta(ledger)
    for step, updates in replay.added(ledger, settings):
        for update in updates:
            theta = parameters.apply_update(settings.space, theta, update)
        places.append(flatten(theta, ledger.layout))
        steps.append(step)
    found: dict[int, tuple[float, ...]] = {}
    for row in ledger.steps():
        behind = sum(step < row["step"] for step in steps)
        path = places[behind] - places[max(0, behind - WINDOW)]
        if behind and np.linalg.norm(path) > 0:
            found[row["step"]] = tuple(
                _cosine(parameters.direction_vector(settings.space, row["step"], k), path)
                for k in range(row["k"])
            )
    return found


def _cosine(v: Floats, path: Floats) -> float:
    size = float(np.linalg.norm(v) * np.linalg.norm(path))
    return round(float(v @ path) / size, 9) if size else 0.0
