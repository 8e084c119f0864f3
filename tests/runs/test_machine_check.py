"""What the doctor finds of a run: each trap is set, and named."""

import json
import os
import sqlite3
import subprocess
import sys

import psutil
import pytest

from szpo.cli.app import call
from szpo.ledger.database import Ledger
from szpo.runs import doctor
from szpo.voting import lease
from tests.support.quadratic import new_ledger, settings_of


@pytest.fixture
def path(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o700)
    made = tmp_path / "runs" / "run.db"
    new_ledger(made, settings_of()).close()
    return made


def found(path):
    return {check.name: check for check in doctor.examine_file(path)}


def test_a_sound_run_has_no_trap(path):
    checks = found(path)
    names = "permissions disk log drafts pages end versions lease"
    known = dict.fromkeys(names.split(), "ok")
    assert {name: check.status for name, check in checks.items()} == known
    assert "no others recorded" in checks["versions"].text


def test_what_can_be_seen_at_once_is_named(path, monkeypatch):
    for place, mode, before in ((path, 0o640, 0o600), (path.parent, 0o755, 0o700)):
        place.chmod(mode)
        check = found(path)["permissions"]
        assert check.status == "warn" and f"({mode:04o})" in check.text and "chmod" in check.text
        place.chmod(before)
    with Ledger.open(path, clock=lambda: 4_000_000_000_000_000) as ledger:
        ledger.record_event("note", "test", {})
    assert "in the future; a clock was set back" in found(path)["times"].text
    usage = type("Usage", (), {"free": 30 * 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    assert found(path)["disk"].status == "warn"


def test_drafts_of_killed_writers_are_named(path):
    killed = (
        "import sys; from pathlib import Path; from szpo.replay import backup; "
        "here = Path(sys.argv[1]); backup.backup(here, here.with_name('copy.db'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", killed, path], env={**os.environ, "SZPO_FAILPOINT": "cp14:kill"}
    )
    assert ended.returncode != 0
    check = found(path)["drafts"]
    assert check.status == "warn" and ".copy.db." in check.text


def test_a_stale_lease_is_named(path):
    with Ledger.open(path) as ledger:
        held = lease.acquire(ledger)
        assert found(path)["lease"].text.startswith(f"driven by {held.holder}")
        ledger.execute("UPDATE controller SET expires_us = 5")
    assert "ran out" in found(path)["lease"].text
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = lease.holder_name().replace(f":{os.getpid()}:", f":{child.pid}:")
    with Ledger.open(path) as ledger:
        ledger.execute("UPDATE controller SET lease = ?", (dead,))
    check = found(path)["lease"]
    assert check.status == "warn" and "which is gone" in check.text


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"numpy": "1.0", "python": doctor.versions()["python"]}, "numpy 1.0 → "),
        ({"a-library": "3"}, "a-library 3 → missing"),
        (doctor.versions(), "as recorded ("),
    ],
)
def test_other_libraries_than_the_runs_are_named(tmp_path, recorded, words):
    path = tmp_path / "run.db"
    new_ledger(path, settings_of(), spec={"versions": recorded}).close()
    check = found(path)["versions"]
    assert words in check.text and check.status == ("ok" if "as recorded" in words else "warn")


def test_a_library_that_is_missing_is_a_failure_that_names_its_command(monkeypatch):
    (sound,) = doctor._versions(None)
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-library"))
    (check,) = doctor._versions(None)
    assert (sound.status, check.status) == ("ok", "fail")
    assert check.text == f"{sound.text}; install what is missing: pip install no-such-library"


def test_damaged_pages_are_a_failure_that_names_sqlites_recover(path):
    conn = sqlite3.connect(path)
    (root,) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'votes'").fetchone()
    conn.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    check = found(path)["pages"]
    assert check.status == "fail" and f"sqlite3 {path} .recover" in check.text
    path.write_bytes(b"x" * 5000)
    assert found(path)["file"].status == "fail"


@pytest.mark.full
def test_the_command_looks_at_the_run_it_is_given(path, capsys):
    call(["doctor", "run", "--folder", str(path.parent), "--json"])
    names = {check["name"] for check in json.loads(capsys.readouterr().out)}
    assert {"sqlite", "lease", "log", "permissions"} <= names
    capsys.readouterr()
    assert call(["doctor", "absent", "--folder", str(path.parent)]) == 2


@pytest.mark.parametrize(
    ("share", "threads", "words"),
    [
        (3, 4, ""),
        (12, 4, ""),
        (30, 3, "1.2 of 4 cores"),
        (60, 2, "2.4 of 4"),
        (100, 1, "1 thread "),
    ],
)
def test_threads_follow_what_is_free(share, threads, words, monkeypatch):
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: share)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    chosen = [4]
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    look = doctor.leave_busy_cores.__wrapped__
    assert look() == "" and chosen == [4]  # the user has chosen
    monkeypatch.delenv("OMP_NUM_THREADS")
    said = look()
    assert words in said and bool(said) == bool(words) and chosen[-1] == threads
    monkeypatch.setattr(doctor, "load_average", lambda: 5.1)
    assert doctor.describe_load() == "at load 5.1 on 4 cores: faster on a free machine"
    monkeypatch.setattr(doctor, "load_average", lambda: float("nan"))
    assert doctor.describe_load() == ""
