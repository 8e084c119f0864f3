"""Faults while a run votes, improves and adopts; after each `verify` holds and nothing is missing.

    python -m pytest -s -m slow tests/promises/test_fault_matrix.py

A run of a policy without a model takes two steps, improves in three, whose state is kept beside
the file, adopts, and is copied. Each fault falls where its number says. Afterwards another process
ends the run: it has every acknowledged vote, and what the undisturbed run comes to.
"""

import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from szpo import background_work, failpoints, files
from szpo.errors import StorageError, SzpoError
from szpo.improvement import between_rounds
from szpo.improvement.policy_gradient import Ascent, Step
from szpo.improvement.policy_search import Begun, Found, Improved
from szpo.ledger import theta
from szpo.ledger.database import Ledger, now_us
from szpo.replay import backup, verification
from szpo.voting import lease, panel_evaluator, withdrawals
from szpo.voting.service import VoteService
from szpo_ui import credentials
from tests.support import children
from tests.support.crashing import wrap
from tests.support.quadratic import (
    Clock,
    QuadraticPolicy,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)

SETTINGS = settings_of(N=1, D=1, M=2)
HOUR, DAY = 3_600_000_000, 86_400_000_000
CONTACT = b"ann@example.org"
WRITES = 125
"""About as many statements that write, and files, has a whole life."""
PLACES = (*(f"cp{i}" for i in range(1, 13)), "cp14", "cp15", "cp16")


def search(
    ledger: Ledger, parts: Any, begun: Begun, *, since: Improved | None, report: Any, **how: Any
) -> Found:
    """In place of `improve_run.search_move`: three steps that the number of each determines."""
    zero = {"layer.lora_B": np.zeros((4, 2), np.float32)}
    state = since or Improved(Ascent(zero), "first", 1.0)
    report(state)
    while not state.stopped:
        background_work.pause()
        n = len(state.at.steps)
        theta = {"layer.lora_B": np.full((4, 2), n + 1, np.float32)}
        step = Step(8, n + 1.0, 0.1, 0.01, 0.1)
        at = replace(state.at, theta=theta, steps=(*state.at.steps, step))
        state = replace(state, at=at, stopped="done" if n == 2 else "")
        report(state)
    body = {
        "begun": {"steps": begun.steps, "event": begun.event}, "guards": [],
        "score": 3.0, "score_before": 0.0, "nats": 0.1, "scale": 1.0, "answers": 24,
        "mix": False,
    }  # fmt: skip
    return Found(state, state.at.theta, body, None)


def live(
    path: Path,
    clock: Callable[[], int] = now_us,
    fault: Callable[[], None] = lambda: None,
    amid: Callable[[], None] = lambda: None,
) -> None:
    """One life to the end; ``amid`` happens while it improves. Acknowledgements go to a file."""
    flush = files.flush

    def flushed(draft: Path) -> None:
        fault()
        flush(draft)
        fault()

    answer, acked = panel_evaluator.answer, path.with_name("acked")

    def acknowledged(service: VoteService, panel: Any, comparisons: Any) -> None:
        answer(service, panel, comparisons)
        acknowledge(service.ledger, acked)

    some = SimpleNamespace
    config = some(
        improve=some(nats=1.0, when="end"), panel=some(kind="people"), features=some(own=()),
        engine=some(is_local=True), guards=some(kl=None), improves=True,
    )  # fmt: skip
    with (
        patch.object(between_rounds, "search_move", search), patch.object(files, "flush", flushed),
        patch.object(panel_evaluator, "answer", acknowledged),
        Ledger.open(path, clock=clock) as ledger,
    ):  # fmt: skip
        ledger.execute("PRAGMA synchronous=OFF")  # no power is lost here
        ledger.execute("PRAGMA busy_timeout=2000")
        wrap(ledger, fault)
        with lease.hold(ledger) as held:
            policy = QuadraticPolicy(SETTINGS)
            outcome = go(SETTINGS, ledger, policy, panel_of(ledger), until_step=2, lease=held)
            parts: Any = some(config=config, language=None)
            it = between_rounds.Improving(ledger, parts, say=lambda _: None)
            with contextlib.closing(it):

                def turn() -> bool:
                    amid()
                    it.wait(0)
                    return True

                it.at_end(outcome, turn)
                acknowledge(ledger, acked)
        if not (copy := path.with_name("copy.db")).exists():
            backup.backup(path, copy)


