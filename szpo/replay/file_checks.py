"""Checks of a ledger's file: schema, chain of events, hash of every row, header.

Tables are read row by row, so memory does not grow with the run.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np

from szpo.errors import SzpoError
from szpo.ledger import adopted, canonical, witness
from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger, Record
from szpo.ledger.rows import BASIS
from szpo.ledger.run_spec import BUDGET, describe_budget, recorded_config
from szpo.ledger.schema import schema
from szpo.ledger.theta import stored_tensors
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.replay import replay
from szpo.replay.findings import Broken, Examination, Failure
from szpo.types import Theta
from szpo.voting import policy_checks, withdrawals

LITESTREAM = {"_litestream_lock", "_litestream_seq"}
"""Tables that Litestream adds to a file that it copies; szpo never reads them."""


def check_schema(look: Examination) -> None:
    """Compare the definitions of tables and triggers with the schema's; refuse any others."""
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.executescript(schema())
        # Plain indexes may differ between versions; everything else may not.
        sql = (
            "SELECT name, sql FROM sqlite_master WHERE type <> 'index' OR sql LIKE '%UNIQUE%' "
            "ORDER BY name"
        )
        wanted = dict(fresh.execute(sql).fetchall())
    finally:
        fresh.close()
    found = {row["name"]: row["sql"] for row in look.ledger.query(sql)}
    for name, text in wanted.items():
        if _normalise(found.get(name)) != _normalise(text):
            raise Broken("sqlite_master", name, "is missing or was changed")
    copied = {name for name in LITESTREAM if (found.get(name) or "").startswith("CREATE TABLE")}
    if foreign := [name for name in found if name not in wanted and name not in copied]:
        raise Broken("sqlite_master", foreign[0], "was added; szpo makes nothing of that name")


def _normalise(sql: str | None) -> list[str]:
    """A definition's words without comments and spacing, which may differ between versions."""
    return re.sub(r"--[^\n]*", "", sql or "").split()


def check_chain(look: Examination) -> None:
    """Check every event, and store the hash that it recorded for each row, by table and key."""
    ledger, recorded = look.ledger, look.hashes
    recorded.execute("PRAGMA journal_mode = OFF")
    for table in canonical.CHAINED:
        recorded.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID")
    before: Record | None = None
    for event in ledger.stream("SELECT * FROM events ORDER BY event"):
        number = 1 if before is None else before["event"] + 1
        if event["event"] != number:
            raise Broken("events", number, f"is missing; the next is {event['event']}")
        if canonical.event_sha256(event) != event["row_sha256"]:
            raise Broken("events", number, "differs from its own hash")
        if before is not None and event["prev_sha256"] != before["row_sha256"]:
            raise Broken("events", number, "does not follow from the event before it")
        before = event
        if event["kind"] == "rows":
            for table, key, digest in json.loads(event["body"])["rows"]:
                if table not in canonical.CHAINED:
                    raise Broken("events", number, f"records a row of the unknown table {table}")
                try:
                    recorded.execute(f"INSERT INTO {table} VALUES (?, ?)", (key, digest))
                except sqlite3.IntegrityError:
                    raise Broken(table, key, f"is recorded again by event {number}") from None
    given = ledger.query("SELECT seq FROM sqlite_sequence WHERE name = 'events'")[0]["seq"]
    if before is not None and given != before["event"]:
        raise Broken("events", given, f"is missing; the last is {before['event']}")


def check_head(look: Examination) -> None:
    """Check that some event has the hash that the user noted; read the hash of the last event."""
    ledger, noted = look.ledger, look.noted_head
    if noted is not None and not ledger.query(
        "SELECT 1 FROM events WHERE row_sha256 = ?", (noted.strip().lower(),)
    ):
        problem = f"no event has the noted hash {noted}: the chain was rewritten, or cut before it"
        raise Broken("events", "head", problem)
    last = ledger.last_event()
    look.head = "" if last is None else str(last["row_sha256"])


