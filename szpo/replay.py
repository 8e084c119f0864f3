"""From the ledger back to the run: weights from updates, optimizer state from votes, exports.

Needs NumPy and the file: no model, no torch. `verify` re-derives every hash and figure.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

from szpo import coordinates, optimizer, votes
from szpo.ballots import ballots
from szpo.errors import IntegrityError, UsageError
from szpo.findings import Failure, Report, StepCheck
from szpo.folding import settings
from szpo.ledger import Ledger, Record
from szpo.settings import Settings
from szpo.types import Theta, Update
from szpo.verification import verify

__all__ = [
    "Failure",
    "Report",
    "StepCheck",
    "added",
    "export_votes",
    "fold",
    "retell",
    "settings",
    "verify",
    "write_csv",
    "write_jsonl",
]


def added(
    ledger: Ledger, settings: Settings, until: int | None = None
) -> Iterator[tuple[int, tuple[Update, ...]]]:
    """(step, what it really added to θ, in order); under momentum more than it recorded."""
    rows = ledger.updates(until)
    by_step: dict[int, list[Update]] = {}
    for update in rows:
        by_step.setdefault(update.step, []).append(update)
    reach = settings.momentum_terms if settings.momentum else 0
    for step in by_step:
        recent = [u for s in range(step - reach, step + 1) for u in by_step.get(s, ())]
        yield step, optimizer.fold(settings, recent, step)


def fold(ledger: Ledger, until: int | None = None) -> Theta:
    """θ after the steps < ``until`` (all of them by default): exact on any machine.

    Raises:
        UsageError: the run has not applied so many steps.
        IntegrityError: the result is not the weights that the ledger recorded.
    """
    found = settings(ledger)
    last = ledger.last_applied()
    if until is not None and not 0 <= until <= (-1 if last is None else last) + 1:
        raise UsageError(
            f"{ledger.path.name}: {0 if last is None else last + 1} steps are applied; "
            f"there is no {until}"
        )
    theta = ledger.start()
    for _, updates in added(ledger, found, until):
        for update in updates:
            theta = coordinates.applied(found.space, theta, update)
    rows = ledger.query(
        "SELECT theta_sha256 FROM updates WHERE run = ? AND step < ? "
        "ORDER BY step DESC, k DESC LIMIT 1",
        (ledger.run, 2**62 if until is None else until),
    )
    digest = coordinates.digest(theta, ledger.layout, ledger.basis_sha256)
    if rows and rows[0]["theta_sha256"] != digest:
        raise IntegrityError(
            f"{ledger.path.name}: replayed weights are {digest[:12]}, recorded "
            f"{rows[0]['theta_sha256'][:12]}; run szpo verify"
        )
    return theta


def retell(ledger: Ledger, settings: Settings) -> optimizer.State:
    """The optimizer's state after every applied (or void) step, from recorded votes and radii."""
    return advance(ledger, settings, optimizer.init(settings))


def advance(ledger: Ledger, settings: Settings, state: optimizer.State) -> optimizer.State:
    """Tell a state the finished steps that it has not seen."""
    for row in ledger.steps()[state.step :]:
        if row["state"] == "void":
            state = replace(state, step=state.step + 1)
        elif row["state"] == "applied":
            query = optimizer.query(settings, row["step"], row["mu"])
            counts = votes.tally(ledger, row["step"], settings.K, settings.N)
            counted = votes.counted(ledger, row["step"])
            voters = ballots(ledger, settings, row["step"], counted, counts)
            state = optimizer.tell(state, query, counts, ballots=voters)[0]
        else:
            break
    return state


def export_votes(ledger: Ledger, *, texts: bool = False) -> Iterator[Record]:
    """Every stored vote as a flat row, in order; panelists by pseudonym only.

    ``texts`` adds the comparison's prompts and both batches (as lists).
    """
    names = {
        row["panelist"]: (row["pseudonym"], row["kind"])
        for row in ledger.query("SELECT * FROM panelists")
    }
    counting: dict[int, set[tuple[str, str, int]]] = {}
    rows_of: dict[str, Record] = {}
    for vote in ledger.votes():
        step = vote["step"]
        if step is not None and step not in counting:
            counting[step] = {
                (v.comparison, v.panelist, v.revision) for v in votes.counted(ledger, step)
            }
        key = (vote["comparison"], vote["panelist"], vote["revision"])
        name, kind = names[vote["panelist"]]
        row: Record = {
            "run": ledger.run,
            "step": step,
            "k": vote["k"],
            "n": vote["n"],
            "comparison": vote["comparison"],
            "kind": vote["kind"],
            "panelist": name,
            "panelist_kind": kind,
            "vote": vote["vote"],
            "revision": vote["revision"],
            "plus_side": vote["plus_side"],
            "choice": vote["choice"],
            "verdict": votes.verdict(vote["choice"], vote["plus_side"]),
            "counted": key in counting.get(step, ()),
            "late": bool(vote["late"]),
            "skip_reason": vote["skip_reason"],
            "dwell_ms": vote["dwell_ms"],
            "received_us": vote["received_us"],
        }
        if texts:
            if vote["comparison"] not in rows_of:
                comparison = ledger.comparison(vote["comparison"])
                shown = comparison.rows if comparison else ()
                rows_of[vote["comparison"]] = {
                    "prompts": [r.prompt.turns for r in shown],
                    "plus": [r.plus.text for r in shown],
                    "minus": [r.minus.text for r in shown],
                }
            row |= rows_of[vote["comparison"]]
        yield row


def write_jsonl(ledger: Ledger, file: IO[str], *, texts: bool = True) -> int:
    """Write every vote as a line of JSON; returns how many."""
    count = 0
    for row in export_votes(ledger, texts=texts):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_csv(ledger: Ledger, file: IO[str]) -> int:
    """Write every vote as a CSV line, cells that a spreadsheet would run as formulas quoted."""
    count = 0
    writer = None
    for row in export_votes(ledger):
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
        writer.writerow({key: _harmless(value) for key, value in row.items()})
        count += 1
    return count


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
