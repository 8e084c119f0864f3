"""Any one value or row of the record, changed, deleted, swapped or added: found, and named.

Every column of every table is either covered by `verify` or stands in `EXCLUDED`, with the reason.
"""

import sqlite3

import pytest

from szpo.errors import IntegrityError
from szpo.ledger import canonical, witness
from szpo.ledger.creation import schema
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting.service import VoteService
from tests.support.cases import case
from tests.support.tampering import APPEND_ONLY, CHANGES, forge, other, read, small_run

EXCLUDED = {
    "assignments": ("served_us", "expires_us", "released_us", "tab"),  # how long a seat is held
    "controller": (  # who drives now; epochs are checked against steps and updates
        "run", "lease", "expires_us", "epoch", "paused_by", "pause_reason", "stop_at",
    ),
    "panelists": ("created_us",),
    "credentials": (  # a person's data, erasable without touching the record
        "credential", "panelist", "role", "secret_sha256", "created_us", "expires_us",
        "revoked_us",
    ),
    "contacts": ("panelist", "name"),
    "remarks": ("panelist", "text", "at_us"),
}  # fmt: skip
SOUND = {
    ("controller", "lease"): "lease = 'x:1:y', expires_us = 5",
    ("controller", "expires_us"): "lease = 'x:1:y', expires_us = 7",
    ("controller", "paused_by"): "paused_by = 'ann', pause_reason = 'lunch'",
    ("controller", "pause_reason"): "paused_by = 'bob', pause_reason = 'tea'",
    ("credentials", "role"): "role = 'operator'",
}
"""Changes that the table's own rules allow, where not just any value will do."""
MEANING = {"panelists": ("panelist", "kind", "pseudonym")}
"""In no event's hashes, yet derived again from the seed (ids of simulated panelists)."""


def every_column():
    """(table, column) of the whole schema."""
    conn = sqlite3.connect(":memory:")
    conn.executescript(schema())
    tables = [
        row[0]
        for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not row[0].startswith("sqlite_")
    ]
    found = [(t, row[1]) for t in tables for row in conn.execute(f"PRAGMA table_info({t})")]
    conn.close()
    return found


