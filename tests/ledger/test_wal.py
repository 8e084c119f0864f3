"""The log beside a ledger's file: folded under the write lock, never grown without a word."""

import itertools
import logging
import sqlite3
import threading

import pytest

from szpo.errors import StorageError
from szpo.ledger import connection
from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support.quadratic import Clock, new_ledger, settings_of


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "CHECKPOINT_BYTES", 100_000)
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        yield found


def write(run, times, size=20_000):
    sizes = []
    for _ in range(times):
        run.record_event("note", "test", {"x": "x" * size})
        sizes.append(connection.log_bytes(run.path))
    return sizes


def test_no_connection_folds_the_log_by_itself(run):
    assert run.query("PRAGMA wal_autocheckpoint")[0]["wal_autocheckpoint"] == 0
    with Ledger.open(run.path, readonly=True) as reader:
        assert reader.query("PRAGMA wal_autocheckpoint")[0]["wal_autocheckpoint"] == 0


def test_the_log_is_folded_as_it_grows_and_starts_again(run):
    sizes = write(run, 50)
    assert max(sizes) < 200_000 and sum(b < a for a, b in itertools.pairwise(sizes)) > 5
    conn = sqlite3.connect(run.path)  # all but the last of them stand in the file itself
    assert conn.execute("SELECT count(*) FROM events").fetchone()[0] == 51
    conn.close()
    assert run.path.stat().st_size > 800_000
    assert verification.verify(run, deep=False).ok


def test_a_checkpoint_holds_the_write_lock(run, monkeypatch):
    """While a checkpoint runs nobody can commit: not even at once, let alone by luck."""
    refused = []
    plain = connection.connect

    def connect(path, *, readonly):
        other = sqlite3.connect(path, isolation_level=None, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
            other.execute("BEGIN IMMEDIATE")
        refused.append(caught.value)
        other.close()
        return plain(path, readonly=readonly)

    monkeypatch.setattr(connection, "connect", connect)
    write(run, 10)
    assert refused


def test_a_long_reader_only_delays_and_is_warned_of_once_per_doubling(run, monkeypatch, caplog):
    monkeypatch.setattr(connection, "LOG_ALARM", 400_000)
    run._checkpointer = connection.Checkpointer(run.path)
    with Ledger.open(run.path, readonly=True) as reader, caplog.at_level(logging.WARNING):
        reader.execute("BEGIN")
        before = reader.query("SELECT count(*) AS n FROM events")
        sizes = write(run, 60)
        assert sizes == sorted(sizes) and 1_700_000 < sizes[-1] < 3_200_000
        assert reader.query("SELECT count(*) AS n FROM events") == before
        reader.execute("COMMIT")
    messages = [r.message for r in caplog.records]
    assert len(messages) == 3, messages
    assert all("holds it open for reading" in line for line in messages)
    assert min(write(run, 10)) < 200_000  # the reader is gone: folded, and its space given back
    assert len(messages) == len(caplog.records)


def test_bytes_that_a_reader_of_the_newest_page_holds_are_not_said_to_be_gone(run):
    write(run, 2)  # not folded yet
    with Ledger.open(run.path, readonly=True) as reader:
        reader.execute("BEGIN")
        reader.query("SELECT count(*) AS n FROM events")
        with pytest.raises(StorageError, match="because a program is reading it"):
            run.empty_log(wait_s=0)
        reader.execute("COMMIT")
    run.empty_log(wait_s=0)


def test_a_checkpoint_that_fails_undoes_no_commit(run, monkeypatch, caplog):
    def refuse(path, *, readonly):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(connection, "connect", refuse)
    with caplog.at_level(logging.WARNING):
        write(run, 10)
    assert "could not be checkpointed (disk I/O error)" in caplog.text
    assert run.query("SELECT count(*) AS n FROM events")[0]["n"] == 11


def test_two_writers_checkpoint_one_log(run):
    """Two doors to one file, as a web process and a controller have: every commit is there."""
    done = []

    def work():
        with Ledger.open(run.path, clock=Clock()) as other:
            done.append(len(write(other, 40)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [40] * 3
    assert run.query("SELECT count(*) AS n FROM events")[0]["n"] == 121
    assert run.query("PRAGMA integrity_check")[0]["integrity_check"] == "ok"
    assert connection.log_bytes(run.path) < 500_000
    assert verification.verify(run, deep=False).ok
