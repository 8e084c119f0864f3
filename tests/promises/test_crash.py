"""A run killed between any two writes, and resumed, is the same run as an unbroken one."""

import os
import re
import signal
from collections import Counter

import pytest

from szpo import failpoints, seeds
from szpo.analysis import vote_export
from szpo.errors import StorageError
from szpo.failpoints import POINTS, InjectedError, arm
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta
from szpo.replay import verification
from szpo.voting import lease
from tests.support import children
from tests.support.named_run import adoption
from tests.support.quadratic import (
    LAYOUT,
    WIDE,
    QuadraticPolicy,
    ValueJudge,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)


def _forever(path, told):
    """In a child: say after each step that it is done, and never end."""
    settings = settings_of(N=2, D=1)
    with Ledger.open(path) as ledger:
        go(
            settings, ledger, QuadraticPolicy(settings), until_step=10**6,
            on_step=lambda report: told.send((report.step, report.theta_sha256)),
        )  # fmt: skip


@pytest.mark.spine
def test_kill_9_loses_no_step_that_was_reported(tmp_path):
    settings = settings_of(N=2, D=1)
    path = tmp_path / "run.db"
    new_ledger(path, settings).close()
    hearing, telling = children.pipe()
    child = children.start(_forever, path, telling)
    acked = dict(hearing.recv() for _ in range(5))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with Ledger.open(path) as ledger:
        stored = {step: theta for step, _, theta in history(ledger)}
        assert acked.items() <= stored.items()
        assert verification.verify(ledger).ok
        # The holder's process is gone, so nobody waits for its lease.
        lease.release(ledger, lease.acquire(ledger))


SHAPES = (
    (LAYOUT, {"N": 2, "D": 1, "M": 2}, 0),
    (WIDE, {"N": 2, "D": 1, "rule": "sign", "horizon": 9.0, "K": 2}, 1),
    (LAYOUT, {"N": 1, "D": 2, "M": 2, "rule": "known"}, 1),
)


def shape(seed):
    layout, changes, lag = SHAPES[seed % len(SHAPES)]
    return settings_of(layout, root_seed=1000 + seed, **changes), lag


def live(path, seed, until=3):
    """One life of the run's process: drive it to the end, export its votes, say the promises."""
    settings, lag = shape(seed)
    with Ledger.open(path) as ledger:
        # A process's death loses nothing that was written, synced or not; this is much faster.
        ledger.execute("PRAGMA synchronous=OFF")
        panel = panel_of(ledger, 8, judge=ValueJudge(skips=0.2))
        go(settings, ledger, QuadraticPolicy(settings), panel, until_step=until, lag=lag)
        if theta.last_adopted(ledger) is None:
            theta.append_adopted(ledger, starting_theta(ledger), adoption(ledger, until))
        if not (out := path.with_suffix(".jsonl")).exists():
            vote_export.write_votes(ledger, out)


def answers(ledger):
    return sorted((v["assignment"], v["revision"], v["choice"]) for v in ledger.votes())


def killed_life(path, seed, text):
    with arm(text):
        live(path, seed)


def take_up(path, seed, expected):
    """Resume, verify, and compare with the undisturbed run."""
    live(path, seed)
    with Ledger.open(path) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        assert history(ledger) == expected[0]
        remaining = answers(ledger)
        assert remaining == expected[1] and len(set(remaining)) == len(remaining)
        assert [body["number"] for body in theta.adopted_bodies(ledger)] == [0]
        assert Counter(row["state"] for row in ledger.steps())["applied"] == 3
    lines = path.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == len(remaining)
    assert {p.name for p in path.parent.glob(f"{path.stem}.*")} <= {
        path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-head",
        f"{path.stem}.jsonl",
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Per seed: how often each place is passed, what the run comes to, and its file before."""
    known = {}

    def find(seed):
        if seed not in known:
            path = tmp_path_factory.mktemp("whole") / "run.db"
            new_ledger(path, shape(seed)[0]).close()
            start = path.read_bytes()
            hits = {name: failpoints.Armed(name, "raise", 0) for name in POINTS}
            failpoints._armed.update(hits)
            try:
                live(path, seed)
            finally:
                failpoints._armed.clear()
            with Ledger.open(path) as ledger:
                counts = {name: armed.hits for name, armed in hits.items()}
                known[seed] = counts, (history(ledger), answers(ledger)), start
        return known[seed]

    return find


@pytest.mark.parametrize(("number", "name"), list(enumerate(POINTS)))
def test_killed_at_a_named_place(tmp_path, undisturbed, number, name):
    seed = number % len(SHAPES)
    hits, expected, start = undisturbed(seed)
    assert hits[name], f"no run passes {name}: {POINTS[name]}"
    at = 1 + seeds.integer(seeds.derive(seed, "kill", name=name), 0, hits[name])
    path = tmp_path / "run.db"
    path.write_bytes(start)
    assert children.run(killed_life, path, seed, f"{name}:kill@{at}") == children.KILLED
    take_up(path, seed, expected)


@pytest.mark.full
@pytest.mark.parametrize("action", [pytest.param("raise", marks=pytest.mark.slow), "enospc"])
@pytest.mark.parametrize("name", POINTS)
def test_an_error_at_a_named_place_ends_the_run_and_harms_none(
    tmp_path, undisturbed, name, action
):
    path = tmp_path / "run.db"
    path.write_bytes(undisturbed(0)[2])
    message = re.escape(f"{name}: {POINTS[name]}") if action == "raise" else "No space left"
    errors = InjectedError, OSError, StorageError
    with pytest.raises(errors, match=message), arm(f"{name}:{action}"):
        live(path, 0)
    take_up(path, 0, undisturbed(0)[1])
