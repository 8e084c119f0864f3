"""Checks of a ledger: its file, its rows against each other, and the first row that disagrees.

Tables are read row by row, so memory does not grow with the run.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from szpo.errors import SzpoError
from szpo.ledger import canonical, guided_spans, run_spec, witness
from szpo.ledger.canonical import BASIS, sha256
from szpo.ledger.creation import schema
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import BUDGET
from szpo.ledger.theta import (
    ADOPTED,
    RETURNED,
    START,
    UPDATED,
    WITHDRAWN,
    adopted_digest,
    adopted_tensors,
    stored_tensors,
)
from szpo.optim import parameters
from szpo.optim.optimizer import rule_of
from szpo.replay import replay
from szpo.types import Comparison
from szpo.voting import blind, counting, seats, withdrawals
from szpo.voting.applied_step import OWN_PAIRS
from szpo.voting.recorded_step import read_step, text_digest
from szpo.voting.step_states import asked_pairing, stored

Promise = Literal["exact", "1e-9", "not recomputed"]

_PROMISES: Final[dict[Promise, str]] = {
    "exact": "recomputed from the votes",
    "1e-9": "recomputed from the votes to 1e-9",
    "not recomputed": "not recomputed",
}
LITESTREAM = {"_litestream_lock", "_litestream_seq"}
"""Tables that Litestream adds to a file that it copies; szpo never reads them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a ledger first disagrees with itself: a table, the row's key, and what is wrong."""

    table: str
    row: str
    problem: str

    def __str__(self) -> str:
        return f"{self.table} row {self.row}: {self.problem}"