def acknowledge(ledger: Ledger, acked: Path) -> None:
    """Note all votes and events that are there now."""
    with acked.open("a") as file:
        file.write("".join(f"{each}\n" for each in sorted(told(ledger))))


def told(ledger: Ledger) -> set[str]:
    votes = {f"vote {v['assignment']} {v['choice']}" for v in ledger.votes()}
    return votes | {f"event {event['row_sha256']}" for event in ledger.events()}


def check(path: Path, expected: Any, *, same: bool = True) -> None:
    """End the run long after any lease, and compare with the undisturbed one."""
    live(path, Clock(now_us() + 2 * DAY))
    acked = path.with_name("acked")
    with Ledger.open(path) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        missing = {*acked.read_text().splitlines()} - told(ledger)
        assert not missing, f"acknowledged, not there: {missing}"
        seats = [vote["assignment"] for vote in ledger.votes()]
        assert len({*seats}) == len(seats)
        found = theta.read_adopted(ledger)
        assert found is not None and found.sha256 == expected[1]
        assert len(theta.adopted_bodies(ledger)) == 1
        if same:
            assert history(ledger) == expected[0]
    assert not theta.improving_file(path).exists()


def guarded(path: Path, **how: Any) -> None:
    """A life in a child, which exits as the command would."""
    try:
        live(path, **how)
    except SzpoError as error:
        sys.exit(error.exit_code)
    except OSError:
        sys.exit(4)