def check_rows(look: Examination) -> None:
    """Compare every append-only row with the hash that its event recorded; count the rows.

    Keys are unique in both, so if all rows are recorded, equal counts mean that none is missing.
    """
    ledger, recorded = look.ledger, look.hashes
    count = 0
    for table in canonical.CHAINED:
        seen = 0
        for row in ledger.stream(f"SELECT * FROM {table}"):
            key = canonical.row_key(table, row)
            found = recorded.execute(
                f"SELECT sha256 FROM {table} WHERE key = ?", (key,)
            ).fetchone()
            if found is None:
                raise Broken(table, key, "no event recorded it (added, or its key was changed)")
            if canonical.row_sha256(table, row) != found[0]:
                raise Broken(table, key, "differs from what was recorded")
            seen += 1
        if seen != recorded.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
            raise Broken(table, _find_missing(ledger, recorded, table), "was recorded and is gone")
        count += seen
    look.rows = count
    recorded.close()  # frees its disk space


def _find_missing(ledger: Ledger, recorded: sqlite3.Connection, table: str) -> str:
    """The smallest key of a recorded row that is not in the table."""
    for row in ledger.stream(f"SELECT * FROM {table}"):
        key = canonical.row_key(table, row)
        recorded.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
    left = recorded.execute(f"SELECT min(key) FROM {table}").fetchone()
    return str(left[0])


def check_pages(look: Examination) -> None:
    """Let SQLite check the file's pages, and its tables against their indexes."""
    if (damage := look.ledger.find_damage()) is not None:
        raise Broken("file", look.ledger.path.name, damage)


def check_header(look: Examination) -> None:
    """Compare the hashes in the run's row with its spec, layout, base model and tensors."""
    ledger, row = look.ledger, look.ledger.row
    first = ledger.query("SELECT prev_sha256 FROM events ORDER BY event LIMIT 1")[0]
    if sha256(row["spec"]) != row["spec_sha256"] or first["prev_sha256"] != row["spec_sha256"]:
        raise Broken("runs", ledger.run, "spec_sha256 is not the hash of the spec")
    if parameters.layout_sha256(ledger.layout) != row["layout_sha256"]:
        raise Broken("runs", ledger.run, "layout_sha256 is not the hash of the layout")
    base = ledger.spec.get("base")
    if isinstance(base, dict) and base.get("sha256", row["base_sha256"]) != row["base_sha256"]:
        raise Broken("runs", ledger.run, "base_sha256 is not that of the spec's base model")
    for tensor in ledger.query("SELECT * FROM tensors"):
        key = canonical.row_key("tensors", tensor)
        if sha256(tensor["bytes"]) != tensor["sha256"]:
            raise Broken("tensors", key, "sha256 is not the hash of the bytes")
        size = int(np.prod(json.loads(tensor["shape"]), dtype=np.int64))
        if size * np.dtype(tensor["dtype"]).itemsize != len(tensor["bytes"]):
            raise Broken("tensors", key, "shape and dtype do not fit the bytes")
    stored = stored_tensors(ledger).items()
    basis = {name[len(BASIS) :]: value for name, value in stored if name.startswith(BASIS)}
    digest = parameters.basis_sha256(basis) if basis else None
    if digest != row["basis_sha256"]:
        raise Broken("runs", ledger.run, "basis_sha256 is not the hash of the stored basis")


def check_adopted(look: Examination) -> None:
    """Compare adopted weights with their digests, and compute again those moved along seeds."""
    settings = recorded_config(look.ledger)
    for event in look.ledger.events(adopted.KIND):
        body, begun = event["body"], event["body"]["begun"]
        sql = "SELECT count(*) AS steps FROM events WHERE kind = 'step' AND event < ?"
        for steps, at in ((begun["steps"], begun["event"]), (body["steps"], event["event"])):
            if at > event["event"] or steps != look.ledger.query(sql, (at,))[0]["steps"]:
                raise Broken("events", event["event"], f"{steps} steps are not those before it")
        adopted.tensors(look.ledger, body)
        if "moves" not in body and settings is not None and settings.way == "zeroth":
            problem = "lacks the seed and coefficients that its way, zeroth, records"
            raise Broken("events", event["event"], problem)
        if "moves" not in body:
            look.notes.append(
                f"weights adopted after {steps} steps are recorded, not recomputed: they were "
                "improved on the taste of the votes before, by gradients of the model"
            )
        elif look.deep:
            if _follow_moves(look.ledger, body) != body["theta_sha256"]:
                problem = "its weights are not what its seed and coefficients add up to"
                raise Broken("events", event["event"], problem)
            look.notes.append(f"weights adopted after {steps} steps are recomputed, exactly")


