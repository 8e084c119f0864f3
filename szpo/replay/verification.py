"""Verify a ledger: recompute a run from its raw rows, and name the first row that disagrees.

Reads only the file: no model, no torch, no clock. `CHECKS` lists what is checked, in order.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from szpo.errors import MissingPluginError, StorageError, SzpoError
from szpo.features import own
from szpo.ledger import canonical
from szpo.ledger.database import Ledger, Record
from szpo.ledger.theta import theta_digests
from szpo.replay import file_checks, row_checks
from szpo.replay.findings import Broken, Examination, Failure, Promise, Report, StepCheck
from szpo.replay.recompute import Recomputation, Weights
from szpo.voting import shown_features
from szpo.voting.counting import StepVotes
from szpo.voting.step_report import count

Check: TypeAlias = Callable[[Examination], None]


def verify(
    ledger: Ledger, *, deep: bool = True, head: str | None = None, also: Sequence[Check] = ()
) -> Report:
    """Check a whole ledger; ``deep`` also recomputes every update and all weights.

    ``head`` is the hash of an event that was once the last, noted elsewhere: a chain that was
    rewritten as a whole agrees with itself, but not with that hash.
    ``also``: checks from outside of this package.

    >>> Failure("votes", "3", "differs from what was recorded")
    Failure(table='votes', row='3', problem='differs from what was recorded')
    """
    # One snapshot: else votes cast meanwhile would look as if added by hand.
    with ledger.snapshot(), contextlib.closing(sqlite3.connect("")) as hashes:  # on disk
        return _examine(Examination(ledger, hashes, deep, head), also)


def _examine(look: Examination, also: Sequence[Check]) -> Report:
    try:
        for check in (*CHECKS, *also):
            check(look)
    except Broken as found:
        return look.report(found.failure)
    except MissingPluginError:  # nothing is wrong with the ledger
        raise
    except sqlite3.OperationalError as error:
        raise StorageError(f"verify: no room for its own table of hashes ({error})") from None
    except (
        SzpoError, ArithmeticError, LookupError, TypeError, ValueError, sqlite3.Error
    ) as error:  # fmt: skip
        undecodable = file_checks.find_undecodable(look.ledger)
        return look.report(undecodable or Failure("file", look.ledger.path.name, str(error)))
    return look.report()


# ---- votes → updates → weights ----


def check_updates(look: Examination) -> None:
    """Check all steps and their updates; if ``deep``, recompute updates and weights too."""
    ledger = look.ledger
    rows_of = _read_updates(ledger)
    bodies = {event["body"]["step"]: event["body"] for event in ledger.events("step")}
    recomputation = Recomputation(ledger) if look.deep else None
    weights = Weights(ledger) if look.deep else None
    heads, steps = theta_digests(ledger), ledger.steps()
    named = None if recomputation is None else recomputation.settings.features
    if named is not None:
        counted_here = shown_features.entries_of(named)
        rated = [name for name, kind, *_ in named.own if kind == own.JUDGE]
        if rated:
            look.notes.append(f"ratings of {', '.join(rated)} are a judge's, as recorded")
        if lack := [n for n in named.names if n not in counted_here and n not in rated]:
            more = f" and {len(lack) - 3} more features" if len(lack) > 3 else ""
            look.notes.append(
                f"values of {', '.join(lack[:3])}{more} are recorded, not recomputed: the code "
                "that counts them is not szpo's, or is of another version"
            )
    done, after = 0, dict[int, str]()
    for number, step in enumerate(steps):
        if step["step"] != number:
            raise Broken("steps", number, "is missing")
        rows = rows_of.pop(number, [])
        if (step["state"] == "applied") != bool(rows):
            raise Broken("steps", number, f"is {step['state']}, which its updates contradict")
        # With lag 1 a step starts from the head before the last one, never from a later one.
        prompt = step["head_sha256"] == heads[done]
        follows = number > 0 and steps[number - 1]["state"] == "applied"
        lagging = follows and step["head_sha256"] == heads[done - 1]
        if not prompt and not lagging:
            raise Broken("steps", number, "head_sha256 is not the head it was planned from")
        after.setdefault(number, heads[done])
        if recomputation is not None:
            recomputation.check_radius(step)
            recomputation.check_directions(step, after)
        votes = StepVotes(ledger, number)
        if step["counted"] is not None and json.loads(step["counted"]) != votes.ids()[1]:
            raise Broken("steps", number, "counted is not the votes that count")
        if step["state"] == "applied":
            digest = canonical.votes_sha256(votes.counted)
            for row in rows:
                key = canonical.row_key("updates", row)
                if row["votes_sha256"] != digest:
                    raise Broken("updates", key, "votes_sha256 is not that of the counted votes")
                if row["epoch"] != step["epoch"]:
                    raise Broken("steps", number, "epoch is not that of its updates")
            promise: Promise = "not recomputed"
            if recomputation is not None:
                promise = recomputation.check(step, rows)
            if weights is not None:
                weights.check(rows)
            counts = count(votes, ledger.comparisons(number), step["pairing"])
            _check_figures(number, bodies[number], rows[0], counts)
            done += 1
            look.steps.append(StepCheck(number, promise, counts["votes"]))
    for number in rows_of:
        raise Broken("steps", number, "is missing, yet it has updates")


def _read_updates(ledger: Ledger) -> dict[int, list[Record]]:
    """Read the rows of `updates` by step; check their hash chain and epochs."""
    rows_of: dict[int, list[Record]] = {}
    prev, epoch = ledger.row["spec_sha256"], 0
    for row in ledger.update_rows():
        key = canonical.row_key("updates", row)
        if row["prev_sha256"] != prev or canonical.update_sha256(row) != row["row_sha256"]:
            raise Broken("updates", key, "breaks the chain of updates")
        if row["epoch"] < epoch:
            raise Broken("updates", key, f"epoch {row['epoch']} comes after epoch {epoch}")
        prev, epoch = row["row_sha256"], row["epoch"]
        rows_of.setdefault(row["step"], []).append(row)
    return rows_of


def _check_figures(
    step: int, body: Mapping[str, Any], row: Record, counts: Mapping[str, int]
) -> None:
    """Compare an applied step's event with its first row's digests and its counts of votes."""
    wanted = {
        **counts,
        "votes_sha256": row["votes_sha256"],
        "theta_sha256": row["theta_sha256"],
    }
    for name, value in wanted.items():
        if (found := body.get(name)) != value:
            raise Broken("events", f"step {step}", f"{name} is {found}, recorded {value}")


CHECKS: Final[tuple[Check, ...]] = (
    file_checks.check_schema,
    file_checks.check_chain,
    file_checks.check_head,
    file_checks.check_rows,
    file_checks.check_pages,  # after check_rows, which names a row and not just the file
    file_checks.check_header,
    file_checks.check_budget,
    row_checks.check_plans,
    row_checks.check_seats,
    row_checks.check_votes,
    row_checks.check_comparisons,
    row_checks.check_step_events,
    file_checks.check_returns,
    check_updates,
    file_checks.check_adopted,  # from weights that are checked
    file_checks.check_end,
)
"""All checks in order; each raises `Broken` at the first row that disagrees."""
