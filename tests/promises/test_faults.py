"""What goes wrong around a run: interrupts between statements, clocks that jump."""

import pytest

from szpo.ledger.database import Ledger
from szpo.replay import verification
from tests.support.quadratic import Clock, history
from tests.support.two_step_run import live, opened, undisturbed


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("start"))


# ---- files that cannot be written, locks, clocks ----


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
