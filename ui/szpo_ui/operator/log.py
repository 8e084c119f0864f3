"""The log of the operator's page: what happened in a run, in sentences, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from szpo.analysis import last_pairs
from szpo.ledger import adopted, run_spec
from szpo.ledger.database import Ledger
from szpo.voting import remarks, set_aside, withdrawals
from szpo_ui.operator import controls

EVENTS: Final = 80
"""Events shown, newest first."""
HIDDEN_EVENTS: Final = (
    "rows", "asked", "generated", "regressors", "step", "consent", "measured", "sample check",
    last_pairs.KIND, remarks.KIND,
)  # fmt: skip
"""Kinds of events that the log omits, since other lines report them or they are private."""


class Line(NamedTuple):
    """One line of the log."""

    at_us: int
    who: str
    text: str


def read(ledger: Ledger) -> tuple[Line, ...]:
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
        return f"answered a {_KINDS[row['kind']]}"
    where = f"in round {row['step'] + 1}"
    if row["late"]:
        return f"voted {where} after it had closed"
    if row["revision"]:
        return f"changed a vote {where}"
    return f"{'could not judge' if row['skip'] else 'voted'} {where}"


_KINDS: Final = {
    "gold": "comparison with a known answer", "aa": "comparison of the model with itself",
    "final": "blind final comparison",
}  # fmt: skip
_CLOSED: Final = {
    "rule": "all votes in", "deadline": "deadline", "auto": "nothing to compare",
}  # fmt: skip


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
        case "limits":
            return "set the limits: " + (_describe_limits(body) or "none")
        case run_spec.BUDGET:
            return f"added votes: the run ends after {run_spec.describe_budget(body)}"
        case "stop":
            return f"set the last round to {body.get('step') or 'none'}"
        case "invite":
            return f"invited {who}"
        case "revoke":
            return f"revoked the access of {who}"
        case "erase":
            return f"erased what was personal of {who}"
        case withdrawals.EVENT:
            return f"withdrew the votes of {who} before round {round_}: no later fit has them"
        case controls.EXCLUDE:
            return f"excluded {who} from now on{reason}"
        case controls.LIVE:
            return f"turned the view of open votes {'on' if body.get('on') else 'off'}"
        case adopted.KIND:
            return "adopted an improved policy"
        case adopted.RETURN:
            out = adopted.WITHDRAWN in body
            why = "votes it had learned from were withdrawn" if out else "check rows preferred it"
            return f"went back to the start: {why}"
        case "order":
            return f"ordered {_ORDERS.get(body.get('kind', ''), 'something')}"
        case "done":
            return "fulfilled an order"
        case "order closed":
            return "closed a final comparison"
        case set_aside.EVENT:
            left = "not about" if body.get("on") else "again possibly about"
            return f"ordered from round {round_} on: votes are {left} {body.get('group')}"
        case "controller ended":
            return f"controller ended with code {body.get('code')}"
    return kind


_ORDERS: Final = {"final": "a blind final comparison", "samples": "samples"}


def _describe_limits(body: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in body.items() if value is not None)
