"""A controller that slept through its lease: it wakes up to a run that is another's."""

import os
import signal
import sys
from pathlib import Path

import pytest

from szpo.data.prompts import PromptSet
from szpo.errors import LeaseError, StorageError
from szpo.failpoints import arm
from szpo.ledger import orders
from szpo.ledger.database import Ledger, now_us
from szpo.replay import verification
from szpo.runs import samples
from szpo.voting import lease
from tests.support import children
from tests.support.quadratic import (
    PROMPTS,
    Clock,
    QuadraticPolicy,
    go,
    history,
    panel_of,
    parts_of,
)
from tests.support.two_step_run import SETTINGS, live, opened, undisturbed

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("start"))


def asleep(path, name):
    """In a child: suspend itself at a named place; exit with the code of what it meets."""
    with arm(f"{name}:stop@1"), opened(path) as ledger:
        try:
            live(ledger)
        except LeaseError as error:
            sys.exit(error.exit_code)


@pytest.mark.parametrize("name", ["cp1", "cp2", "cp3", "cp8", "cp9", "cp11", "cp12"])
def test_a_controller_that_slept_through_its_lease_writes_nothing(tmp_path, start, name):
    """SIGSTOP beyond the lease, another takes over and ends the run, SIGCONT: exit 3."""
    content, expected = start
    path = tmp_path / "run.db"
    path.write_bytes(content)
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


@pytest.mark.parametrize("kind", ["final", "samples"])
def test_a_controller_that_slept_answers_no_order_by_old_weights(tmp_path, start, kind):
    """It was at an order when another took over and moved the weights on: they are not its own."""
    content, expected = start
    path = tmp_path / "run.db"
    path.write_bytes(content)
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


@pytest.mark.parametrize("name", ["cp4", "cp5", "cp7", "cp10"])
def test_a_controller_asleep_within_a_write_locks_the_file_until_it_is_killed(
    tmp_path, start, name
):
    """SQLite's write lock is the process's; nobody can take it over, and nothing is half done."""
    content, expected = start
    path = tmp_path / "run.db"
    path.write_bytes(content)
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
    """A controller's process that has stopped itself at a named place, as the kernel says.

    The forking server is its parent, not we.
    """
    child = children.start(asleep, path, name)
    while True:
        state = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "T":
            return child
        assert state not in "XZ", "it ended instead of stopping"
        os.sched_yield()


def lease_end(path):
    with Ledger.open(path) as ledger:
        return lease.controller(ledger)["expires_us"]
