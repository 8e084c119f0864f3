"""Everything the operator's page shows at one time, read from the ledger; no HTML here.

Votes cast by each panelist count those of the open round too: their number is not their content.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from szpo.aggregation.link_test import LinkCheck
from szpo.analysis import evidence, improvement, outlook, overview, taught
from szpo.analysis.agreement import PanelistRow
from szpo.analysis.evidence import RunFacts
from szpo.analysis.improvement import Improvement
from szpo.analysis.outlook import Outlook
from szpo.analysis.overview import Overview
from szpo.analysis.taught import Lesson
from szpo.evaluators.panel_factory import PEOPLE
from szpo.ledger import orders
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.notices import hook_events
from szpo.notices.hook_events import Failure
from szpo.reports.model_card import find_doubt
from szpo.runs import cost_plan
from szpo.training import budget, held_out
from szpo.training.budget import Limits
from szpo.training.held_out import HeldOut
from szpo.training.status import RoundStatus
from szpo.types import Assignment, Comparison
from szpo.voting import calibration, lease, pauses, second_seats, set_aside, steps, triads
from szpo.voting.pauses import PendingPause
from szpo_ui.operator import controls, log
from szpo_ui.operator.log import Line
from szpo_ui.panel.comparison_view import Sheet, sheet
from szpo_ui.web import credentials
from szpo_ui.web.credential_rows import Invited
from szpo_ui.web.site import Site

ONLINE_US: Final = 150_000_000
"""A person seen within this time counts as online, µs; sightings are recorded once a minute."""


@dataclass(frozen=True, slots=True)
class Person:
    """A panelist's figures with their access."""

    row: PanelistRow
    access: Invited | None
    """None for programs."""
    online: bool
    excluded: bool
    cast: int
    """Training comparisons answered, those of the open round too; `row` has the counted ones."""
    second: int = 0
    """Those of them that were answered as a second person."""


@dataclass(frozen=True, slots=True)
class Before:
    """What the page shows before the first round."""

    sheet: Sheet
    real: bool
    """The texts are the first round's; else the practice comparison stands in."""
    minutes: float
    """Reading time of a vote."""
    person_hours: float
    generation_minutes: float | None
    votes: int
    money: float | None
    """What panelists are paid for all of it, where the settings name their pay."""


@dataclass(frozen=True, slots=True)
class OperatorState:
    """Everything that the operator's page shows at one time."""

    version: str
    name: str
    status: RoundStatus
    page: Overview
    facts: RunFacts
    controller: bool
    """A controller drives the run."""
    ended: str | None
    """How the last controller ended, where none is there."""
    people: tuple[Person, ...]
    waiting: tuple[Invited, ...]
    """Invited, but not in the table of panelists yet; operators too."""
    log: tuple[Line, ...]
    limits: Limits
    pending: PendingPause | None
    live: bool
    quorum: float
    orders: tuple[Order, ...]
    blind: bool
    """The run will order a final comparison by itself at its end."""
    samples: Order | None
    before: Before | None
    question: str
    guideline: str
    votes_needed: int
    """Votes from which an operator may close the open round."""
    helped: Improvement
    """Whether the run helped."""
    doubt: str
    """What speaks against handing its adapter on; "" where nothing is known against it."""
    link: LinkCheck | None
    """What triads say of the logistic link; None where none were ordered."""
    held_out: HeldOut | None
    """The last measurement on held-out prompts."""
    hook: Failure | None
    """The last message of the web hook, where it was given up."""
    ahead: Outlook | None
    """What more votes would buy; None under rules that do not look ahead."""
    lesson: Lesson | None
    """What the votes taught; None where coordinates are not named features."""
    aside: tuple[str, ...]
    """Groups of features that votes are not to be about."""

    @property
    def final_open(self) -> bool:
        """A final comparison is under way."""
        return any(o.kind == "final" and o.closed_us is None and not o.error for o in self.orders)


def version(site: Site) -> str:
    """A key that changes with everything on the page except the passing of time."""
    seen = site.status.read().version, _last_event(site.ledger), driven(site.ledger)
    return sha256(canonical(list(seen)))[:16]


def driven(ledger: Ledger) -> bool:
    """Whether a controller holds the run and has renewed its lease lately."""
    row = lease.controller(ledger)
    return lease.is_driven(row["lease"], row["expires_us"], ledger.clock())


def read_state(site: Site) -> OperatorState:
    """Read the state of the page from the ledger."""
    ledger = site.ledger
    live, now = controls.is_live(ledger), site.clock()
    status = site.status.read()
    facts, page, cast, helped, lesson, doubt, ahead = _figures(site, live)
    cast = count(ledger, cast)
    placed = orders.orders(ledger)
    drawn = [o for o in placed if o.kind == "samples" and o.result is not None and not o.error]
    listed = {each.name: each for each in credentials.list_people(ledger)}
    out = controls.list_excluded(ledger)
    people = tuple(
        Person(
            row,
            listed.get(row.name),
            online=_online(listed.get(row.name), now),
            excluded=row.name in out,
            cast=cast.by_name.get(row.name, 0),
            second=cast.second.get(row.name, 0),
        )
        for row in page.panelists
    )
    return OperatorState(
        version=version(site),
        name=ledger.path.stem,
        status=status,
        page=page,
        facts=facts,
        controller=driven(ledger),
        ended=_last_end(ledger),
        people=people,
        waiting=tuple(each for each in listed.values() if each.role == "operator"),
        log=log.read(ledger),
        limits=controls.limits(site),
        pending=pauses.find_pending_pause(ledger),
        live=live,
        quorum=controls.quorum(site),
        orders=tuple(placed),
        blind=site.config.panel.kind == PEOPLE and status.state != "finished",
        samples=drawn[-1] if drawn else None,
        before=_before(site) if not steps.has_opened(ledger) else None,
        question=site.config.panel.question,
        guideline=site.config.panel.guideline,
        votes_needed=math.ceil(status.votes_needed * controls.quorum(site) - 1e-9),
        helped=helped,
        doubt=doubt,
        link=triads.results(ledger),
        held_out=held_out.read(ledger),
        hook=hook_events.last_failure(ledger),
        ahead=ahead,
        lesson=lesson,
        aside=tuple(set_aside.in_force(ledger)),
    )


