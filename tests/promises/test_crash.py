"""A run killed between any two writes, and resumed, is the same run as an unbroken one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.training import controller
from szpo.training.services import Bounds, Hooks
from szpo.voting import lease
from tests.support.crashing import Crash, CrashingPolicy, Faulty, opened, wrap
from tests.support.quadratic import (
    LAYOUT,
    WIDE,
    Clock,
    QuadraticPolicy,
    ValueJudge,
    history,
    new_ledger,
    panel_of,
    prompts_of,
    settings_of,
)

CASES = {
    "known": (LAYOUT, {"N": 2, "D": 1}, 0, 2),
    "sign": (WIDE, {"N": 1, "D": 1, "rule": "sign", "mu_decay": 0.5, "K": 2}, 0, 2),
    "lag": (LAYOUT, {"N": 1, "D": 1, "M": 2}, 1, 3),
    "skill": (LAYOUT, {"N": 1, "D": 1, "weighting": "skill"}, 0, 3),
}


def drive(ledger, policy, settings, lag, until):
    judge = ValueJudge(skips=0.3)
    controller.run(
        ledger,
        policy,
        panel_of(ledger, judge=judge),
        prompts_of(settings),
        Bounds(until_step=until, lag=lag),
    )


def attempt(path, settings, lag, until, at):
    """One life: crash at the at-th point. Returns True if it came to the end instead."""
    fault = Faulty(at)
    ledger = wrap(opened(path, Clock()), fault)
    try:
        drive(ledger, CrashingPolicy(settings, fault), settings, lag, until)
        return True
    except Crash:
        return False
    finally:
        ledger.close()  # without commit: what was open is rolled back, as after a kill


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "stride"),
    [("known", 3), ("lag", 3), *(pytest.param(c, 1, marks=pytest.mark.slow) for c in CASES)],
)
def test_a_run_killed_at_any_write_resumes_as_the_same_run(tmp_path, case, stride):
    """At every ``stride``-th write in turn."""
    layout, changes, lag, until = CASES[case]
    settings = settings_of(layout, **changes)
    with new_ledger(tmp_path / "unbroken.db", settings) as ledger:
        drive(ledger, QuadraticPolicy(settings), settings, lag, until)
        expected = history(ledger)
        start = tmp_path / "start.db"
    assert len(expected) == until
    new_ledger(start, settings).close()
    content = start.read_bytes()
    at, finished = 1 - stride, False
    while not finished:
        at += stride
        path = tmp_path / "killed.db"
        for rest in tmp_path.glob("killed.db*"):
            rest.unlink()
        path.write_bytes(content)
        finished = attempt(path, settings, lag, until, at)
        clock = Clock(Clock().now + 3_600_000_000)  # the dead controller's lease has run out
        with opened(path, clock) as ledger:
            drive(ledger, QuadraticPolicy(settings), settings, lag, until)
            assert history(ledger) == expected, f"differs when killed at write {at}"
            if at % 10 == 1 or finished:
                assert verification.verify(ledger).ok
            votes = ledger.votes()
            assert len({(v["assignment"], v["revision"]) for v in votes}) == len(votes)
    assert at > 100  # the enumeration did reach every phase


def _forever(path):
    """In a child: say after each step that it is done, and never end."""
    settings = settings_of(N=2, D=1)
    with Ledger.open(path) as ledger:
        controller.run(
            ledger,
            QuadraticPolicy(settings),
            panel_of(ledger),
            prompts_of(settings),
            Bounds(until_step=10**6),
            Hooks(on_step=lambda report: print(report.step, report.theta_sha256, flush=True)),
        )


@pytest.mark.spine
def test_kill_9_loses_no_step_that_was_reported(tmp_path):
    settings = settings_of(N=2, D=1)
    path = tmp_path / "run.db"
    new_ledger(path, settings).close()
    code = (
        "import sys; from pathlib import Path; from tests.promises.test_crash import _forever; "
        "_forever(Path(sys.argv[1]))"
    )
    acked = {}
    for after in (2, 5):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(after):
            step, digest = child.stdout.readline().split()
            acked[int(step)] = digest
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with Ledger.open(path) as ledger:
            stored = {step: theta for step, _, theta in history(ledger)}
            assert acked.items() <= stored.items()
            assert verification.verify(ledger).ok
            # The holder's process is gone, so nobody waits for its lease.
            lease.release(ledger, lease.acquire(ledger))