def at_write(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """What acts once, at a write of this number."""
    counted = itertools.count(1)
    return lambda: act() if next(counted) == number else None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fill() -> None:
    raise StorageError("database or disk is full; nothing was stored")


def at_place(path: Path, text: str) -> None:
    with failpoints.arm(text):
        guarded(path)


def killed_at_a_place(path: Path, number: int, expected: Any) -> str:
    name = PLACES[number % len(PLACES)]
    hit = 1 + number // len(PLACES) % max(expected[2][name], 1)
    return ended(children.run(at_place, path, f"{name}:kill@{hit}"))


def failing(path: Path, number: int, act: Callable[[], None]) -> None:
    guarded(path, fault=at_write(number, act))


def killed_at_a_write(path: Path, number: int, expected: Any) -> str:
    return ended(children.run(failing, path, 1 + number * 7 % WRITES, die))


def full_at_a_write(path: Path, number: int, expected: Any) -> str:
    return ended(children.run(failing, path, 1 + number * 7 % WRITES, fill))


def powerless(path: Path) -> None:
    os.chdir(path.parent)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    guarded(Path(path.name))


def read_only(path: Path, number: int, expected: Any) -> str:
    """A life is cut off, and the next one may only read."""
    children.run(failing, path, 1 + number * 11 % WRITES, die)
    for each in path.parent.iterdir():
        each.chmod(0o444)
    path.parent.chmod(0o555)
    before = path.read_bytes()
    code = children.run(powerless, path)
    assert path.read_bytes() == before
    path.parent.chmod(0o755)
    for each in path.parent.iterdir():
        each.chmod(0o644)
    return ended(code)


def jumping(path: Path, number: int) -> None:
    jump = (HOUR, -HOUR, DAY, -DAY)[number % 4]
    looks = itertools.count()

    def clock() -> int:
        return now_us() + (jump if 3 * number % 70 <= next(looks) < 3 * number % 70 + 20 else 0)

    guarded(path, clock=clock)


def clock_forth_and_back(path: Path, number: int, expected: Any) -> str:
    return ended(children.run(jumping, path, number))


def two_at_once(path: Path, number: int, expected: Any) -> str:
    both = [children.start(guarded, path) for _ in range(2)]
    for each in both:
        each.join()
    return " and ".join(sorted(ended(each.exitcode) for each in both))


def dozing(path: Path, number: int) -> None:
    if number % 2:
        guarded(path, amid=at_write(1 + number // 2 % 4, sleep))
    else:
        guarded(path, fault=at_write(1 + number * 7 % WRITES, sleep))


def asleep_for_an_hour(path: Path, number: int, expected: Any) -> str:
    """Meanwhile another process takes the run over, unless the sleeper has locked the file."""
    child, other = children.start(dozing, path, number), "the other ended the run"
    if children.stopped(child):
        try:
            live(path, Clock(now_us() + HOUR))
        except StorageError:
            other = "the file was locked"
        os.kill(child.pid, signal.SIGCONT)
    child.join()
    return f"{other}; the sleeper: {ended(child.exitcode)}"


def copied_in_the_middle(path: Path, number: int, expected: Any) -> str:
    child, copy = children.start(dozing, path, 2 * number), path.parent / "copied" / path.name
    copy.parent.mkdir()
    if children.stopped(child):
        shutil.copy(path.with_name("acked"), copy.parent)
        backup.backup(path, copy)
        os.kill(child.pid, signal.SIGCONT)
    child.join()
    if copy.exists():
        check(copy, expected)
    return ended(child.exitcode)


def erasing(path: Path, number: int) -> None:
    """Somebody's verdicts are withdrawn and she is forgotten amid the improvement."""

    def erase() -> None:
        with Ledger.open(path) as other:
            if number % 3 == 0:
                wrap(other, at_write(1 + number % 11, die))
            sql = "SELECT p.pseudonym FROM panelists p JOIN assignments a USING (panelist) LIMIT 1"
            withdrawals.withdraw(other, "op", other.query(sql)[0]["pseudonym"], SETTINGS)
            credentials.erase(other, "ann", "op")

    guarded(path, amid=at_write(1 + number % 4, erase))


def erased_while_improving(path: Path, number: int, expected: Any) -> str:
    code = children.run(erasing, path, number)
    with Ledger.open(path) as ledger:
        gone = any(ledger.events("erase"))
    assert code or (gone and CONTACT not in path.read_bytes())
    return ended(code)


def ended(code: int | None) -> str:
    return {0: "went on to the end", 3: "gave way, exit 3", 4: "refused, exit 4",
            children.KILLED: "killed"}.get(code or 0, f"exit {code}")  # fmt: skip


FAULTS: dict[str, tuple[Callable[[Path, int, Any], str], int]] = {
    "kill -9 at a named place": (killed_at_a_place, 45),
    "kill -9 at a write": (killed_at_a_write, 40),
    "disk full at a write": (full_at_a_write, 35),
    "read-only folder": (read_only, 10),
    "clock an hour or a day off for a while": (clock_forth_and_back, 20),
    "two processes on one run": (two_at_once, 10),
    "asleep for an hour": (asleep_for_an_hour, 16),
    "copied in the middle": (copied_in_the_middle, 12),
    "erasure while improving": (erased_while_improving, 12),
}
"""Each with how often it is tried."""
SHIFTS = ("clock an hour or a day off for a while", "erasure while improving")
"""After these, other votes may count: a seat went to another, or verdicts were withdrawn."""


def undisturbed(folder: Path) -> tuple[Any, ...]:
    """History, digest of the adopted weights, how often each place is passed, file before."""
    path = folder / "run.db"
    new_ledger(path, SETTINGS, spec={"space": {"sites": ["layer"]}}).close()
    with Ledger.open(path) as ledger:
        credentials.invite(ledger, "panelist", "ann", contact=CONTACT.decode())
    content = path.read_bytes()
    hits = {name: failpoints.Armed(name, "raise", 0) for name in PLACES}
    with patch.dict(failpoints._armed, hits):
        live(path)
    with Ledger.open(path) as ledger:
        found = theta.read_adopted(ledger)
        assert found is not None
        counts = {name: each.hits for name, each in hits.items()}
        return history(ledger), found.sha256, counts, content


def run(name: str, number: int, folder: Path, expected: tuple[Any, ...]) -> str:
    """One fault on a run of its own; returns how the process ended that met it."""
    path = folder / "run.db"
    path.write_bytes(expected[3])
    path.with_name("acked").touch()
    outcome = FAULTS[name][0](path, number, expected)
    check(path, expected, same=name not in SHIFTS)
    return outcome


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    children.preload(__name__)
    return undisturbed(tmp_path_factory.mktemp("begun"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_after_each_fault_verify_holds_and_nothing_acknowledged_is_missing(tmp_path, begun, name):
    ends: Counter[str] = Counter()
    for number in range(FAULTS[name][1]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ends[run(name, number, folder, begun)] += 1
    print(f"| {name} | {ends.total()} | {dict(ends)} |")
    if "kill" in name or "disk" in name or "read-only" in name:
        assert len(ends) == 1, "a fault was not met"