def _figures(site: Site, live: bool) -> Figures:
    """The figures and the votes cast, computed when a round moves and once a minute.

    Reading thousands of votes takes a good part of a second, which the votes of an open round,
    hidden as they are, are not worth. How many are in, the round's status reports at once.
    """
    ledger = site.ledger
    decided = ledger.query("SELECT max(event) AS event FROM events WHERE kind <> 'rows'")[0]
    states = tuple(row["state"] for row in ledger.steps())
    shown = _last_event(ledger) if live else None
    key = (decided["event"], states, shown, live, ledger.clock() // 60_000_000)

    def read() -> tuple[
        RunFacts, Overview, VotesCast, Improvement, Lesson | None, str, Outlook | None
    ]:
        rows = evidence.read(ledger, live=live)
        page = overview.overview(rows)
        return (
            rows.run, page, count(ledger), improvement.read(ledger), taught.read(ledger),
            find_doubt(ledger), outlook.read(ledger, why=True),
        )  # fmt: skip

    return site.figures.get(key, read)


def _last_event(ledger: Ledger) -> int:
    return int(ledger.query("SELECT max(event) AS event FROM events")[0]["event"])


def _online(access: Invited | None, now: int) -> bool:
    return access is not None and access.seen_us is not None and now - access.seen_us < ONLINE_US


def _last_end(ledger: Ledger) -> str | None:
    found = list(ledger.events("controller ended"))[-1:]
    if not found:
        return None
    code, again = found[0]["body"].get("code"), found[0]["body"].get("again_in_s", 0)
    return f"the last one ended with code {code}" + (
        f" and is started again after {again:.0f} s" if again else ""
    )


# ---- before the first round ----


def _before(site: Site) -> Before:
    ledger, config = site.ledger, site.config
    first = next(iter(ledger.comparisons(0)), None)
    shown = first or calibration.practice_comparison()
    plan = cost_plan.estimate(config, matrix_seconds=_MATRIX_S)
    minutes = controls.reading_minutes(site)
    hours = plan.votes * minutes / 60
    return Before(
        sheet=_sheet(shown),
        real=first is not None,
        minutes=minutes,
        person_hours=hours,
        generation_minutes=plan.generation_minutes,
        votes=plan.votes,
        money=budget.pay(plan.votes, hours, config.panel.pay_per_vote, config.panel.pay_per_hour),
    )


_MATRIX_S: Final = 0.02
"""Assumed time of the 1024³ product from which the time of generation is estimated: two cores."""


def _sheet(comparison: Comparison) -> Sheet:
    order = tuple(range(len(comparison.rows)))
    return sheet(comparison, Assignment("preview", comparison.id, "preview", "A", order, 0))


def columns(samples: Order) -> tuple[Sequence[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """(prompts, [(column's name, [(text, cut at the limit)])]) of an order of samples."""
    result = samples.result or {}
    named = [
        (str(c["name"]), [(str(text), end == "length") for text, end in c["answers"]])
        for c in result.get("columns", [])
    ]
    return result.get("prompts", []), named


@dataclass(frozen=True, slots=True)
class VotesCast:
    """Training comparisons that each panelist has answered, up to a vote."""

    by_name: Mapping[str, int]
    last: int
    second: Mapping[str, int] = field(default_factory=dict)
    """Those of them that were answered as a second person, which no round counts."""


Figures: TypeAlias = tuple[
    RunFacts, Overview, VotesCast, Improvement, Lesson | None, str, Outlook | None
]
"""What is read anew only when a round moves."""


NONE: Final = VotesCast({}, 0)
_CAST: Final = (
    f"SELECT p.pseudonym, count(*) AS n, sum(v.assignment IN {second_seats.SEATS}) AS second "
    "FROM votes v CROSS JOIN assignments a "
    "USING (assignment) CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p "
    "USING (panelist) WHERE v.vote > ? AND v.vote <= ? AND v.revision = 0 "
    "AND c.kind = 'train' GROUP BY p.pseudonym"
)
"""By pseudonym: comparisons answered, and those as a second person; (after, until)."""


def count(ledger: Ledger, before: VotesCast = NONE) -> VotesCast:
    """The votes cast until now, by pseudonym; what ``before`` has counted is not read again.

    A comparison counts once, however often its answer was changed; skips and late votes count.
    """
    found, second = Counter(before.by_name), Counter(before.second)
    last = ledger.query("SELECT coalesce(max(vote), 0) AS vote FROM votes")[0]["vote"]
    for row in ledger.query(_CAST, (before.last, last)):
        found[row["pseudonym"]] += row["n"]
        second[row["pseudonym"]] += row["second"]
    return VotesCast(found, last, second)
