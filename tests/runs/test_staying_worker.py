"""``szpo run --stay`` from outside: what it waits for, what a restart keeps, how it exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.training import summary
from szpo.voting import lease
from tests.support import yard_run


@contextmanager
def staying(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that stays; ended if the test did not end it."""
    command = [sys.executable, "-m", "szpo", *arguments, "--stay"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def until(child: subprocess.Popen[str], text: str) -> str:
    """Read what it says up to the line that holds the text."""
    assert child.stderr is not None
    for line in child.stderr:
        if text in line:
            return line.strip()
    raise AssertionError(f"it never said: {text}")


@pytest.mark.full
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_it_stays_when_finished_and_fulfils_orders_until_a_signal(tmp_path, sent, code):
    with staying(*yard_run.arguments(tmp_path, "run.name=yard", "panel.poll_seconds=0.05")) as run:
        until(run, "finished: 24 of 24 votes spent, a step takes 8; standing by")
        with Ledger.open(tmp_path / "runs" / "yard.db") as ledger:
            number = orders.place_order(ledger, "final", "ann", {"comparisons": 2})
            assert until(run, "order") == f"order {number} by ann: final"
            orders.place_order(ledger, "samples", "ann")
            until(run, "samples")
            assert lease.controller(ledger)["lease"] is not None
            assert summary.summary(ledger).state == "finished", "though its process stands by"
        os.kill(run.pid, sent)
        _, rest = run.communicate()
    assert run.returncode == code, rest
    assert "Continue with: szpo serve" in rest.splitlines()[-1], "whoever stays does so for pages"
    with Ledger.open(tmp_path / "runs" / "yard.db") as ledger:
        first = orders.get(ledger, number)
        # The yard holds one place out, so a comparison has one row.
        assert first.error is None and len(orders.comparisons(first)) == 2
        assert lease.controller(ledger)["lease"] is None and verification.verify(ledger).ok