@dataclass(frozen=True, slots=True)
class StepCheck:
    """One step that agrees with the record, and how exactly its update does.

    ``exact``: recomputed from the votes to the last bit. ``1e-9``: to that relative difference,
    for rules whose arithmetic may round differently on other machines. Weights are always exact.
    """

    step: int
    promise: Promise
    votes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of `verify`: steps that agree, and the first failure if there is one."""

    steps: tuple[StepCheck, ...]
    failure: Failure | None
    rows: int
    """Append-only rows whose hashes were recomputed."""
    head: str = ""
    """The hash of the last event, which covers everything before it."""
    note: str = ""
    """What could not be checked, and what else the reader should know; '' if nothing."""

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees."""
        return self.failure is None

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per step: what was recomputed; none where there are more than 100."""
        return tuple(
            f"step {check.step}: {check.votes} vote{'s' * (check.votes != 1)}, "
            f"update {_PROMISES[check.promise]}"
            for check in (self.steps if len(self.steps) <= 100 else ())
        )

    def __str__(self) -> str:
        if self.failure is not None:
            return f"does not verify: {self.failure}"
        counts = {p: sum(check.promise == p for check in self.steps) for p in _PROMISES}
        found = ", ".join(f"{n} {_PROMISES[p]}" for p, n in counts.items() if n)
        return f"verified: {self.rows} rows, {len(self.steps)} steps ({found or 'none yet'})"


class Broken(Exception):  # noqa: N818
    """A failed check: control flow within a verification, never raised to callers."""

    def __init__(self, table: str, row: object, problem: str):
        super().__init__(problem)
        self.failure = Failure(table, str(row), problem)


@dataclass(slots=True)
class Examination:
    """The state of a verification: its input, and what was found so far."""

    ledger: Ledger
    hashes: sqlite3.Connection
    """A scratch database: per table, the hash that an event recorded for each row."""
    deep: bool = True
    """Whether to recompute updates and weights too."""
    noted_head: str | None = None
    """The hash of an event that the user noted elsewhere; None without one."""
    steps: list[StepCheck] = field(default_factory=list)
    rows: int = 0
    head: str = ""
    notes: list[str] = field(default_factory=list)

    def report(self, failure: Failure | None = None) -> Report:
        """A report of what was found so far; its note is empty if a check failed."""
        note = "; ".join(self.notes) if failure is None else ""
        return Report(tuple(self.steps), failure, self.rows, self.head, note)


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
    if isinstance(base, dict) and base.get("parts") is not None:
        from szpo.models.identity import Identity

        if Identity(base["parts"]).sha256 != row["base_sha256"]:
            raise Broken("runs", ledger.run, "base_sha256 is not the digest of the model's parts")
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
    recorded = list[int]()
    for event in look.ledger.events(ADOPTED):
        body, begun = event["body"], event["body"]["begun"]
        sql = "SELECT count(*) AS steps FROM events WHERE kind = 'step' AND event < ?"
        for steps, at in ((begun["steps"], begun["event"]), (body["steps"], event["event"])):
            if at > event["event"] or steps != look.ledger.query(sql, (at,))[0]["steps"]:
                raise Broken("events", event["event"], f"{steps} steps are not those before it")
        adopted_tensors(look.ledger, body)
        if not body.get("mix"):
            recorded.append(steps)
        elif look.deep:
            if _mix_of(look.ledger, body) != body["theta_sha256"]:
                raise Broken("events", event["event"], "its weights are not the votes' mix then")
            look.notes.append(f"weights adopted after {steps} steps are recomputed, exactly")
    if recorded:
        look.notes.append(
            f"weights adopted after {', '.join(map(str, recorded))} steps are recorded, not "
            "recomputed: they were improved on the taste of the votes before, by gradients of the "
            "model"
        )


def check_spans(look: Examination) -> None:
    """Read what guides directions; no span may have come after an answer along it."""
    ledger = look.ledger
    events = list(ledger.events(guided_spans.SPAN))
    if not events:
        return
    share = run_spec.recorded_settings(ledger).section.guided
    noise, known = float(np.float32(np.sqrt(1 - share))), guided_spans.read(ledger)
    for event, span in zip(events, known, strict=True):
        sql = (
            "SELECT count(*) AS n FROM events WHERE kind = 'generated' AND event < ? "
            "AND json_extract(body, '$.step') >= ?"
        )
        if ledger.query(sql, (event["event"], span.first))[0]["n"]:
            problem = f"it guides step {span.first}, whose answers were drawn before"
            raise Broken("events", event["event"], problem)
        if span.noise != noise:
            raise Broken("events", event["event"], f"noise is not that of a share of {share:g}")
    look.notes.append(
        f"proposals of the votes' taste that guide directions ({len(known)}) are recorded, not "
        "recomputed; every direction and step is"
    )


def _mix_of(ledger: Ledger, body: Mapping[str, Any]) -> str:
    """The digest of the mix that a run's updates had led to."""
    from szpo.policies import subspaces

    held = subspaces.read_recorded(ledger)
    places = replay.improved_from(ledger, held, body["begun"]["steps"], body["number"])
    if UPDATED not in places:
        return ""
    return adopted_digest(parameters.between(places[START], places[UPDATED], 1.0))


def check_returns(look: Examination) -> None:
    """Check that the policy went back to its start where the votes on check pairs say so."""
    due = None
    for steps, checks, body in blind.walk_checks(look.ledger):
        if due is None and body is not None and WITHDRAWN in body:
            out = {each.panelist for each in withdrawals.withdrawals(look.ledger)}
            if body[WITHDRAWN] not in out:
                raise Broken("events", RETURNED, "names nobody who withdrew votes")
        elif body != due:
            raise Broken("events", RETURNED, "does not fit the votes on check pairs")
        against = body is None and checks.against
        due = blind.describe_return(look.ledger, steps, checks) if against else None
    if due is not None:
        raise Broken("events", RETURNED, "is missing, and the votes on check pairs ask it")


def check_budget(look: Examination) -> None:
    """Check that no step counts more votes than the budget had then; note every added budget."""
    ends = (look.ledger.spec.get("config") or {}).get("run", {}).get("votes")
    sql = "SELECT event, kind, body FROM events WHERE kind IN ('step', ?) ORDER BY event"
    for event in look.ledger.stream(sql, (BUDGET,)):
        body = json.loads(event["body"])
        if event["kind"] == BUDGET:
            ends = body["votes"]
            look.notes.append(
                f"event {event['event']} added votes: the run ends after {ends} votes"
            )
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


