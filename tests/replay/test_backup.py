"""Copies of a run: whole while others write, checked, and what a damaged file still gives."""

import json
import os
import signal
import sqlite3

import pytest

from szpo.cli.app import call
from szpo.errors import IntegrityError, StorageError
from szpo.ledger import canonical, connection
from szpo.ledger.database import Ledger
from szpo.replay import backup, verification
from tests.support import children, voting
from tests.support.quadratic import history
from tests.support.tampering import forge, rewrite, small_run


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.db"
    with small_run(path) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


# ---- backup ----


def test_a_copy_is_the_run_in_one_private_file(run, tmp_path, capsys):
    out = tmp_path / "copy.db"
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {})  # stands in the log only
        report = backup.backup(run, out)
        assert report.ok and report.head == list(ledger.events())[-1]["row_sha256"]
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.db"]
    with Ledger.open(run) as old, Ledger.open(out) as new:
        assert history(old) == history(new)
        assert [e["row_sha256"] for e in old.events()] == [e["row_sha256"] for e in new.events()]
        new.record_event("note", "test", {})  # and a run can go on from it
    with pytest.raises(StorageError, match="already exists"):
        backup.backup(run, out)
    assert call(["backup", str(run)]) == 0
    (made,) = (tmp_path / "backups").iterdir()
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert f"wrote {made}; verified" in capsys.readouterr().out.replace("\n", "")


def test_a_run_that_does_not_verify_is_not_copied(run, tmp_path):
    forge(run, "UPDATE votes SET choice = 'tie' WHERE vote = 2")
    with pytest.raises(IntegrityError, match="no copy was made: does not verify: votes row 2"):
        backup.backup(run, tmp_path / "copy.db")
    assert not [p for p in tmp_path.iterdir() if "copy" in p.name]


def test_two_copies_to_one_place_are_one_copy_and_one_refusal(run, tmp_path, monkeypatch):
    out, plain = tmp_path / "copy.db", verification.verify

    def slow(ledger):
        """Somebody else makes a copy while this one is looked through."""
        monkeypatch.setattr(backup, "verify", plain)
        backup.backup(run, out)
        return plain(ledger)

    monkeypatch.setattr(backup, "verify", slow)
    with pytest.raises(StorageError, match="already exists"):
        backup.backup(run, out)
    with Ledger.open(out, readonly=True) as ledger:
        assert verification.verify(ledger).ok
    assert not list(tmp_path.glob(".copy*"))


def copies_under_load(tmp_path, times):
    """Each copy holds all that was acknowledged before it, nothing twice, and nothing after."""
    path = tmp_path / "run.db"
    seats = voting.ballot(path, 300 + 10 * times, sync=False)
    acks, sending = children.pipe()
    child = children.start(voting.answer, path, seats, [0] * voting.DOORS, sending, 0.02)
    sending.close()
    acked = [0] * voting.DOORS
    try:
        for i in range(times):
            assert acks.poll(60)
            for door, number, _ in voting.read(acks):
                acked[door] = number + 1
            out = tmp_path / f"copy-{i}.db"
            report = backup.backup(path, out)
            assert report.ok
            with Ledger.open(out, readonly=True) as copy:
                found = voting.stored(copy)
                assert copy.query("PRAGMA integrity_check")[0]["integrity_check"] == "ok"
            for door in range(voting.DOORS):
                numbers = sorted(n for d, n in found if d == door)
                assert numbers == list(range(len(numbers))) and len(numbers) >= acked[door]
            out.unlink()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger, deep=False).ok and sum(acked) > times


def test_copies_under_load_are_prefixes_of_what_was_acknowledged(tmp_path):
    copies_under_load(tmp_path, 5)


@pytest.mark.slow
def test_a_hundred_copies_under_load(tmp_path):
    copies_under_load(tmp_path, 100)


# ---- the head ----


@pytest.mark.full
def test_a_chain_rewritten_as_a_whole_is_found_by_a_noted_head(run, capsys):
    assert call(["verify", str(run), "--json"]) == 0
    head = json.loads(capsys.readouterr().out)["head"]
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {})  # the run goes on; the noted head stays in it
        now = verification.verify(ledger).head
    assert head != now
    assert call(["verify", str(run), "--head", head]) == 0
    assert f"head {now}" in capsys.readouterr().out.replace("\n", " ")
    # Somebody renames a panelist's reason and fits every hash again: the file agrees with itself.
    forge(run, "UPDATE amendments SET reason = 'another'")
    rewrite(run)
    assert call(["verify", str(run)]) == 0
    assert call(["verify", str(run), "--head", head]) == 5
    assert "no event has the noted hash" in capsys.readouterr().err.replace("\n", " ")


