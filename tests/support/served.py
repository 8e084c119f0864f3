"""``szpo serve`` in its own process, and commands that are refused."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from szpo.cli.app import call

ROOT = Path(__file__).parents[2]


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The one line of a refused command of the web process, which ends with this exit code."""
    capsys.readouterr()
    assert call(words) == code
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: ")
    return message.removeprefix("error: ").strip()


def words(sets: Iterable[str]) -> list[str]:
    """Settings as arguments of the command line."""
    return [word for each in sets for word in ("--set", each)]


class Served:
    """A server that has printed its links; ``python``: further options of the interpreter."""

    def __init__(self, *words: str, python: tuple[str, ...] = ()):
        self.child = subprocess.Popen(
            [sys.executable, *python, "-m", "szpo", "serve", *words, "--port", "0"],
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        message: list[str] = []
        self.early: dict[str, Any] = {}
        """Content of the first page while the run was being set up."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            message.append(line)
            if "how far it is: " in line:
                page = line.split()[-1]
                self.early = httpx.get(f"{page}/setup-status", timeout=10).json()
            if ("your link as a panelist" if "--demo" in words else "operator's link (") in line:
                break
        self.message = "".join(message)
        found = re.search(r"operator's link .*: (http://[\d.:]+)/login#t=(\S+)", self.message)
        if found is None:
            self.child.kill()
            pytest.fail(self.message[-2000:])
        self.url, self.token = found[1], found[2]
        self.link = f"{self.url}/login#t={self.token}"
        self._drain = threading.Thread(target=self.child.stderr.read, daemon=True)
        self._drain.start()

    def end(self, by: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, by default that of Ctrl-C; returns the exit code."""
        self.child.send_signal(by)
        return self.child.wait(60)

    def close(self) -> None:
        """End the process, even if the test failed."""
        if self.child.poll() is None:
            self.child.terminate()
            self.child.wait(60)
        self._drain.join()
        assert self.child.stderr is not None
        self.child.stderr.close()