def check_plans(look: Examination) -> None:
    """Compare the plan of every step with the optimizer's settings in the spec."""
    settings = run_spec.recorded_settings(look.ledger)
    o = settings.section
    wanted = {"pairing": asked_pairing(settings), "d": o.D, "m": o.M, "k": o.K}
    for row in look.ledger.steps():
        if row["n"] != o.N and (not settings.picks_pairs or row["n"] % o.N):
            raise Broken("steps", row["step"], f"n is {row['n']}, the run has {o.N}")
        for name, value in wanted.items():
            if row[name] != value:
                raise Broken("steps", row["step"], f"{name} is {row[name]}, the run has {value}")


def check_seats(look: Examination) -> None:
    """Derive prompt orders and the ids of simulated panelists and their seats from the seed."""
    ledger = look.ledger
    root = ledger.root_seed
    kinds: dict[str, str] = {}
    for panelist in ledger.query("SELECT * FROM panelists"):
        name, kind = panelist["pseudonym"], panelist["kind"]
        kinds[panelist["panelist"]] = kind
        derived = {k: seats.panelist_id(root, k, name) for k in ("simulated", "judge")}
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


def check_votes(look: Examination) -> None:
    """Check the revision, the payload's hash and the lateness of every vote."""
    ledger = look.ledger
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


def check_comparisons(look: Examination) -> None:
    """Check the comparisons of each step, then those that belong to no step."""
    ledger = look.ledger
    for row in ledger.steps():
        _check_step(ledger, row)
    for head in ledger.query("SELECT * FROM comparisons WHERE step IS NULL"):
        comparison = ledger.comparison(head["comparison"])
        if comparison is None or head["kind"] == "train":
            raise Broken("comparisons", head["comparison"], "belongs to no step")
        _check_comparison(comparison, head)


def _check_step(ledger: Ledger, row: Record) -> None:
    """Check that a step has all its comparisons, with the votes that its kind of close needs."""
    comparisons = ledger.comparisons(row["step"], kind=None)
    heads = {
        head["comparison"]: head
        for head in ledger.query("SELECT * FROM comparisons WHERE step = ?", (row["step"],))
    }
    for comparison in comparisons:
        _check_comparison(comparison, heads[comparison.id])
    train = [c for c in comparisons if c.kind == "train"]
    planned = [(k, n) for k in range(row["k"]) for n in range(row["n"])]
    answered = row["state"] in ("open", "closed", "applied")
    if answered and [(c.k, c.n) for c in train] != planned:
        raise Broken("steps", row["step"], "does not have K·N training comparisons")
    for comparison in train:
        if len(comparison.rows) != row["d"]:
            rows = len(comparison.rows)
            raise Broken("comparisons", comparison.id, f"has {rows} rows, D is {row['d']}")
    if row["pairing"] in OWN_PAIRS and train:
        _check_candidates(ledger, row["step"], train)
    if row["closed_by"] == "auto" and not all(c.identical for c in train):
        raise Broken("steps", row["step"], "closed by itself, yet there was something to ask")
    if row["closed_by"] == "rule":
        _check_rule_met(ledger, row, train)


