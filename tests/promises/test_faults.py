"""What goes wrong around a run: kills, full disks, locked files, jumping clocks, a lost lease."""

import itertools
import os
import resource
import signal
import sqlite3
import sys

import pytest

from szpo.data.prompts import PromptSet
from szpo.errors import LeaseError, StorageError
from szpo.failpoints import arm
from szpo.ledger import orders
from szpo.ledger.database import Ledger, now_us
from szpo.replay import verification
from szpo.runs import samples
from szpo.voting import lease
from szpo.voting.counting import StepVotes
from szpo.voting.service import VoteService
from tests.support import children
from tests.support.crashing import wrap
from tests.support.quadratic import (
    PROMPTS,
    Clock,
    QuadraticPolicy,
    go,
    history,
    new_ledger,
    panel_of,
    parts_of,
    settings_of,
)

SETTINGS = settings_of(N=1, D=1, M=2)


def live(ledger, until=2):
    """One life of the run's process, to its end."""
    return go(SETTINGS, ledger, QuadraticPolicy(SETTINGS), panel_of(ledger), until_step=until)


def opened(path, clock=now_us):
    """Without fsync: a process's death loses nothing that was written, and this is much faster."""
    ledger = Ledger.open(path, clock=clock)
    ledger.execute("PRAGMA synchronous=OFF")
    return ledger


def take_up(path, expected):
    """Go on, later than any lease: one that could not be given back has run out."""
    with opened(path, Clock(now_us() + 10**9)) as ledger:
        live(ledger)
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert history(ledger) == expected
        remaining = [(v["assignment"], v["revision"]) for v in ledger.votes()]
        assert len(set(remaining)) == len(remaining)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A file before its first step, and the history of the run that nothing disturbs."""
    path = tmp_path_factory.mktemp("start") / "run.db"
    new_ledger(path, SETTINGS).close()
    content = path.read_bytes()
    with opened(path) as ledger:
        live(ledger)
        return content, history(ledger)


@pytest.fixture
def path(start, tmp_path):
    """A file before its first step."""
    made = tmp_path / "run.db"
    made.write_bytes(start[0])
    return made


@pytest.fixture
def expected(start):
    return start[1]


def harmed(path, expected, harm, *arguments):
    """Harm a run in a child, where a number says how far on; this process takes it up.

    Yields how it ended, as many times as it did not come to its end.
    """
    content = path.read_bytes()
    for number in itertools.count():
        for rest in path.parent.iterdir():
            rest.unlink()
        path.write_bytes(content)
        ended = children.run(harm, path, number, *arguments)
        take_up(path, expected)
        if ended == 0:
            return
        yield ended


class Fault:
    """Counts a ledger's writing statements; the chosen one is killed, or lacks space."""

    def __init__(self, action, at):
        self.action, self.at, self.seen = action, at, 0

    def __call__(self):
        self.seen += 1
        if self.seen != self.at:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise StorageError("database or disk is full; nothing was stored")


def attempt(path, number, action, stride):
    """One life with a fault at a write. Exits 0 if it came to its end instead."""
    ledger = wrap(opened(path), Fault(action, 1 + stride * number))
    try:
        live(ledger)
    except StorageError as error:
        sys.exit(error.exit_code)
    finally:
        ledger.close()


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("action", "code"), [("kill", children.KILLED), ("full", 4)])
def test_any_one_write_may_be_the_last_or_be_refused(path, expected, action, code, stride):
    """Every ``stride``-th write in turn; after each another process goes on as the same run."""
    ends = list(harmed(path, expected, attempt, action, stride))
    assert set(ends) == {code}
    assert stride * len(ends) > 60  # the enumeration did reach every phase


