"""What goes wrong around a run: kills, full disks, files that are locked, clocks that jump."""

import itertools
import os
import resource
import signal
import sys

import pytest

from szpo.errors import StorageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting.service import VoteService
from tests.support import children
from tests.support.quadratic import Clock, history
from tests.support.two_step_run import live, opened, take_up, undisturbed


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("start"))


# ---- a disk that is really full ----


def limited(path, room):
    """One life in which no file may grow by more than ``room`` bytes beyond what is there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened(path) as ledger:
        size = max(file.stat().st_size for file in path.parent.iterdir())
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        try:
            live(ledger)
        except StorageError as error:
            assert "nothing was stored" in str(error)
            # The same connection works again as soon as there is room.
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            VoteService(ledger).enroll("simulated", "panel-1")
            sys.exit(error.exit_code)


def test_a_file_that_may_not_grow_harms_nothing(tmp_path, start):
    content, expected = start
    path, refused = tmp_path / "run.db", 0
    for room in itertools.count(0, 7 * 4096):
        for rest in tmp_path.iterdir():
            rest.unlink()
        path.write_bytes(content)
        ended = children.run(limited, path, room)
        assert children.run(take_up, path, expected) == 0, f"room of {room} bytes"
        if ended == 0:
            break
        assert ended == 4
        refused += 1
    assert refused >= 3


# ---- files that cannot be written, locks, clocks ----


def test_a_run_on_a_medium_that_cannot_be_written_is_read(tmp_path, start, monkeypatch):
    """SQLite would make files beside it even to read; a mounted copy has no room for them."""
    path = tmp_path / "run.db"
    path.write_bytes(start[0])
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        assert [p.name for p in tmp_path.iterdir()] == ["run.db"]
        with pytest.raises(StorageError, match="nothing was stored"):
            VoteService(ledger).enroll("person", "ann")
    # With a log beside it there is more than the file holds: that is read as well.
    with opened(path) as writer:
        writer.record_event("note", "test", {})
        with Ledger.open(path, readonly=True) as ledger:
            assert len(list(ledger.events("note"))) == 1


@pytest.mark.parametrize("word", ["BEGIN", "INSERT", "COMMIT"])
def test_an_interrupt_at_any_statement_leaves_no_lock_behind(tmp_path, start, word):
    """In a notebook the process lives on, and the panel's wants to write."""
    path = tmp_path / "run.db"
    path.write_bytes(start[0])
    with opened(path) as ledger, opened(path) as other:
        other.execute("PRAGMA busy_timeout=0")
        plain = ledger.execute

        def execute(sql, parameters=()):
            cursor = plain(sql, parameters)
            if sql.startswith(word):
                raise KeyboardInterrupt
            return cursor

        ledger.execute = execute
        with pytest.raises(KeyboardInterrupt):
            ledger.record_event("note", "test", {})
        ledger.execute = plain
        other.record_event("note", "other", {})
        ledger.record_event("note", "test", {})
        assert verification.verify(ledger).ok
        assert len(list(ledger.events("note"))) == (3 if word == "COMMIT" else 2)


@pytest.mark.full
@pytest.mark.parametrize("jump", [-86_400_000_000, 86_400_000_000])
def test_a_clock_that_jumps_a_day_changes_no_count(tmp_path, start, jump):
    """At every look at the clock in turn."""
    content, expected = start

    class Jumping(Clock):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def __call__(self):
            self.at -= 1
            if self.at == 0:
                self.now += jump
            return super().__call__()

    for at in range(1, 60, 4):
        path = tmp_path / f"run-{at}.db"
        path.write_bytes(content)
        with Ledger.open(path, clock=Jumping(at)) as ledger:
            live(ledger)
            assert history(ledger) == expected, f"jump at look {at}"
            assert verification.verify(ledger).ok
