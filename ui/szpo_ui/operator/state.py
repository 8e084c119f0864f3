"""Everything the operator's page shows at one time, read from the ledger; no HTML here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from szpo.aggregation.link_test import LinkCheck
from szpo.analysis import evidence, improvement, outlook, overview
from szpo.analysis.agreement import PanelistRow
from szpo.analysis.evidence import RunFacts
from szpo.analysis.improvement import Improvement
from szpo.analysis.outlook import Outlook
from szpo.analysis.overview import Overview
from szpo.ledger import orders
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.runs import cost_plan
from szpo.training import budget, held_out
from szpo.training.budget import Limits
from szpo.training.held_out import HeldOut
from szpo.training.status import RoundStatus
from szpo.types import Assignment, Comparison
from szpo.voting import calibration, lease, pauses, triads
from szpo.voting.pauses import PendingPause
from szpo_ui.operator import controls, votes_cast
from szpo_ui.operator.votes_cast import VotesCast
from szpo_ui.panel.comparison_view import Sheet, sheet
from szpo_ui.web import credentials
from szpo_ui.web.credential_rows import Invited
from szpo_ui.web.markup import whole
from szpo_ui.web.site import Site

EVENTS: Final = 80
"""Events shown, newest first."""
ONLINE_US: Final = 150_000_000
"""A person seen within this time counts as online, µs; sightings are recorded once a minute."""
HIDDEN_EVENTS: Final = ("rows", "generated", "step", "consent", "measured")
"""Kinds of events that the log leaves out: other lines report them, or they are private."""


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


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log."""

    at_us: int
    who: str
    text: str


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
    samples: Order | None
    before: Before | None
    question: str
    guideline: str
    votes_needed: int
    """Votes from which an operator may close the open round."""
    helped: Improvement
    """Whether the run helped."""
    link: LinkCheck | None
    """What triads say of the logistic link; None where none were ordered."""
    held_out: HeldOut | None
    """The last measurement on held-out prompts."""
    ahead: Outlook | None
    """What more votes would buy; None under rules that do not look ahead."""


def version(site: Site) -> str:
    """A key that changes with everything on the page except the passing of time."""
    seen = site.status.read().version, _last_event(site.ledger), driven(site.ledger)
    return sha256(canonical(list(seen)))[:16]


def driven(ledger: Ledger) -> bool:
    """Whether a controller holds the run and has renewed its lease lately."""
    row = lease.controller(ledger)
    return row["lease"] is not None and row["expires_us"] > ledger.clock()


def read_state(site: Site) -> OperatorState:
    """Read the state of the page from the ledger."""
    ledger = site.ledger
    live, now = controls.is_live(ledger), site.clock()
    status, (facts, page, cast, helped) = site.status.read(), _figures(site, live)
    cast = votes_cast.count(ledger, cast)
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
        log=_log(ledger),
        limits=controls.limits(site),
        pending=pauses.find_pending_pause(ledger),
        live=live,
        quorum=controls.quorum(site),
        orders=tuple(placed),
        samples=drawn[-1] if drawn else None,
        before=_before(site) if not _has_begun(ledger) else None,
        question=site.config.panel.question,
        guideline=site.config.panel.guideline,
        votes_needed=math.ceil(status.votes_needed * controls.quorum(site) - 1e-9),
        helped=helped,
        link=triads.results(ledger),
        held_out=held_out.read(ledger),
        ahead=outlook.read(ledger),
    )