COLUMNS = every_column()
STEPS = {*CHANGES, "state"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with several rows in every table, also in those outside the record."""
    path = tmp_path_factory.mktemp("original") / "run.db"
    with small_run(path) as ledger:
        who = ledger.query("SELECT panelist FROM panelists LIMIT 1")[0]["panelist"]
        ledger.execute("INSERT INTO contacts VALUES (?, 'Ann')", (who,))
        ledger.execute("INSERT INTO remarks VALUES (?, 'kind', 1)", (who,))
        ledger.execute(
            "INSERT INTO credentials (credential, panelist, role, secret_sha256, created_us, "
            "expires_us, revoked_us) VALUES ('c', ?, 'panelist', 's', 1, 2, 3)",
            (who,),
        )
        for table in {table for table, _ in COLUMNS}:
            assert ledger.query(f"SELECT 1 FROM {table}"), table
        assert verification.verify(ledger).ok
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


@pytest.fixture
def path(original, tmp_path):
    made = tmp_path / "run.db"
    made.write_bytes(original)
    return made


def failure(path):
    """The first failure, or the error that kept the file from opening, as (table, row)."""
    try:
        with Ledger.open(path, readonly=True) as ledger:
            found = verification.verify(ledger).failure
    except IntegrityError as error:
        assert "runs" in str(error)
        return "runs", "run-1"
    return (None, None) if found is None else (found.table, found.row)


def keys(path, table):
    """The keys of a table's rows, as verify names them, with their values."""
    columns, rows = canonical.KEYS.get(table), read(path, f"SELECT * FROM {table}")
    return rows if columns is None else sorted(rows, key=lambda r: [r[c] for c in columns])


def put(path, table, row, **changes):
    """Write a changed row over the one of the old row's key."""
    key = canonical.KEYS[table]
    where = " AND ".join(f"{column} = ?" for column in key)
    names = ", ".join(f"{column} = ?" for column in changes)
    values = [*changes.values(), *(row[column] for column in key)]
    assert forge(path, f"UPDATE {table} SET {names} WHERE {where}", values) == 1


def named(table, *rows):
    """What verify may call a change of these rows."""
    return {(table, canonical.row_key(table, row)) for row in rows}


@pytest.mark.spine
def test_every_column_is_covered_or_excluded_by_name(path, original):
    for table, column in COLUMNS:
        path.write_bytes(original)
        with case(table, column):
            check_cover(path, table, column)


def check_cover(path, table, column):
    rows = keys(path, table)
    row = rows[len(rows) // 2]
    columns = read(path, f"PRAGMA table_info({table})")
    (kind,) = (each["type"] for each in columns if each["name"] == column)
    if column in EXCLUDED.get(table, ()):
        change = SOUND.get((table, column), f"{column} = ?")
        values = [other(row[column], kind)] if change.endswith("?") else []
        assert forge(path, f"UPDATE {table} SET {change}", values)
        assert failure(path) == (None, None)
    elif table == "steps":  # its changes, which take care of its rules, are test_verification's
        assert column in STEPS
    elif table in MEANING:
        changed = "person" if column == "kind" else f"{row[column]}x"
        if column == "panelist":  # with the seats that name it
            old = row["panelist"]
            forge(path, "UPDATE assignments SET panelist = ? WHERE panelist = ?", (changed, old))
        where = "pseudonym = ?"
        forge(path, f"UPDATE {table} SET {column} = ? WHERE {where}", (changed, row["pseudonym"]))
        assert failure(path)[0] in (table, "assignments")
    else:
        changed = other(row[column], kind)
        put(path, table, row, **{column: changed})
        assert failure(path) in named(table, row, {**row, column: changed})


def test_what_a_person_is_called_stands_outside_the_record_and_who_voted_inside(path):
    """A name may be personal: events and votes know people by an id."""
    with Ledger.open(path) as ledger:
        service = VoteService(ledger)
        ann, bob = (service.enroll("person", name) for name in ("Ann", "Bob"))
        with ledger.transaction():
            seat = service.make_seat(ledger.comparisons(0)[0].id, "A", ann, None)
        service.cast(seat.id, "A", idem="a-key-of-16-chars")
    assert forge(path, "UPDATE panelists SET pseudonym = 'Eve' WHERE pseudonym = 'Ann'") == 1
    assert failure(path) == (None, None)
    assert forge(path, "UPDATE panelists SET kind = 'judge' WHERE panelist = ?", (bob,)) == 1
    assert failure(path) == ("panelists", bob)
    forge(path, "UPDATE panelists SET kind = 'person' WHERE panelist = ?", (bob,))
    assert forge(path, "UPDATE assignments SET panelist = ? WHERE panelist = ?", (bob, ann)) == 1
    assert failure(path)[0] == "assignments"


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_any_row_that_is_deleted_is_named(path, table, original):
    rows = keys(path, table)
    where = " AND ".join(f"{column} = ?" for column in canonical.KEYS[table])
    for row in rows[:: max(1, len(rows) // 12)]:
        path.write_bytes(original)
        values = [row[column] for column in canonical.KEYS[table]]
        assert forge(path, f"DELETE FROM {table} WHERE {where}", values) == 1
        assert failure(path) in named(table, row)


@pytest.mark.parametrize("table", [table for table in APPEND_ONLY if table != "runs"])
def test_a_row_that_nobody_recorded_is_named(path, table):
    row = keys(path, table)[-1]
    added = dict(row)
    for column in canonical.KEYS[table]:
        if column != "run":
            added[column] = row[column] + 1 if isinstance(row[column], int) else row[column] + "x"
    for column in ("idem", "row_sha256"):
        if column in added and column not in canonical.KEYS[table]:
            added[column] = "e" * 64
    added |= {
        "votes": {"revision": 100},
        "assignments": {"panelist": "nobody"},
        "comparisons": {"kind": "final"},
    }.get(table, {})  # what their UNIQUE rules allow
    names, marks = ", ".join(added), ", ".join("?" * len(added))
    sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
    assert forge(path, sql, list(added.values())) == 1
    found = failure(path)
    assert found in named(table, added), found


def test_a_closed_steps_row_cannot_be_deleted_without_a_word(path):
    assert forge(path, "DELETE FROM steps WHERE step = 1") == 1
    assert failure(path)[0] in ("steps", "updates", "comparisons", "file")


def test_an_event_that_does_not_follow_from_the_one_before_is_named(path):
    last = keys(path, "events")[-1] | {"prev_sha256": "e" * 64}
    values = (last["prev_sha256"], canonical.event_sha256(last), last["event"])
    forge(path, "UPDATE events SET prev_sha256 = ?, row_sha256 = ? WHERE event = ?", values)
    witness.forget(path)
    assert failure(path) == ("events", str(last["event"]))


def test_steps_of_an_epoch_that_has_not_begun_are_named(path):
    forge(path, "UPDATE controller SET epoch = 0")
    assert failure(path) == ("steps", "0")