def _check_candidates(ledger: Ledger, step: int, train: Sequence[Comparison]) -> None:
    """Check that each shown answer was a recorded candidate of its row."""
    pool = read_step(ledger, step).body("generated").get("pool")
    candidates = pool.get("candidates") if isinstance(pool, dict) else None
    if not isinstance(candidates, list) or len(candidates) != len(train):
        raise Broken("steps", step, "its candidates are not recorded for each row")
    noted = pool.get("checks", []) if isinstance(pool, dict) else None
    rows = [each.id for each in train]
    if not isinstance(noted, list) or any(each not in rows for each in noted):
        raise Broken("steps", step, "notes a check that is none of its rows")
    for comparison, digests in zip(train, candidates, strict=True):
        if comparison.repeats is not None:
            before = ledger.comparison(comparison.repeats)
            if before is None or before.rows != comparison.rows:
                raise Broken("comparisons", comparison.id, "is not the row that it repeats")
            continue
        texts = [each.text for row in comparison.rows for each in (row.plus, row.minus)]
        if not set(map(text_digest, texts)) <= {*digests}:
            raise Broken("comparisons", comparison.id, "shows a text that was no candidate")


def _check_comparison(comparison: Comparison, head: Record) -> None:
    """Check that a comparison's row fits its answers."""
    if canonical.rows_sha256(comparison.rows) != head["rows_sha256"]:
        raise Broken("comparisons", comparison.id, "rows_sha256 is not that of its answers")
    if comparison.identical != bool(head["identical"]):
        raise Broken("comparisons", comparison.id, "identical does not fit its answers")


def _check_rule_met(ledger: Ledger, row: Record, train: Sequence[Comparison]) -> None:
    """Check that no comparison with a difference lacks a vote, which closed the step."""
    votes = counting.StepVotes(ledger, row["step"])
    for comparison in train:
        if not comparison.identical and (lack := votes.missing_at(comparison.id)):
            raise Broken(
                "steps",
                row["step"],
                f"was closed by its rule, yet comparison {comparison.id} has "
                f"{row['m'] - lack} of {row['m']} votes",
            )


def _check_features(ledger: Ledger) -> None:
    """Check that a run that draws features drew them once, before its first fit."""
    settings = run_spec.recorded_settings(ledger)
    if not (settings.idle or settings.guides):
        return
    order = [
        row["kind"]
        for row in ledger.query(
            "SELECT kind FROM events WHERE kind IN (?, 'regressors') ORDER BY event",
            (run_spec.FEATURES,),
        )
    ]
    if run_spec.FEATURES in order[1:] or (order and order[0] != run_spec.FEATURES):
        raise Broken("events", run_spec.FEATURES, "are not recorded once, before the first fit")


def check_step_events(look: Examination) -> None:
    """Compare the rows of steps, which can be changed, with their chained events."""
    ledger = look.ledger
    _check_features(ledger)
    events: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    settings = run_spec.recorded_settings(ledger)
    fits = rule_of(settings.section.rule).two_points or settings.regressors is not None
    for kind in ("generated", "regressors", "close", "step"):
        events[kind] = {}
        for event in ledger.events(kind):
            events[kind].setdefault(event["body"]["step"], []).append(event["body"])
    for row in ledger.steps():
        number, state, by = row["step"], row["state"], row["closed_by"]
        wanted = {
            "generated": stored(ledger, number),
            "close": by not in (None, "rule"),
            "step": state == "applied",
            "regressors": fits and (state == "applied" or bool(events["regressors"].get(number))),
        }
        for kind, is_wanted in wanted.items():
            found = len(events[kind].get(number, ()))
            if found != is_wanted:
                problem = f"is {state}, closed by {by}; it has {found} events of kind {kind}"
                raise Broken("steps", number, problem)
        for body in events["close"].get(number, ()):
            if body["by"] != by:
                raise Broken("steps", number, f"closed by {by}, its event says {body['by']}")
        for body in events["step"].get(number, ()):
            for name, value in body["row"].items():
                if row[name] != value:
                    problem = f"{name} is {row[name]}, its event says {value}"
                    raise Broken("steps", number, problem)
    epoch = ledger.query("SELECT epoch FROM controller")[0]["epoch"]
    for row in ledger.query("SELECT * FROM steps"):
        if row["run"] != ledger.run:
            raise Broken("steps", row["step"], f"belongs to the run {row['run']}")
        if row["epoch"] > epoch:
            raise Broken("steps", row["step"], f"epoch {row['epoch']} has not begun yet")
