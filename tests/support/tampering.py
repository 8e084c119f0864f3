"""Changes to a closed ledger, as somebody with the file could make them."""

import contextlib
import json
import sqlite3

import numpy as np

from szpo.ledger import canonical, witness
from szpo.ledger.canonical import event_sha256, row_key, row_sha256
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting import counting
from szpo.voting.service import VoteService
from tests.support.quadratic import (
    LAYOUT,
    QuadraticPolicy,
    ValueJudge,
    go,
    new_ledger,
    panel_of,
    settings_of,
)

APPEND_ONLY = [*canonical.CHAINED, "events"]


def small_run(path, **changes):
    """A run of two steps with a row in every append-only table."""
    settings = settings_of(**{"N": 2, "M": 2, **changes})
    start = {"theta0/z": np.zeros(4, np.float32)} if settings.layout == LAYOUT else {}
    ledger = new_ledger(path, settings, tensors=start)
    service = VoteService(ledger)
    panel = panel_of(ledger, judge=ValueJudge(skips=0.4))

    def amend_then_continue(report):
        if report.step == 0:
            service.amend(1, "exclude", "a test", "ann")

    policy = QuadraticPolicy(settings)
    go(settings, ledger, policy, panel, until_step=2, on_step=amend_then_continue)
    return ledger


def forge(path, sql, parameters=()):
    """Change a closed ledger as an attacker would: triggers and checks off, then on again."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys=OFF")
        conn.execute("PRAGMA ignore_check_constraints=ON")
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute("BEGIN")
        listing = "SELECT name, sql FROM sqlite_master WHERE type='trigger'"
        triggers = conn.execute(listing).fetchall()
        for name, _ in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        changed = conn.execute(sql, parameters).rowcount
        for _, text in triggers:
            conn.execute(text)
        conn.execute("COMMIT")
    return changed


def read(path, sql):
    """The rows of a query over a closed ledger, as dictionaries."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.row_factory = sqlite3.Row
        return [dict(row) for row in conn.execute(sql)]


def other(value, kind):
    """A value of the column's type that differs as little as possible."""
    if kind == "INTEGER":
        return 1 if value is None else value + 997  # far enough to meet no other row's key
    if kind == "REAL":
        return 1.0 if value is None else float(np.nextafter(value, np.inf))
    if kind == "BLOB":
        return b"\x00" if not value else bytes([value[0] ^ 1]) + value[1:]
    if value is None:
        return "x"
    if value.startswith(("{", "[")):  # still JSON, so that only the hash can tell
        return value + " "
    last = "1" if value[-1:] != "1" else "2"
    return value[:-1] + last


def change_event(path, kind, step, change):
    """Change the body of a step's event of this kind in a closed file; returns its number."""
    rows = read(path, f"SELECT event, body FROM events WHERE kind = '{kind}'")
    bodies = {row["event"]: json.loads(row["body"]) for row in rows}
    (number,) = (event for event, body in bodies.items() if body["step"] == step)
    change(bodies[number])
    body = canonical.canonical(bodies[number])
    forge(path, "UPDATE events SET body = ? WHERE event = ?", (body, number))
    return number


def failure_of(path, deep=True):
    """The first failure that verification finds in a closed file; None if there is none."""
    with Ledger.open(path) as ledger:
        return verification.verify(ledger, deep=deep).failure


def _chain_updates(path):
    """Recompute the chain of updates, and the head from which each step was planned."""
    rows = read(path, "SELECT * FROM updates ORDER BY step, k")
    heads, prev = {}, rows[0]["prev_sha256"] if rows else ""
    for row in rows:
        before, row["prev_sha256"] = row["row_sha256"], prev
        prev = heads[before] = canonical.update_sha256(row)
        if prev != before:
            forge(
                path,
                "UPDATE updates SET prev_sha256 = ?, row_sha256 = ? WHERE step = ? AND k = ?",
                (row["prev_sha256"], prev, row["step"], row["k"]),
            )
    for before, after in heads.items():
        if before != after:
            forge(path, "UPDATE steps SET head_sha256 = ? WHERE head_sha256 = ?", (after, before))


