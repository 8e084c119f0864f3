"""Re-derive a run from its raw rows and name the first row that disagrees.

Reads only the file: no model, no torch, no clock. In this order: tables and triggers, the chain
of events, every append-only row against the hash its event recorded, what the rows say of each
other, then per step the votes behind the update, and the updates behind the weights.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from szpo.errors import StorageError, SzpoError
from szpo.ledger import canonical, run_spec, witness
from szpo.ledger.canonical import sha256
from szpo.ledger.database import Ledger, Record
from szpo.ledger.rows import BASIS
from szpo.ledger.schema import schema
from szpo.ledger.theta import stored_tensors, theta_digests
from szpo.optim import parameters
from szpo.optim.settings import Settings
from szpo.replay.findings import Broken, Failure, Promise, Report, StepCheck
from szpo.replay.recompute import Recomputation
from szpo.types import Comparison
from szpo.voting import counting, panelists, seats
from szpo.voting.steps import stored


def verify(ledger: Ledger, *, deep: bool = True, head: str | None = None) -> Report:
    """Check a whole ledger; ``deep`` also recomputes every update and all weights.

    ``head`` is the hash of its last event as noted elsewhere, now or earlier: a chain that was
    rewritten as a whole agrees with itself, but not with that.

    >>> Failure("votes", "3", "differs from what was recorded")
    Failure(table='votes', row='3', problem='differs from what was recorded')
    """
    with ledger.snapshot():  # else what is voted meanwhile would seem to be added by hand
        return _verify(ledger, deep, head)


def _verify(ledger: Ledger, deep: bool, head: str | None) -> Report:
    checks: list[StepCheck] = []
    rows, last = 0, ""
    try:
        _schema(ledger)
        with contextlib.closing(sqlite3.connect("")) as recorded:  # on disk, as it may be large
            _chain(ledger, recorded)
            last = _head(ledger, head)
            rows = _hashes(ledger, recorded)
        _pages(ledger)  # after the hashes: they name the row where this names the file
        _header(ledger)
        settings = run_spec.recorded_settings(ledger)
        _seats(ledger)
        _votes(ledger)
        for row in ledger.steps():
            _check_plan(row, settings)
            _questions(ledger, row)
        _apart(ledger)
        _told(ledger)
        checks += _steps(ledger, deep=deep)
        note = _end(ledger)
    except Broken as found:
        return Report(tuple(checks), found.failure, rows, last)
    except sqlite3.OperationalError as error:
        raise StorageError(f"verify: no room for its own table of hashes ({error})") from None
    except (
        SzpoError, ArithmeticError, LookupError, TypeError, ValueError, sqlite3.Error
    ) as error:  # fmt: skip
        failure = _no_text(ledger) or Failure("file", ledger.path.name, str(error))
        return Report(tuple(checks), failure, rows, last)
    return Report(tuple(checks), None, rows, last, note)


# ---- the file, the chain, the rows ----


def _pages(ledger: Ledger) -> None:
    for row in ledger.query("PRAGMA quick_check(1)"):
        if row["quick_check"] != "ok":
            raise Broken("file", ledger.path.name, row["quick_check"])


def _no_text(ledger: Ledger) -> Failure | None:
    """The first row with bytes where UTF-8 should be: one flipped bit makes them of any text."""
    keys = {**canonical.KEYS, "steps": ("step",), "panelists": ("panelist",)}
    with contextlib.suppress(SzpoError):  # pages that cannot be read are another failure
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


def _schema(ledger: Ledger) -> None:
    fresh = sqlite3.connect(":memory:")
    try:
        fresh.executescript(schema())
        # Indexes may come and go with versions; tables and triggers are the promise.
        sql = "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'trigger')"
        wanted = dict(fresh.execute(sql).fetchall())
    finally:
        fresh.close()
    found = {row["name"]: row["sql"] for row in ledger.query(sql)}
    for name, text in wanted.items():
        if _words(found.get(name)) != _words(text):
            raise Broken("sqlite_master", name, "is missing or was changed")


def _words(sql: str | None) -> list[str]:
    """A definition without comments and spacing, which may change between versions."""
    return re.sub(r"--[^\n]*", "", sql or "").split()


def _chain(ledger: Ledger, recorded: sqlite3.Connection) -> None:
    """Check every event, and note the hash that it recorded of each row (table, key, sha256)."""
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


def _head(ledger: Ledger, noted: str | None) -> str:
    """The hash of the last event; the noted one must be that of some event."""
    if noted is not None and not ledger.query(
        "SELECT 1 FROM events WHERE row_sha256 = ?", (noted.strip().lower(),)
    ):
        said = f"no event has the noted hash {noted}: the chain was rewritten, or cut before it"
        raise Broken("events", "head", said)
    found = ledger.query("SELECT row_sha256 FROM events ORDER BY event DESC LIMIT 1")
    return str(found[0]["row_sha256"]) if found else ""


def _end(ledger: Ledger) -> str:
    """Nothing that was acknowledged is missing at the end; a note where that cannot be told."""
    found = ledger.check_end()
    if found.problem:
        raise Broken("events", "head", f"{found.problem}; {witness.remedy(ledger.path)}")
    return found.note


def _hashes(ledger: Ledger, recorded: sqlite3.Connection) -> int:
    """Check every append-only row against the hash that its event recorded; returns their number.

    Keys are unique in both, so where all rows are recorded, equal numbers mean that none is gone.
    """
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
            raise Broken(table, _gone(ledger, recorded, table), "was recorded and is gone")
        count += seen
    return count


def _gone(ledger: Ledger, recorded: sqlite3.Connection, table: str) -> str:
    """The first recorded row, in order of keys, that the table does not have."""
    for row in ledger.stream(f"SELECT * FROM {table}"):
        key = canonical.row_key(table, row)
        recorded.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
    left = recorded.execute(f"SELECT min(key) FROM {table}").fetchone()
    return str(left[0])


def _header(ledger: Ledger) -> None:
    row = ledger.row
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


# ---- what the rows say of each other ----


def _check_plan(row: Record, settings: Settings) -> None:
    wanted = {
        "pairing": settings.pairing,
        "n": settings.N,
        "d": settings.D,
        "m": settings.M,
        "k": settings.K,
    }
    for name, value in wanted.items():
        if row[name] != value:
            raise Broken("steps", row["step"], f"{name} is {row[name]}, the run has {value}")


def _questions(ledger: Ledger, row: Record) -> None:
    comparisons = ledger.comparisons(row["step"], kind=None)
    heads = {
        head["comparison"]: head
        for head in ledger.query("SELECT * FROM comparisons WHERE step = ?", (row["step"],))
    }
    for comparison in comparisons:
        _answered(comparison, heads[comparison.id])
    train = [c for c in comparisons if c.kind == "train"]
    if row["state"] in ("open", "closed", "applied"):
        places = [(c.k, c.n) for c in train]
        if places != [(k, n) for k in range(row["k"]) for n in range(row["n"])]:
            raise Broken("steps", row["step"], "does not have K·N training comparisons")
    for comparison in train:
        if len(comparison.rows) != row["d"]:
            rows = len(comparison.rows)
            raise Broken("comparisons", comparison.id, f"has {rows} rows, D is {row['d']}")
    if row["closed_by"] == "auto" and not all(c.identical for c in train):
        raise Broken("steps", row["step"], "closed by itself, yet there was something to ask")
    if row["closed_by"] == "rule":
        _rule_met(ledger, row, train)


def _answered(comparison: Comparison, head: Record) -> None:
    if canonical.rows_sha256(comparison.rows) != head["rows_sha256"]:
        raise Broken("comparisons", comparison.id, "rows_sha256 is not that of its answers")
    if comparison.identical != bool(head["identical"]):
        raise Broken("comparisons", comparison.id, "identical does not fit its answers")


def _apart(ledger: Ledger) -> None:
    """Comparisons of no step: final, A/A, known and practice ones."""
    for head in ledger.query("SELECT * FROM comparisons WHERE step IS NULL"):
        comparison = ledger.comparison(head["comparison"])
        if comparison is None or head["kind"] == "train":
            raise Broken("comparisons", head["comparison"], "belongs to no step")
        _answered(comparison, head)


def _rule_met(ledger: Ledger, row: Record, train: Sequence[Comparison]) -> None:
    have: dict[str, int] = {}
    for vote in counting.counted(ledger, row["step"]):
        have[vote.comparison] = have.get(vote.comparison, 0) + 1
    for comparison in train:
        if not comparison.identical and have.get(comparison.id, 0) != row["m"]:
            raise Broken(
                "steps",
                row["step"],
                f"was closed by its rule, yet comparison {comparison.id} has "
                f"{have.get(comparison.id, 0)} of {row['m']} votes",
            )


def _told(ledger: Ledger) -> None:
    """Steps against the events that tell of them: steps are mutable, events are chained."""
    events: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for kind in ("generated", "close", "step", "void"):
        events[kind] = {}
        for event in ledger.events(kind):
            events[kind].setdefault(event["body"]["step"], []).append(event["body"])
    for row in ledger.steps():
        number, state, by = row["step"], row["state"], row["closed_by"]
        wanted = {
            "close": by not in (None, "rule"),
            "step": state == "applied",
            "void": state == "void",
        }
        if state != "void":  # a step may be given up before or after its answers came
            wanted["generated"] = stored(ledger, number)
        for kind, is_wanted in wanted.items():
            found = len(events[kind].get(number, ()))
            if found != is_wanted:
                said = f"is {state}, closed by {by}; it has {found} events of kind {kind}"
                raise Broken("steps", number, said)
        for body in events["close"].get(number, ()):
            if body["by"] != by:
                raise Broken("steps", number, f"closed by {by}, its event says {body['by']}")
        for kind in ("step", "void"):
            for body in events[kind].get(number, ()):
                for name, value in body.get("row", {}).items():
                    if row[name] != value:
                        said = f"{name} is {row[name]}, its event says {value}"
                        raise Broken("steps", number, said)
    epoch = ledger.query("SELECT epoch FROM controller")[0]["epoch"]
    for row in ledger.query("SELECT * FROM steps"):
        if row["run"] != ledger.run:
            raise Broken("steps", row["step"], f"belongs to the run {row['run']}")
        if row["epoch"] > epoch:
            raise Broken("steps", row["step"], f"epoch {row['epoch']} has not been yet")


def _seats(ledger: Ledger) -> None:
    """What the seed gives: ids of panelists and seats in this process, orders of prompts."""
    root = ledger.root_seed
    kinds: dict[str, str] = {}
    for panelist in ledger.query("SELECT * FROM panelists"):
        name, kind = panelist["pseudonym"], panelist["kind"]
        kinds[panelist["panelist"]] = kind
        derived = {k: panelists.panelist_id(root, k, name) for k in ("simulated", "judge")}
        if panelist["panelist"] != derived.get(kind, panelist["panelist"]) or (
            kind == "person" and panelist["panelist"] in derived.values()
        ):
            raise Broken("panelists", panelist["panelist"], f"is not the {kind} {name}")
    for seat in ledger.stream(
        "SELECT a.*, c.step, c.k, c.n, (SELECT count(*) FROM answers "
        "WHERE comparison = a.comparison) AS d "
        "FROM assignments a JOIN comparisons c USING (comparison)"
    ):
        if kinds[seat["panelist"]] != "person" and seat["assignment"] != seats.seat_id(
            root, seat, seat["panelist"]
        ):
            raise Broken("assignments", seat["assignment"], "is not the id that the seed gives")
        order = seats.prompt_order(root, seat, seat["panelist"], seat["d"])
        if json.loads(seat["prompt_order"]) != order:
            raise Broken("assignments", seat["assignment"], "prompt_order is not the seed's")


def _votes(ledger: Ledger) -> None:
    closes = {row["step"]: row["last_vote"] for row in ledger.steps()}
    for vote in ledger.stream(
        "SELECT v.*, c.step, (SELECT count(*) FROM votes b WHERE b.assignment = v.assignment "
        "AND b.vote < v.vote) AS before FROM votes v CROSS JOIN assignments a USING (assignment) "
        "CROSS JOIN comparisons c USING (comparison) ORDER BY v.vote"
    ):
        if vote["revision"] != vote["before"]:
            raise Broken("votes", vote["vote"], "its revisions have a gap")
        sent = canonical.payload_sha256(
            *(vote[c] for c in ("assignment", "choice", "skip_reason", "dwell_ms", "details"))
        )
        if vote["payload_sha256"] != sent:
            raise Broken("votes", vote["vote"], "payload_sha256 is not that of the answer")
        last = closes.get(vote["step"])
        if last is not None and bool(vote["late"]) != (vote["vote"] > last):
            raise Broken("votes", vote["vote"], "late does not fit the close of its step")


# ---- votes → updates → weights ----


def _steps(ledger: Ledger, *, deep: bool) -> Iterator[StepCheck]:
    rows_of = _updates(ledger)
    told = {event["body"]["step"]: event["body"] for event in ledger.events("step")}
    fold = Recomputation(ledger) if deep else None
    heads, steps = theta_digests(ledger), ledger.steps()
    done = 0
    for number, step in enumerate(steps):
        if step["step"] != number:
            raise Broken("steps", number, "is missing")
        rows = rows_of.pop(number, [])
        if (step["state"] == "applied") != bool(rows):
            raise Broken("steps", number, f"is {step['state']}, which its updates deny")
        # With lag 1 a step starts from the head before the last one; later heads cannot be.
        prompt = step["head_sha256"] == heads[done]
        follows = number > 0 and steps[number - 1]["state"] == "applied"
        lagging = follows and step["head_sha256"] == heads[done - 1]
        if not prompt and not lagging:
            raise Broken("steps", number, "head_sha256 is not the head it was planned from")
        if fold is not None:
            fold.planned(step, lagging=lagging, prompt=prompt)
        if step["state"] == "void":
            if fold is not None:
                fold.skip()
            yield StepCheck(number, "void", 0)
        elif step["state"] == "applied":
            counted = counting.counted(ledger, number)
            digest = canonical.votes_sha256(counted)
            for row in rows:
                key = canonical.row_key("updates", row)
                if row["votes_sha256"] != digest:
                    raise Broken("updates", key, "votes_sha256 is not that of the counted votes")
                if row["epoch"] != step["epoch"]:
                    raise Broken("steps", number, "epoch is not that of its updates")
            promise: Promise = "not recomputed"
            if fold is not None:
                promise = fold.check(step, rows)
            _figures(number, told[number], rows[-1], len(counted))
            done += 1
            yield StepCheck(number, promise, len(counted))
    for number in rows_of:
        raise Broken("steps", number, "is missing, yet it has updates")


def _updates(ledger: Ledger) -> dict[int, list[Record]]:
    """The rows of `updates` by step; their own chain and their epochs must hold."""
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


def _figures(step: int, body: Mapping[str, Any], row: Record, counted: int) -> None:
    """The event of an applied step names the digests and the votes that its rows have."""
    wanted = {
        "votes": counted,
        "votes_sha256": row["votes_sha256"],
        "theta_sha256": row["theta_sha256"],
    }
    for name, value in wanted.items():
        if body.get(name, value) != value:
            raise Broken("events", f"step {step}", f"{name} is {body[name]}, recorded {value}")
