"""What goes wrong around a run: kills, full disks, files that are locked, clocks that jump."""

import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from szpo.errors import StorageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.voting.counting import StepVotes
from szpo.voting.service import VoteService
from tests.support import children
from tests.support.crashing import wrap
from tests.support.quadratic import Clock, history, new_ledger
from tests.support.two_step_run import SETTINGS, live, opened, take_up, undisturbed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("start"))


# ---- the first write fails, the second, … ----


class Fault:
    """Counts a ledger's writing statements; the chosen one is killed, refused, or lacks space."""

    def __init__(self, action, at):
        self.action, self.at, self.seen = action, at, 0

    def __call__(self):
        self.seen += 1
        if self.seen != self.at:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        words = {"full": "database or disk is full", "broken": "disk I/O error"}
        raise StorageError(f"{words[self.action]}; nothing was stored")


def attempt(path, action, at):
    """One life with a fault at the at-th write. Exits 0 if it came to its end instead, else 4."""
    ledger = wrap(opened(path), Fault(action, at))
    try:
        live(ledger)
    except StorageError as error:
        sys.exit(error.exit_code)
    finally:
        ledger.close()


def kill_at_writes(folder, start, stride):
    """Every ``stride``-th write in turn; after each a fresh process goes on: the same run."""
    content, expected = start
    path = folder / "run.db"
    for at in itertools.count(1, stride):
        for rest in folder.iterdir():
            rest.unlink()
        path.write_bytes(content)
        ended = children.run(attempt, path, "kill", at)
        assert children.run(take_up, path, expected) == 0, f"killed at write {at}"
        if ended == 0:
            break
        assert ended == children.KILLED
    assert at > 60  # the enumeration did reach every phase


def test_a_process_killed_at_a_write_is_taken_up_by_another(tmp_path, start):
    kill_at_writes(tmp_path, start, 5)


@pytest.mark.slow
def test_a_process_killed_at_any_write_is_taken_up_by_another(tmp_path, start):
    kill_at_writes(tmp_path, start, 1)


@pytest.mark.full
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ["full", "broken"])
def test_any_one_write_may_be_refused(tmp_path, start, action, stride):
    """Every ``stride``-th write in turn; the run ends with code 4, and goes on as the same run."""
    content, expected = start
    path = tmp_path / "run.db"
    for at in itertools.count(1, stride):
        for rest in tmp_path.iterdir():
            rest.unlink()
        path.write_bytes(content)
        try:
            attempt(path, action, at)
        except SystemExit as ended:
            assert ended.code == 4
        else:
            break
        take_up(path, expected)
    assert at > 60


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


TMPFS = """
set -e
mount -t tmpfs -o size=2m,mode=700 tmpfs "$1"
"$2" -c "import sys; sys.path.insert(0, '$3')
from tests.promises import test_faults; test_faults.full('$1')"
"""


def full(folder):
    """In a file system of 2 MB: answer until it is full, make room, go on; nothing is lost."""
    path = Path(folder) / "run.db"
    new_ledger(path, SETTINGS).close()
    ballast = Path(folder) / "ballast"
    ballast.write_bytes(b"x" * 1_200_000)
    with Ledger.open(path) as ledger:
        service, acked = VoteService(ledger), []
        for i in range(100_000):
            try:
                service.enroll("person", f"p{i}")
            except StorageError as error:
                refusal = str(error)
                break
            acked.append(f"p{i}")
        ballast.unlink()
        service.enroll("person", "after")
        live(ledger)
        assert [row["pseudonym"] for row in service.panelists()][: len(acked)] == acked
        report = verification.verify(ledger)
        assert report.ok, str(report)
    print(f"full after {len(acked)}: {refusal}")


def test_a_small_file_system_that_is_full(tmp_path):
    """In a name space of its own; where that is not permitted the limit above stands for it."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", TMPFS, "sh"]
    probe = subprocess.run(
        [*command[:3], "mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True
    )
    if probe.returncode:
        print("mounting is not permitted here: a full disk is tested by RLIMIT_FSIZE alone")
        return
    done = subprocess.run(
        [*command, str(place), sys.executable, str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "full after" in done.stdout
    assert "database or disk is full; nothing was stored" in done.stdout


# ---- files that cannot be written, locks, clocks ----


def test_a_read_only_file_is_read_and_refuses_writes_in_words(tmp_path, start):
    path = tmp_path / "run.db"
    path.write_bytes(start[0])
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        with pytest.raises(StorageError, match="readonly database; nothing was stored"):
            VoteService(ledger).enroll("person", "ann")
        with pytest.raises(StorageError, match="nothing was stored"):
            live(ledger)


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


def test_a_locked_file_ends_the_run_and_it_goes_on_later(tmp_path, start):
    content, expected = start
    path = tmp_path / "run.db"
    path.write_bytes(content)
    with opened(path) as ledger:
        live(ledger, until=1)
        ledger.execute("PRAGMA busy_timeout=1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked by another program") as caught:
            live(ledger)
        assert caught.value.exit_code == 4
        other.execute("ROLLBACK")
        other.close()
        live(ledger)
        assert history(ledger) == expected and verification.verify(ledger).ok


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

    counts, others = None, []
    for at in range(1, 60, 2):
        path = tmp_path / f"run-{at}.db"
        path.write_bytes(content)
        with Ledger.open(path, clock=Jumping(at)) as ledger:
            live(ledger)
            found = [len(StepVotes(ledger, step).counted) for step in (0, 1)]
            counts = counts or found
            assert found == counts, f"jump at look {at}"
            if history(ledger) != expected:
                others.append(at)
                # Somebody held a seat, which went to another as well: both answers are there.
                assert len({vote["assignment"] for vote in ledger.votes()}) == sum(counts) + 1
            assert len(ledger.votes()) == sum(counts) + (at in others)
            assert verification.verify(ledger).ok
    assert len(others) == 2  # once in each step