def rewrite(path, *, chained=True):
    """Recompute every hash of the file, as a forger who knows the code would.

    The witness beside the file is removed, as a forger could do as well.
    """
    witness.forget(path)
    if chained:
        _chain_updates(path)
    hashes = {
        (table, row_key(table, row)): row_sha256(table, row)
        for table in canonical.CHAINED
        for row in read(path, f"SELECT * FROM {table}")
    }
    events = read(path, "SELECT * FROM events ORDER BY event")
    prev = events[0]["prev_sha256"]
    for event in events:
        body = json.loads(event["body"])
        if event["kind"] == "rows":
            body["rows"] = [[t, k, hashes.get((t, k), h)] for t, k, h in body["rows"]]
        event |= {"body": canonical.canonical(body), "prev_sha256": prev}
        prev = event["row_sha256"] = event_sha256(event)
        forge(
            path,
            "UPDATE events SET body = ?, prev_sha256 = ?, row_sha256 = ? WHERE event = ?",
            (event["body"], event["prev_sha256"], event["row_sha256"], event["event"]),
        )


def refit(path):
    """Recompute all digests, also those inside rows, then the chain of events."""
    for head in read(path, "SELECT comparison FROM comparisons"):
        texts = read(path, f"SELECT * FROM answers WHERE comparison = '{head['comparison']}'")
        digest = canonical.rows_sha256(map(canonical.row_of, texts))
        forge(path, "UPDATE comparisons SET rows_sha256 = ? WHERE comparison = ?",
              (digest, head["comparison"]))  # fmt: skip
    for vote in read(path, "SELECT * FROM votes"):
        digest = canonical.payload_sha256(
            *(vote[c] for c in ("assignment", "choice", "skip_reason", "dwell_ms", "details"))
        )
        forge(path, "UPDATE votes SET payload_sha256 = ? WHERE vote = ?", (digest, vote["vote"]))
    spec = canonical.sha256(read(path, "SELECT spec FROM runs")[0]["spec"])
    forge(path, "UPDATE runs SET spec_sha256 = ?", (spec,))
    forge(path, "UPDATE events SET prev_sha256 = ? WHERE event = 1", (spec,))
    try:
        with Ledger.open(path, readonly=True) as ledger:
            digests = {
                row["step"]: canonical.votes_sha256(counting.counted(ledger, row["step"]))
                for row in ledger.steps()
            }
            rows, prev = ledger.update_rows(), spec
    except Exception:  # too damaged to be recounted
        rows, digests, prev = [], {}, spec
    for row in rows:
        row |= {"votes_sha256": digests[row["step"]], "prev_sha256": prev}
        prev = row["row_sha256"] = canonical.update_sha256(row)
        names = ("votes_sha256", "prev_sha256", "row_sha256")
        forge(path, "UPDATE updates SET votes_sha256 = ?, prev_sha256 = ?, row_sha256 = ? "
              "WHERE step = ? AND k = ?", [row[n] for n in (*names, "step", "k")])  # fmt: skip
    steps = {row["step"]: row for row in read(path, "SELECT * FROM steps")}
    left = {
        (table, row_key(table, row))
        for table in canonical.CHAINED
        for row in read(path, f"SELECT * FROM {table}")
    }
    for event in read(path, "SELECT * FROM events WHERE kind IN ('step', 'rows')"):
        body = json.loads(event["body"])
        if event["kind"] == "step":
            body["row"] = steps[body["step"]]
            body["votes_sha256"] = digests.get(body["step"], body["votes_sha256"])
        else:
            body = {"rows": [r for r in body["rows"] if (r[0], r[1]) in left]}
        forge(path, "UPDATE events SET body = ? WHERE event = ?",
              (canonical.canonical(body), event["event"]))  # fmt: skip
    rewrite(path)


CHANGES = {
    "run": "'run-2'", "step": "step + 7", "epoch": "epoch + 1", "pairing": "'forward'",
    "mu": "mu * 1.0000000000000002", "n": "n + 1", "d": "d + 1", "m": "m + 1", "k": "k + 1",
    "head_sha256": "replace(head_sha256, substr(head_sha256, 1, 1), 'f')",
    "opened_us": "opened_us + 1", "closed_us": "closed_us - 1",
    "closed_by": "'operator'", "last_vote": "last_vote + 1",
    "last_amendment": "last_amendment + 1", "counted": "json_remove(counted, '$[0]')",
}  # fmt: skip
