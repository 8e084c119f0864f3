"""Everything on the operator's page at one moment, and its log, read from the ledger.

The votes cast by each panelist include the open round: how many is no secret, unlike the choices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from szpo.analysis import improvement, overview, taught_taste, vote_rows
from szpo.analysis.exported_weights import find_doubt
from szpo.ledger import orders, run_spec, theta
from szpo.ledger.canonical import canonical, sha256
from szpo.ledger.database import Ledger
from szpo.ledger.orders import Order
from szpo.models.answer_shares import is_cut
from szpo.runs import budget, guards, samples, setup_progress
from szpo.types import Answer, Assignment, Comparison, Prompt, Row
from szpo.voting import lease, pauses, withdrawals
from szpo.voting.counting import HARMFUL
from szpo.voting.panel_factory import PEOPLE
from szpo_ui import credentials, operator_controls
from szpo_ui.sheets import sheet
from szpo_ui.site import Site

EVENTS: Final = 80
"""Events shown, newest first."""
HIDDEN_EVENTS: Final = (
    "rows",
    "asked",
    "generated",
    "regressors",
    "step",
    "consent",
    "measured",
    "sample check",
)
"""Kinds of events that the log omits, since other lines report them or they are private."""
_EVENTS: Final = {
    "pause": "paused the run{reason}",
    "pause after": "asked for a pause after the round{reason}",
    "unpause": "let the run go on",
    "close": "closed round {round}{reason}",
    "limits": "set the limits: {limits}",
    "stop": "set the last round to {last}",
    "invite": "invited {who}",
    "revoke": "revoked the access of {who}",
    "erase": "erased what was personal of {who}",
    "order": "ordered {order}",
    "done": "fulfilled an order",
    "order closed": "closed a final comparison",
    "controller ended": "controller ended with code {code}",
    withdrawals.EVENT: "withdrew the votes of {who} before round {round}: no later fit has them",
    operator_controls.EXCLUDE: "excluded {who} from now on{reason}",
    operator_controls.LIVE: "turned the view of open votes {on}",
    run_spec.BUDGET: "added votes: the run ends after {votes} votes",
    taught_taste.NAMED: "called what no words say: {name}",
    theta.ADOPTED: "adopted an improved policy",
    theta.RETURNED: "went back to the start: {why}",
}
"""Lines of the log by kinds of events, with what `_describe_event` fills in."""
_CLOSED: Final = {
    "rule": "all votes in", "deadline": "deadline", "auto": "nothing to compare",
}  # fmt: skip
_ORDERS: Final = {"final": "a blind final comparison", "samples": "samples"}
EXAMPLE: Final = Comparison(
    "example", -1, 0, 0,
    (
        Row(
            Prompt.user("How many minutes are two and a half hours?"),
            Answer("150 minutes."),
            Answer("Two and a half hours are about 100 minutes, give or take."),
        ),
        Row(
            Prompt.user("Write a short note to thank a neighbour for feeding the cat."),
            Answer("Dear Ruth, thank you for looking after Momo. He is as glad as we are!"),
            Answer("The cat is fed. The neighbour is a neighbour. Thank the note."),
        ),
    ),
)  # fmt: skip
"""Stands in for the first comparison before its answers are written."""
ONLINE_US: Final = 150_000_000
"""A person seen within this time (µs) counts as online; use is recorded once a minute."""
_CAST: Final = (
    "SELECT p.pseudonym, count(*) AS n FROM votes v CROSS JOIN assignments a "
    "USING (assignment) CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p "
    "USING (panelist) WHERE v.revision = 0 AND c.kind = 'train' GROUP BY p.pseudonym"
)
"""By pseudonym: comparisons answered, each once, skips and late votes too."""


class Line(NamedTuple):
    """One line of the log."""

    at_us: int
    who: str
    text: str


def read_log(ledger: Ledger) -> tuple[Line, ...]:
    """The newest lines of the log, the latest first."""
    lines = [*_events(ledger), *_votes(ledger), *_rounds(ledger)]
    return tuple(sorted(lines, key=lambda line: -line.at_us)[:EVENTS])


def _events(ledger: Ledger) -> Iterator[Line]:
    marks = ", ".join("?" * len(HIDDEN_EVENTS))
    names = {row["panelist"]: row["pseudonym"] for row in ledger.query("SELECT * FROM panelists")}
    for e in ledger.query(
        f"SELECT * FROM events WHERE kind NOT IN ({marks}) ORDER BY event DESC LIMIT ?",
        (*HIDDEN_EVENTS, EVENTS),
    ):
        who = str(names.get(e["actor"], e["actor"]))
        yield Line(e["at_us"], who, _describe_event(e["kind"], e["body"], names))


def _votes(ledger: Ledger) -> Iterator[Line]:
    """One entry per vote: who voted and when, never the answer."""
    for row in ledger.query(
        "SELECT v.received_us, v.revision, v.choice = 'skip' AS skip, v.late, p.pseudonym, "
        "c.step, c.kind FROM votes v "
        "JOIN assignments a USING (assignment) JOIN panelists p USING (panelist) "
        "JOIN comparisons c USING (comparison) ORDER BY v.vote DESC LIMIT ?",
        (EVENTS,),
    ):
        yield Line(row["received_us"], row["pseudonym"], _describe_vote(row))


def _describe_vote(row: Mapping[str, Any]) -> str:
    if row["kind"] != "train":
        return "answered a blind final comparison"
    where = f"in round {row['step'] + 1}"
    if row["late"]:
        return f"voted {where} after it had closed"
    if row["revision"]:
        return f"changed a vote {where}"
    return f"{'could not judge' if row['skip'] else 'voted'} {where}"


def _rounds(ledger: Ledger) -> Iterator[Line]:
    for row in ledger.steps()[-EVENTS:]:
        if row["opened_us"] is not None:
            yield Line(row["opened_us"], "run", f"round {row['step'] + 1} opened")
        if row["closed_us"] is not None and row["closed_by"] != "operator":
            text = f"round {row['step'] + 1} closed: {_CLOSED[row['closed_by']]}"
            yield Line(row["closed_us"], "run", text)
    for row in ledger.query(
        "SELECT step, max(applied_us) AS at_us FROM updates GROUP BY step ORDER BY step DESC "
        "LIMIT ?",
        (EVENTS,),
    ):
        yield Line(row["at_us"], "run", f"update of round {row['step'] + 1} applied")


def _describe_event(kind: str, text: str, names: Mapping[str, str]) -> str:
    body = json.loads(text)
    if kind not in _EVENTS:
        return kind
    out = theta.WITHDRAWN in body
    told = {
        "reason": f": {body['reason']}" if body.get("reason") else "",
        "round": body["step"] + 1 if isinstance(body.get("step"), int) else "?",
        "who": names.get(body.get("panelist") or "", body.get("role") or "somebody"),
        "limits": ", ".join(f"{k} {v}" for k, v in body.items() if v is not None) or "none",
        "last": body.get("step") or "none",
        "votes": body.get("votes"),
        "on": "on" if body.get("on") else "off",
        "order": _ORDERS.get(str(body.get("kind")), "something"),
        "why": "votes it had learned from were withdrawn" if out else "check rows preferred it",
        "code": body.get("code"),
        "name": body.get("name"),
    }
    return _EVENTS[kind].format_map(told)


def version(site: Site) -> str:
    """A key that changes when anything on the page changes, except for elapsed time."""
    ledger = site.ledger
    seen = site.status.read().version, _last_event(ledger), driven(ledger), _improving(ledger)
    return sha256(canonical(list(seen)))[:16]


def driven(ledger: Ledger) -> bool:
    """Whether a controller holds the run under a lease that has not expired."""
    row = lease.controller(ledger)
    return lease.is_driven(row["lease"], row["expires_us"], ledger.clock())


def read_state(site: Site) -> dict[str, Any]:
    """The variable ``b`` of the page's templates, read from the ledger.

    ``page`` is `szpo.analysis.overview`, ``status`` that of the round. ``controller`` says whether
    a controller drives the run, ``ended`` how the last one ended. ``waiting`` are the invited
    operators. ``improving`` says how far an improvement is. With ``votes_needed`` votes an
    operator may close the open round. ``blind``: the run will order a final comparison at its end.
    """
    ledger, config = site.ledger, site.config
    live, now, status = operator_controls.is_live(ledger), site.ledger.clock(), site.status.read()
    figures = _figures(site, live)
    cast = {row["pseudonym"]: row["n"] for row in ledger.query(_CAST)}
    placed, quorum = orders.orders(ledger), operator_controls.QUORUM
    drawn = [o for o in placed if o.kind == "samples" and o.result is not None and not o.error]
    listed = {each.name: each for each in credentials.list_people(ledger)}
    out = operator_controls.list_excluded(ledger)
    people = [
        {
            "row": row,
            "access": listed.get(name := row["name"]),
            "online": name in listed and now - (listed[name].seen_us or 0) < ONLINE_US,
            "excluded": name in out,
            "cast": cast.get(name, 0),
        }
        for row in figures["page"]["panelists"]
    ]
    return {
        **figures,
        "version": version(site),
        "name": ledger.path.stem,
        "status": status,
        "controller": driven(ledger),
        "improving": _improving(ledger),
        "ended": _last_end(ledger),
        "people": people,
        "waiting": [each for each in listed.values() if each.role == "operator"],
        "log": read_log(ledger),
        "limits": budget.read_limits(ledger),
        "pending": pauses.find_pending_pause(ledger),
        "live": live,
        "quorum": quorum,
        "orders": placed,
        "final_open": any(
            o.kind == "final" and o.closed_us is None and not o.error for o in placed
        ),
        "blind": config.panel.kind == PEOPLE and status.state != "finished",
        "moves": site.moves,
        "samples": drawn[-1] if drawn else None,
        "before": _before(site) if samples.awaits_start(ledger) else None,
        "question": config.panel.question,
        "guideline": config.panel.brief,
        "votes_needed": math.ceil(status.votes_needed * quorum - 1e-9),
        "held_out": guards.read_held_out(ledger),
        "harmful": _harmful(ledger) if site.config.asks_rows else [],
    }


def _figures(site: Site, live: bool) -> dict[str, Any]:
    """The figures, computed after most events and once a minute."""
    # Reading thousands of votes takes a good part of a second, so hidden votes of an open
    # round do not trigger it. The round's status reports their number at once.
    ledger = site.ledger
    decided = ledger.query("SELECT max(event) AS event FROM events WHERE kind <> 'rows'")[0]
    states = tuple(row["state"] for row in ledger.steps())
    shown = _last_event(ledger) if live else None
    key = (decided["event"], states, shown, live, ledger.clock() // 60_000_000)

    found = site.figures.get(key)
    if found is None:
        rows, last = vote_rows.read_evidence(ledger, live=live), taught_taste.last_findings(ledger)
        helped = improvement.read(ledger)
        found = {
            "page": overview.overview(rows), "facts": rows.run,
            "helped": helped, "lesson": taught_taste.read(ledger),
            "doubt": find_doubt(ledger, helped),
            "length": taught_taste.ask_about_length(ledger, last),
        }  # fmt: skip
        site.figures.clear()
        site.figures[key] = found
    return found


def _harmful(ledger: Ledger) -> list[int]:
    """The votes that call a row harmful, the newest first; not those that were changed."""
    rows = ledger.query(
        "SELECT vote FROM votes v WHERE skip_reason = ? AND revision = (SELECT max(revision) "
        "FROM votes WHERE assignment = v.assignment) ORDER BY vote DESC",
        (HARMFUL,),
    )
    return [row["vote"] for row in rows]


def _last_event(ledger: Ledger) -> int:
    return int(ledger.query("SELECT max(event) AS event FROM events")[0]["event"])


def _improving(ledger: Ledger) -> str | None:
    found = setup_progress.read_improving(ledger.path)
    return None if found is None else f"{found[0].done} of at most {found[0].of} steps"


def _last_end(ledger: Ledger) -> str | None:
    found = list(ledger.events("controller ended"))[-1:]
    if not found:
        return None
    code, again = found[0]["body"].get("code"), found[0]["body"].get("again_in_s", 0)
    return f"the last one ended with code {code}" + (
        f" and is started again after {again:.0f} s" if again else ""
    )


# ---- before the first round ----


def _before(site: Site) -> dict[str, Any]:
    """The page's content before the first round; ``minutes`` is the reading time of a vote."""
    ledger, config = site.ledger, site.config
    first = next(iter(ledger.comparisons(0)), None)
    shown = first or EXAMPLE
    order = tuple(range(len(shown.rows)))
    votes = config.steps * config.votes_per_step
    minutes = operator_controls.reading_minutes(site)
    hours = votes * minutes / 60
    return {
        "sheet": sheet([(shown, Assignment("preview", shown.id, "preview", "A", order, 0))]),
        "real": first is not None,
        "minutes": minutes,
        "person_hours": hours,
        "votes": votes,
        "rows": config.optimizer.D,
        "at_once": config.sheet,
    }


def columns(samples: Order) -> tuple[Sequence[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """(prompts, [(column's name, [(text, whether it was cut)])]) of an order of samples."""
    result = samples.result or {}
    named = [
        (str(c["name"]), [(str(text), is_cut(Answer(text, end))) for text, end in c["answers"]])
        for c in result.get("columns", [])
    ]
    return result.get("prompts", []), named