def _follow_moves(ledger: Ledger, body: Mapping[str, Any]) -> str:
    """The digest of weights that were moved along directions drawn by an improvement's seed."""
    from szpo.policies import recorded_subspace
    from szpo.policies.subspaces import every_b

    held, moves = recorded_subspace.read(ledger), body["moves"]
    now, start = replay.improved_from(ledger, held, body["begun"]["steps"], body["number"])
    where = held if moves["in_z"] else every_b(held.sites, held.factors())
    space = Space(body["seed"], where.layout, Law(**moves["law"]))
    theta: Theta = parameters.between(start, now, moves["share"])
    for number, coefs in enumerate(moves["coefs"], start=1):
        theta = where.follow(space, theta, number, coefs)
    return adopted.digest(theta)


def check_returns(look: Examination) -> None:
    """Check that the policy went back to its start where the verdicts on check rows say so."""
    due = None
    for steps, found, body in policy_checks.walk(look.ledger):
        if due is None and body is not None and adopted.WITHDRAWN in body:
            out = {each.panelist for each in withdrawals.withdrawals(look.ledger)}
            if body[adopted.WITHDRAWN] not in out:
                raise Broken("events", adopted.RETURN, "names nobody who withdrew verdicts")
        elif body != due:
            raise Broken("events", adopted.RETURN, "does not fit the verdicts on check rows")
        against = body is None and found.against
        due = policy_checks.describe(look.ledger, steps, found) if against else None
    if due is not None:
        raise Broken("events", adopted.RETURN, "is missing, and the verdicts on check rows ask it")


def check_budget(look: Examination) -> None:
    """Check that no step counts more votes than the budget had then; note every added budget."""
    ends = (look.ledger.spec.get("config") or {}).get("run", {}).get("votes")
    sql = "SELECT event, kind, body FROM events WHERE kind IN ('step', ?) ORDER BY event"
    for event in look.ledger.stream(sql, (BUDGET,)):
        body = json.loads(event["body"])
        if event["kind"] == BUDGET:
            ends = body["votes"]
            said = describe_budget(body)
            look.notes.append(f"event {event['event']} added votes: the run ends after {said}")
        elif ends is not None and body["total_votes"] > ends:
            problem = f"counts {body['total_votes']} votes where the run ends after {ends}"
            raise Broken("events", event["event"], problem)


def check_end(look: Examination) -> None:
    """Compare the last event with the file's witness; a note where there is no witness."""
    problem, doubt = look.ledger.check_end()
    if problem:
        raise Broken("events", "head", f"{problem}; {witness.remedy(look.ledger.path)}")
    if doubt:
        look.notes.append(doubt)


def find_undecodable(ledger: Ledger) -> Failure | None:
    """Find the first row whose text is not UTF-8; one flipped bit is enough."""
    keys = {**canonical.KEYS, "steps": ("step",), "panelists": ("panelist",)}
    with contextlib.suppress(SzpoError):  # unreadable pages are another failure
        for table, key in keys.items():
            kinds = {c["name"]: c["type"] for c in ledger.query(f"PRAGMA table_info({table})")}
            cells = ", ".join(f"CAST({column} AS BLOB) AS {column}" for column in kinds)
            for row in ledger.query(f"SELECT {cells} FROM {table}"):
                for column, cell in row.items():
                    if kinds[column] == "TEXT" and cell is not None and not _is_utf8(cell):
                        name = ":".join(row[c].decode("utf-8", "backslashreplace") for c in key)
                        return Failure(table, name, f"{column} is no text in UTF-8")
    return None


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True
