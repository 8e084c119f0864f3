"""The log beside a ledger's file: it is emptied as it grows, and for an erasure."""

import itertools
import sqlite3
import threading

import pytest

from szpo.errors import StorageError
from szpo.ledger import connection, database
from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support.quadratic import Clock, new_ledger, settings_of


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "LOG_BYTES", 100_000)
    with new_ledger(tmp_path / "run.db", settings_of()) as found:
        yield found


def write(run, times, size=20_000):
    sizes = []
    for _ in range(times):
        run.record_event("note", "test", {"x": "x" * size})
        sizes.append(connection.log_bytes(run.path))
    return sizes


def test_the_log_is_emptied_as_it_grows(run):
    sizes = write(run, 50)
    assert max(sizes) < 200_000 and sum(b < a for a, b in itertools.pairwise(sizes)) > 5
    assert run.path.stat().st_size > 800_000
    assert verification.verify(run, deep=False).ok


def test_a_long_reader_only_delays(run):
    with Ledger.open(run.path, readonly=True) as reader:
        reader.execute("BEGIN")
        before = reader.query("SELECT count(*) AS n FROM events")
        sizes = write(run, 60)
        assert sizes == sorted(sizes) and sizes[-1] > 1_200_000
        assert reader.query("SELECT count(*) AS n FROM events") == before
        reader.execute("COMMIT")
    assert min(write(run, 10)) < 200_000  # the reader is gone: its space is given back


def test_bytes_that_a_reader_of_the_newest_page_holds_are_not_said_to_be_gone(run):
    write(run, 2)  # not emptied yet
    with Ledger.open(run.path, readonly=True) as reader:
        reader.execute("BEGIN")
        reader.query("SELECT count(*) AS n FROM events")
        with pytest.raises(StorageError, match="because a program is reading it"):
            run.empty_log(wait_s=0)
        reader.execute("COMMIT")
    run.empty_log(wait_s=0)
    assert connection.log_bytes(run.path) == 0


def test_a_checkpoint_that_fails_undoes_no_commit(run, monkeypatch):
    plain = run.execute

    def execute(sql, parameters=()):
        if "wal_checkpoint" in sql:
            raise StorageError("disk I/O error")
        return plain(sql, parameters)

    monkeypatch.setattr(run, "execute", execute)
    assert max(write(run, 10)) > 200_000
    assert run.query("SELECT count(*) AS n FROM events")[0]["n"] == 11


def test_a_checkpoint_holds_the_write_lock_where_it_is_free(run):
    """While somebody writes the log is not restarted; else nobody commits meanwhile."""
    write(run, 2)
    other = sqlite3.connect(run.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert not run._truncate_log()
    other.execute("ROLLBACK")
    other.close()
    assert run._truncate_log() and connection.log_bytes(run.path) == 0


def test_two_writers_empty_one_log(run):
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