def _figures(site: Site, live: bool) -> tuple[RunFacts, Overview, VotesCast, Improvement]:
    """The figures and the votes cast, computed when a round moves and once a minute.

    Reading thousands of votes takes a good part of a second, which the votes of an open round,
    hidden as they are, are not worth. How many are in, the round's status reports at once.
    """
    ledger = site.ledger
    decided = ledger.query("SELECT max(event) AS event FROM events WHERE kind <> 'rows'")[0]
    states = tuple(row["state"] for row in ledger.steps())
    shown = _last_event(ledger) if live else None
    key = (decided["event"], states, shown, live, ledger.clock() // 60_000_000)

    def read() -> tuple[RunFacts, Overview, VotesCast, Improvement]:
        rows = evidence.read(ledger, live=live)
        page = overview.overview(rows)
        return rows.run, page, votes_cast.count(ledger), improvement.read(ledger)

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


def _has_begun(ledger: Ledger) -> bool:
    return bool(ledger.query("SELECT 1 FROM steps WHERE opened_us IS NOT NULL LIMIT 1"))


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


# ---- the log ----

_Entry = tuple[int, str, Callable[[], str]]
"""Time, name, and a function that makes the sentence; it is called for the newest only."""


def _log(ledger: Ledger) -> tuple[Line, ...]:
    entries = [*_events(ledger), *_votes(ledger), *_rounds(ledger)]
    entries.sort(key=lambda entry: -entry[0])
    return tuple(Line(at_us, who, describe()) for at_us, who, describe in entries[:EVENTS])


def _events(ledger: Ledger) -> Iterator[_Entry]:
    marks = ", ".join("?" * len(HIDDEN_EVENTS))
    names = {row["panelist"]: row["pseudonym"] for row in ledger.query("SELECT * FROM panelists")}
    for e in ledger.query(
        f"SELECT * FROM events WHERE kind NOT IN ({marks}) ORDER BY event DESC LIMIT ?",
        (*HIDDEN_EVENTS, EVENTS),
    ):
        who = str(names.get(e["actor"], e["actor"]))
        yield e["at_us"], who, partial(_describe_event, e["kind"], e["body"], names)


def _votes(ledger: Ledger) -> Iterator[_Entry]:
    """One entry per vote: who voted and when, never the answer."""
    for row in ledger.query(
        "SELECT v.received_us, v.revision, v.choice = 'skip' AS skip, v.late, p.pseudonym, "
        "c.step, c.kind FROM votes v JOIN assignments a USING (assignment) "
        "JOIN panelists p USING (panelist) JOIN comparisons c USING (comparison) "
        "ORDER BY v.vote DESC LIMIT ?",
        (EVENTS,),
    ):
        yield row["received_us"], row["pseudonym"], partial(_describe_vote, row)


def _describe_vote(row: Mapping[str, Any]) -> str:
    if row["kind"] != "train":
        return f"answered a {_KINDS[row['kind']]}"
    where = f"in round {row['step'] + 1}"
    if row["late"]:
        return f"voted {where} after it had closed"
    if row["revision"]:
        return f"changed a vote {where}"
    return f"{'could not judge' if row['skip'] else 'voted'} {where}"


_KINDS: Final = {
    "gold": "calibration comparison", "aa": "calibration comparison",
    "repeat": "calibration comparison", "final": "blind final comparison",
    "practice": "practice comparison",
}  # fmt: skip
_CLOSED: Final = {
    "rule": "all votes in", "deadline": "deadline", "auto": "nothing to compare",
}  # fmt: skip


def _rounds(ledger: Ledger) -> Iterator[_Entry]:
    for row in ledger.steps()[-EVENTS:]:
        if row["opened_us"] is not None:
            yield row["opened_us"], "run", partial("round {} opened".format, row["step"] + 1)
        if row["closed_us"] is not None and row["closed_by"] != "operator":
            how = _CLOSED[row["closed_by"]]
            yield (
                row["closed_us"],
                "run",
                partial("round {} closed: {}".format, row["step"] + 1, how),
            )
    for row in ledger.query(
        "SELECT step, max(applied_us) AS at_us FROM updates GROUP BY step ORDER BY step DESC "
        "LIMIT ?",
        (EVENTS,),
    ):
        yield row["at_us"], "run", partial("update of round {} applied".format, row["step"] + 1)


def _describe_event(kind: str, text: str, names: Mapping[str, str]) -> str:
    body = json.loads(text)
    reason = f": {body['reason']}" if body.get("reason") else ""
    round_ = body["step"] + 1 if isinstance(body.get("step"), int) else "?"
    who = names.get(body.get("panelist") or "", body.get("role") or "somebody")
    match kind:
        case "pause":
            return f"paused the run{reason}"
        case "pause after":
            return f"asked for a pause after the round{reason}"
        case "unpause":
            return "let the run go on"
        case "close":
            return f"closed round {round_}{reason}"
        case "void":
            return f"gave round {round_} up{reason}"
        case "limits":
            return "set the limits: " + (_describe_limits(body) or "none")
        case "stop":
            return f"set the last round to {body.get('step') or 'none'}"
        case "invite":
            return f"invited {who}"
        case "revoke":
            return f"revoked the access of {who}"
        case "erase":
            return f"erased what was personal of {who}"
        case controls.EXCLUDE:
            return f"excluded {who} from now on{reason}"
        case controls.LIVE:
            return f"turned the view of open votes {'on' if body.get('on') else 'off'}"
        case "order":
            where = _describe_percent((body.get("body") or {}).get("percent"))
            return f"ordered {_ORDERS.get(body.get('kind', ''), 'something')}{where}"
        case "done":
            return "fulfilled an order"
        case "order closed":
            return "closed a final comparison"
        case "branch":
            return f"branched {body.get('name')} off after round {(body.get('after') or 0) + 1}"
        case "controller ended":
            return f"controller ended with code {body.get('code')}"
    return kind


_ORDERS: Final = {
    "final": "a blind final comparison", "samples": "samples",
    "triads": "triads that test the link",
}  # fmt: skip


def _describe_percent(percent: int | None) -> str:
    return "" if percent in (None, 100) else f" at {percent} % of the way from the start"


def _describe_limits(body: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in body.items() if value is not None)


def columns(samples: Order) -> tuple[Sequence[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """(prompts, [(column's name, [(text, cut at the limit)])]) of an order of samples."""
    result = samples.result or {}
    named = [
        (
            str(c["name"]),
            [
                (whole(str(text), cut=end == "length"), end == "length")
                for text, end in c["answers"]
            ],
        )
        for c in result.get("columns", [])
    ]
    return result.get("prompts", []), named