def test_a_run_cut_back_to_an_earlier_state_is_found_by_a_noted_head(run, tmp_path):
    early = tmp_path / "early.db"
    backup.backup(run, early)
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {})
        head = verification.verify(ledger).head
    with Ledger.open(early) as ledger:
        assert verification.verify(ledger).ok
        failure = verification.verify(ledger, head=head).failure
    assert (failure.table, failure.row) == ("events", "head")


# ---- recover ----


def pages_of(path, name):
    """Numbers (from 1) of the pages of a table or an index."""
    conn = sqlite3.connect(path)
    size = conn.execute("PRAGMA page_size").fetchone()[0]
    root = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    conn.close()
    return size, root[0]


def test_a_sound_file_is_recovered_whole(run, tmp_path):
    found = backup.recover(run, tmp_path / "new.db")
    assert found.report.ok and not found.lost
    with Ledger.open(run) as old, Ledger.open(tmp_path / "new.db") as new:
        assert history(old) == history(new)
        assert verification.verify(new).head == verification.verify(old).head
        new.record_event("note", "test", {})


def test_a_damaged_index_loses_nothing(run, tmp_path, capsys):
    content = bytearray(run.read_bytes())
    size, root = pages_of(run, "events_by_kind")
    content[(root - 1) * size : root * size] = b"\xff" * size
    run.write_bytes(content)
    with Ledger.open(run) as ledger:
        assert not verification.verify(ledger).ok
    assert call(["recover", str(run), "--out", str(tmp_path / "new.db")]) == 0
    assert "verified" in capsys.readouterr().out
    assert run.read_bytes() == content


@pytest.mark.parametrize("table", ["votes", "answers", "events", "assignments"])
def test_what_cannot_be_read_is_named_and_the_rest_stands(run, tmp_path, table, monkeypatch):
    monkeypatch.setattr(backup, "HOLES", 500)
    with Ledger.open(run) as ledger:
        whole = {
            t: len(ledger.query(f"SELECT * FROM {t}")) for t in [*canonical.CHAINED, "events"]
        }
    content = bytearray(run.read_bytes())
    size, root = pages_of(run, table)
    content[(root - 1) * size : root * size] = b"\xff" * size
    run.write_bytes(content)
    found = backup.recover(run, tmp_path / "new.db")
    assert not found.report.ok and run.read_bytes() == content
    for other, count in whole.items():
        if other == table:
            assert found.rows[other] < count
            if table != "events":  # only they know what there was
                assert len(found.lost[other]) == count - found.rows[other]
        else:
            assert found.rows[other] == count, other
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600


def test_rows_between_damaged_pages_are_looked_up_one_by_one(tmp_path):
    path = tmp_path / "run.db"
    voting.ballot(path, 400, sync=False)
    with Ledger.open(path) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = ledger.query("PRAGMA page_size")[0]["page_size"]
    content = bytearray(path.read_bytes())
    leaves = [
        page
        for page in range(len(content) // size)
        if content[page * size] == 13 and b"comparison-00" in content[page * size :][:size]
    ]
    hurt = [leaves[len(leaves) // 3], leaves[2 * len(leaves) // 3]]
    for page in hurt:
        content[page * size : (page + 1) * size] = b"\xff" * size
    path.write_bytes(content)
    found = backup.recover(path, tmp_path / "new.db")
    lost = sum(map(len, found.lost.values()))
    assert 0 < lost < 120, found.lines  # two pages' worth, of 1,200 rows
    assert any("lost: " in line for line in found.lines)


def test_a_file_without_a_readable_beginning_is_refused(run, tmp_path):
    content = run.read_bytes()
    run.write_bytes(b"\xff" * 4096 + content[4096:])
    with pytest.raises((IntegrityError, StorageError)):
        backup.recover(run, tmp_path / "new.db")
    assert [p.name for p in tmp_path.iterdir() if "new" in p.name] == []


@pytest.mark.parametrize(
    ("sql", "lost"),
    [
        ("UPDATE updates SET coef = 9e999, vector = NULL WHERE step = 1", ("run-1:1:0",)),
        ("UPDATE votes SET choice = CAST(x'ff' AS TEXT) WHERE vote = 2", ("2",)),
    ],
)
def test_a_value_that_no_run_writes_is_lost_and_named(run, tmp_path, sql, lost):
    forge(run, sql)
    found = backup.recover(run, tmp_path / "new.db")
    assert list(found.lost.values()) == [lost] and not found.report.ok


def test_the_log_belongs_to_what_is_recovered(run, tmp_path):
    with Ledger.open(run) as ledger:
        ledger.record_event("note", "test", {"late": 1})
        assert connection.log_bytes(run)
        found = backup.recover(run, tmp_path / "new.db")
        assert found.report.head == verification.verify(ledger).head