def limited(path, number):
    """One life in which no file may grow by more than a room that grows with the number."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened(path) as ledger:
        size = max(file.stat().st_size for file in path.parent.iterdir())
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7 * 4096 * number, hard))
        try:
            live(ledger)
        except StorageError as error:
            assert "nothing was stored" in str(error)
            # The same connection works again as soon as there is room.
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            VoteService(ledger).enroll("simulated", "panel-1")
            sys.exit(error.exit_code)


def test_a_file_that_may_not_grow_harms_nothing(path, expected):
    ends = list(harmed(path, expected, limited))
    assert set(ends) == {4} and len(ends) >= 3


def test_a_read_only_file_is_read_and_refuses_writes_in_words(path):
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        with pytest.raises(StorageError, match="readonly database; nothing was stored"):
            VoteService(ledger).enroll("person", "ann")
        with pytest.raises(StorageError, match="nothing was stored"):
            live(ledger)


def test_a_locked_file_ends_the_run_and_it_goes_on_later(path, expected):
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
def test_an_interrupt_at_any_statement_leaves_no_lock_behind(path, word):
    """In a notebook the process lives on, and the panel's wants to write."""
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
def test_a_clock_that_jumps_a_day_changes_no_count(path, expected, jump):
    content = path.read_bytes()

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
        path = path.with_name(f"run-{at}.db")
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


def asleep(path, name):
    """In a child: suspend itself at a named place; exit with the code of what it meets."""
    with arm(f"{name}:stop@1"), opened(path) as ledger:
        try:
            live(ledger)
        except LeaseError as error:
            sys.exit(error.exit_code)


@pytest.mark.parametrize("name", ["cp1", "cp3", "cp9", "cp12"])
def test_a_controller_that_slept_through_its_lease_writes_nothing(path, expected, name):
    """SIGSTOP beyond the lease, another takes over and ends the run, SIGCONT: exit 3."""
    child = suspended(path, name)
    with Ledger.open(path, clock=Clock(lease_end(path) + 1)) as ledger:
        ledger.execute("PRAGMA synchronous=OFF")
        live(ledger)
        assert history(ledger) == expected
        before = [event["row_sha256"] for event in ledger.events()]
        os.kill(child.pid, signal.SIGCONT)
        child.join()
        assert child.exitcode == 3
        assert [event["row_sha256"] for event in ledger.events()] == before
        assert history(ledger) == expected and verification.verify(ledger).ok


@pytest.mark.full
@pytest.mark.parametrize("kind", ["final", "samples"])
def test_a_controller_that_slept_answers_no_order_by_old_weights(path, expected, kind):
    """It was at an order when another took over and moved the weights on: they are not its own."""
    with opened(path) as late, opened(path, Clock(now_us() + 10**12)) as other:
        policy = QuadraticPolicy(SETTINGS)
        go(SETTINGS, late, policy, panel_of(late), until_step=1)
        orders.place_order(late, kind, "ann")
        live(other)
        fulfil = {"final": samples.fulfil_final, "samples": samples.fulfil}[kind]
        prompts = PromptSet(PROMPTS[:20], PROMPTS[20:])
        parts = parts_of(SETTINGS, policy, prompts)
        with pytest.raises(LeaseError, match="another controller has moved this run on"):
            fulfil(late, orders.open_orders(late)[0], parts)
        assert len(orders.open_orders(late)) == 1 and history(late) == expected
        assert not late.query("SELECT 1 FROM comparisons WHERE kind = 'final'")


@pytest.mark.parametrize("name", ["cp5", "cp10"])
def test_a_controller_asleep_within_a_write_locks_the_file_until_killed(path, expected, name):
    """SQLite's write lock is the process's; nobody can take it over, and nothing is half done."""
    child = suspended(path, name)
    with Ledger.open(path, clock=Clock(lease_end(path) + 1)) as ledger:
        ledger.execute("PRAGMA busy_timeout=1")
        with pytest.raises(StorageError, match="locked by another program"):
            live(ledger)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        live(ledger)
        assert history(ledger) == expected and verification.verify(ledger).ok


def suspended(path, name):
    """A controller's process that has stopped itself at a named place."""
    child = children.start(asleep, path, name)
    assert children.stopped(child), "it ended instead of stopping"
    return child


def lease_end(path):
    with Ledger.open(path) as ledger:
        return lease.controller(ledger)["expires_us"]
