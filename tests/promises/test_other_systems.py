"""Windows and macOS, as far as Linux can play them: a child process lacks what they lack.

That szpo runs there is not shown by this: it was not run on either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from szpo import files, locks, memory
from szpo.errors import StorageError
from szpo.voting import lease
from tests.support import yard_run

ABSENT = """
import os, signal, sys
for name in ("resource", "fcntl", "termios", "pwd", "grp", "pty", "syslog"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
for name in ("fork", "forkpty", "getuid", "geteuid", "getgid", "getloadavg", "sysconf", "pread",
             "pwrite", "mkfifo", "killpg", "setsid", "link", "chown", "fchmod", "O_NOFOLLOW",
             "O_DIRECTORY", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGSTOP", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCHLD", "SIGALRM",
             "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
"""What Windows does not have (macOS has most of it)."""


def without(code: str, folder: Path) -> str:
    """Run code in a child whose Python lacks those modules and functions; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"{ABSENT}\n{code}"], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_goes_from_settings_to_verified_without_posix(tmp_path):
    words = yard_run.arguments(tmp_path, "run.name=yard", "run.votes=8")
    path = tmp_path / "runs" / "yard.db"
    commands = [
        ["--help"], ["serve", "--help"], ["invite", "--help"], ["init", "own.toml"],
        [*words, "--plan"], words, ["runs"], ["show", str(path)], ["verify", str(path)],
        ["export", str(path), "--votes", "votes.jsonl"], ["backup", str(path)],
        ["invite", str(path), "--count", "2"], ["doctor", str(path)],
    ]  # fmt: skip
    shown = without(
        "from szpo.cli.app import call\n"
        f"codes = [call(words) for words in {commands!r}]\n"
        "print(codes)",
        tmp_path,
    )
    assert shown.splitlines()[-1].startswith(f"{[0] * (len(commands) - 1)}"[:-1])
    assert "verified: " in shown and "finished: 8 of 8 votes spent" in shown
    assert (tmp_path / "votes.jsonl").stat().st_size and (tmp_path / "own.toml").is_file()
    # What a terminal cannot show is a question mark, no crash.
    done = subprocess.run(
        [sys.executable, "-m", "szpo", "show", str(path)], capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert b"\nhead" in done.stdout and b"?" in done.stdout  # the hat of the estimate


def test_the_web_process_and_the_benchmarks_load_without_posix(tmp_path):
    modules = [
        "szpo_ui.serve", "szpo_ui.web.server", "szpo_ui.web.site",
        "szpo_simulators.study", "szpo_simulators.panels.simulate", "szpo.failpoints",
    ]  # fmt: skip
    shown = without(
        "from importlib import import_module\n"
        f"for name in {modules!r}: import_module(name)\n"
        "from szpo_ui.web.server import raise_file_limit\n"
        "print(raise_file_limit(4096))",
        tmp_path,
    )
    assert shown.strip() == "4096"


def test_folders_are_published_where_a_rename_takes_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.delattr(os, "link")
    rename = os.rename

    def onto_nothing(source: Path, target: Path) -> None:
        if os.path.exists(target):
            raise FileExistsError(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", onto_nothing)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        with files.write_whole(tmp_path / name) as draft:
            draft.mkdir()
            (draft / "a.txt").write_text("whole")
        assert (tmp_path / name / "a.txt").read_text() == "whole"
    with (
        pytest.raises(StorageError, match="new exists"),
        files.write_whole(tmp_path / "new") as draft,
    ):
        pytest.fail("it must not begin")
    with files.write_whole(tmp_path / "a.txt") as draft:
        draft.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_lock_keeps_others_away_until_its_file_is_closed(tmp_path):
    with (tmp_path / "lock").open("a") as one, (tmp_path / "lock").open("a") as other:
        assert locks.try_lock(one.fileno())
        assert not locks.try_lock(other.fileno())
        assert not locks.try_lock(other.fileno(), shared=True)
        one.close()
        assert locks.try_lock(other.fileno(), shared=True)


def test_peak_memory_is_asked_of_psutil_where_there_is_no_resource(monkeypatch):
    peak = type("Info", (), {"peak_wset": 7 * 2**20})
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda process: peak)
    assert memory.peak_bytes() == 7 * 2**20


def test_a_dead_holder_is_recognised_without_signal_0(monkeypatch):
    """There signal 0 is Ctrl-C: the holder would be ended by the question."""
    own = lease.holder_name()
    monkeypatch.setattr(os, "kill", lambda *words: pytest.fail("a signal was sent"))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == os.getpid())
    monkeypatch.setattr(lease, "WINDOWS", True)
    assert not lease.is_gone(own)
    assert lease.is_gone(own.replace(f":{os.getpid()}:", f":{os.getpid() + 1}:"))
